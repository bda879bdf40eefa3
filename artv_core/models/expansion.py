"""One batch for all guidance branches, in which shared work is done only once. Not in the paper."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Expansion:
    """How a batch grows inside the UNet: first [B], one entry for each video; then [E * B], one for each video and pair
    of noise levels; then [K * B], one for each video and guidance branch. All are branch-major.

    `videos` is B. `levels[k]`, from 0 to E - 1, is the pair of noise levels of branch k.
    """

    videos: int
    levels: tuple[int, ...]

    def expand(self, x: Tensor, entries: int) -> Tensor:
        """Copy the entries of x [n, ...] to a batch of `entries`, which is one of B, E * B and K * B, and at least
        n."""
        if x.shape[0] == entries:
            return x
        shared = x.chunk(x.shape[0] // self.videos)
        if len(shared) == 1:
            return torch.cat(shared * (entries // self.videos))
        return torch.cat([shared[level] for level in self.levels])

    def full(self, x: Tensor) -> Tensor:
        """Expand x to one entry for each video and branch, [K * B, ...]."""
        return self.expand(x, self.videos * len(self.levels))


def matched(x: Tensor, y: Tensor, expansion: Expansion | None) -> tuple[Tensor, Tensor]:
    """Expand the smaller batch to the size of the larger one. Without an expansion, both stay unchanged."""
    if expansion is None:
        return x, y
    entries = max(x.shape[0], y.shape[0])
    return expansion.expand(x, entries), expansion.expand(y, entries)
