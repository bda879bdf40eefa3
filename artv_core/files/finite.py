"""Checks for values that are infinite or not a number. Such values end a run and are never written to a file.

Not in the paper.
"""

from typing import Any

import torch
from torch import Tensor


class NotFiniteError(ValueError):
    """A frame contains values that are infinite or not a number."""

    def __init__(self, index: int) -> None:
        """`index` is the index of the frame."""
        self.index = index
        super().__init__(
            f"frame {index} contains values that are infinite or not a number (NaN), so it cannot be shown: the "
            "checkpoint or a LoRA may be damaged, or need more range than float16 has; try bfloat16, float32 or "
            "another file"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """So that a worker process can hand the error to the one that waits for it."""
        return type(self), (self.index,)


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite numbers. Waits until the tensor's device has computed them."""
    if tensor.is_floating_point() and tensor.dtype.itemsize == 1:
        tensor = tensor.half()  # torch.aminmax does not take 8-bit floats
    return not tensor.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())
