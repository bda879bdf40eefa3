"""One batch for all guidance branches, in which what several of them share is computed once. Ours."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Expansion:
    """How a batch grows on its way through the UNet: from [B], one entry for each video, over [E * B], one for each
    pair of noise levels besides, to [K * B], one for each guidance branch. All are branch-major.

    `videos` is B; `levels[k]`, of E values from 0 on, is the pair that branch k has.
    """

    videos: int
    levels: tuple[int, ...]

    def expand(self, x: Tensor, entries: int) -> Tensor:
        """x with `entries` entries, each a copy of the one that it comes from; they must be one of the three numbers,
        and not fewer than x has."""
        if x.shape[0] == entries:
            return x
        shared = x.chunk(x.shape[0] // self.videos)
        if len(shared) == 1:
            return torch.cat(shared * (entries // self.videos))
        return torch.cat([shared[level] for level in self.levels])

    def full(self, x: Tensor) -> Tensor:
        """x with an entry for each branch."""
        return self.expand(x, self.videos * len(self.levels))


def matched(x: Tensor, y: Tensor, expansion: Expansion | None) -> tuple[Tensor, Tensor]:
    """Both with as many entries as the larger one has; as they are where there is no expansion."""
    if expansion is None:
        return x, y
    entries = max(x.shape[0], y.shape[0])
    return expansion.expand(x, entries), expansion.expand(y, entries)
