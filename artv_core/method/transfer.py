"""Copying from main memory to a device without waiting for the device's queued work."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """`tensor` on `device`, converted to `dtype` if that is given. Not in the paper.

    A copy from pageable memory makes the program wait until the GPU is idle. So a tensor goes to a CUDA device through
    pinned memory, which torch keeps until the copy is done.
    """
    queued = queues_work(device)
    if queued and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    moved = tensor.to(device, non_blocking=queued)
    return moved if dtype is None else moved.to(dtype)


def queues_work(device: torch.device) -> bool:
    """Whether the device computes while the program continues."""
    return device.type == "cuda"
