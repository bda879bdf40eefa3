"""Values that are infinite or not a number: they end a run, and are never written to a file. Not in the paper."""

import torch
from torch import Tensor


class NotFiniteError(ValueError):
    """A frame holds values that are infinite or not a number."""

    def __init__(self, index: int) -> None:
        """`index` is the frame's."""
        super().__init__(
            f"frame {index} holds values that are infinite or not a number (NaN), so there is nothing to see: the "
            "checkpoint or a LoRA may be damaged, or float16 too small for it; try bfloat16, float32 or another file"
        )


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are numbers and finite. Waits for the tensor's device."""
    if tensor.is_floating_point() and tensor.dtype.itemsize == 1:
        tensor = tensor.half()  # 8-bit floats have no least and greatest
    return not tensor.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())
