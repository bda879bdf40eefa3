"""Error recycling: a bank of the networks' own recent errors, which training adds to references and anchor, so that the
model learns to go on from frames like its own. It costs no evaluation of a network. After Stable Video Infinity (Li et
al. 2025, arXiv 2510.09212), which trains a LoRA this way and has a bank for each noise level. Not in the ART-V paper.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import interpolate

NONE = -1.0
"""A pick that takes no error."""


class ErrorBank(nn.Module):
    """The last `size` errors of predicted latents, [C, h, w] each, of frames that had references. A new error replaces
    the oldest. It is part of a run's state. If several processes train together, each keeps the errors of all, so that
    they have the same bank. Nothing in here waits for the device."""

    errors: Tensor
    written: Tensor

    def __init__(self, size: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size
        # The last row takes what is not kept, because a shape that depends on numbers would make the host wait.
        self.register_buffer("errors", torch.zeros(size + 1, *shape))
        self.register_buffer("written", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def put(self, errors: Tensor, kept: Tensor) -> None:
        """Add the errors [B, C, h, w] of the samples whose `kept` [B] is 1, scaled to the bank's size if they have
        another. All processes must call this together, with the same B."""
        fitting, kept = _of_all(_resized(errors.float(), self.errors)), _of_all(kept.int()).bool()
        rows = (self.written + kept.cumsum(0) - 1) % self.size
        rows = torch.where(kept, rows, self.size)
        self.errors.index_copy_(0, rows, fitting * kept[:, None, None, None])
        self.written.add_(kept.sum())

    def picked(self, picks: Tensor, like: Tensor) -> Tensor:
        """Errors [B, C, h, w] of the size of `like`. `picks` [B] are places in the bank, from 0 to below 1, or `NONE`:
        then the error is zero, as it is while the bank is empty."""
        filled = self.written.clamp(max=self.size)
        rows = (picks.clamp(min=0) * filled).long()
        errors = self.errors[rows] * (picks >= 0)[:, None, None, None]
        return _resized(errors, like).to(like.dtype)


def _resized(errors: Tensor, like: Tensor) -> Tensor:
    if errors.shape[-2:] == like.shape[-2:]:
        return errors
    return interpolate(errors, size=like.shape[-2:], mode="nearest")


def _of_all(mine: Tensor) -> Tensor:
    """The tensors of all processes one after another, the first process's first."""
    if mine.is_meta or not dist.is_initialized() or dist.get_world_size() == 1:
        return mine
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine.contiguous())
    return torch.cat(parts)
