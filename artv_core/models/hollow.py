"""Networks without numbers, as shapes to compare with, or to be filled from a file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_RANDOM = {nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_, Tensor.uniform_, Tensor.normal_}


@contextmanager
def hollow() -> Iterator[None]:
    """Networks that are built within are on the meta device: they have shapes and no memory."""
    with torch.device("meta"), _NoRandomNumbers():
        yield


class _NoRandomNumbers(TorchFunctionMode):
    """Leaves out random initial values. On the meta device PyTorch would compute their shapes in Python, which takes
    longer than all else about a layer."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _RANDOM:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
