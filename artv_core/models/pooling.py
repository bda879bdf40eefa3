"""Average pooling that also works where a device's own is missing or wrong: on Apple GPUs (MPS). Not in the paper."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pooled_to(x: Tensor, grid: int) -> Tensor:
    """[B, C, h, w] -> [B, C, grid, grid], as `adaptive_avg_pool2d`. MPS has that only for sides that divide evenly."""
    if x.device.type != "mps" or all(side % grid == 0 for side in x.shape[2:]):
        return F.adaptive_avg_pool2d(x, grid)
    return averaged_to(x, grid)


def halved(x: Tensor) -> Tensor:
    """[B, C, h, w] -> half that size, rounded up: means of 2x2 cells, at an odd border of those that are there. MPS
    gives other numbers there in PyTorch before 2.9."""
    return halved_padded(x) if x.device.type == "mps" else F.avg_pool2d(x, kernel_size=2, ceil_mode=True)


def averaged_to(x: Tensor, grid: int) -> Tensor:
    """As `adaptive_avg_pool2d`, by two products with matrices."""
    rows, columns = (_averages(side, grid).to(x) for side in x.shape[2:])
    return rows @ x @ columns.mT


def halved_padded(x: Tensor) -> Tensor:
    """As `avg_pool2d` with `ceil_mode`, for sides of any length: an odd border counts twice."""
    bottom, right = (side % 2 for side in x.shape[2:])
    return F.avg_pool2d(F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x, kernel_size=2)


def _averages(side: int, grid: int) -> Tensor:
    """[grid, side]: row k averages the cells from k * side / grid, rounded down, to (k + 1) * side / grid, rounded
    up."""
    weights = torch.zeros(grid, side)
    for k in range(grid):
        first, end = k * side // grid, -(-(k + 1) * side // grid)
        weights[k, first:end] = 1 / (end - first)
    return weights
