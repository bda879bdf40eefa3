"""From main memory to a device without waiting for the work that the device still has to do."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """`tensor` on `device`, and in `dtype` where one is named.

    A copy from pageable memory makes the program wait until a GPU is idle. So on its way to a CUDA device a tensor
    passes through pinned memory, which torch keeps until the copy is done. Not in the paper.
    """
    queued = queues_work(device)
    if queued and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    moved = tensor.to(device, non_blocking=queued)
    return moved if dtype is None else moved.to(dtype)


def queues_work(device: torch.device) -> bool:
    """Whether the program goes on while the device computes."""
    return device.type == "cuda"
