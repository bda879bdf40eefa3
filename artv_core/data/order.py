"""Which clips a training step sees, which are kept for measuring, and what is read in place of a broken one.

All of it follows from (seed, step) and the source, so the position to save is the step's number, and the number of
processes does not matter. How clips are shuffled is ours.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .clips import BrokenClip, ClipIndex, ClipSource

MAX_SUBSTITUTES = 100
"""Clips tried in place of a broken one; if none of them can be read, it is not the clips that are broken."""


class ClipOrder:
    """The clips of every step. In an epoch each clip is seen once, and those of a batch share one bucket.

    Bucket by bucket, groups are shuffled, and then clips within `window` groups, so that clips of a group stay near one
    another. The buckets take turns at random. A bucket's last batch is filled up from the bucket's start.
    """

    def __init__(self, index: ClipIndex, clips: np.ndarray, batch_size: int, seed: int, window: int = 16) -> None:
        """`clips` are the ids to use. Raises ValueError without any."""
        if batch_size < 1 or window < 1:
            raise ValueError(f"batch size is {batch_size} and window is {window}; accepted are numbers from 1")
        if not len(clips):
            raise ValueError("there are no clips to train on; give more clips, or hold out fewer")
        self.batch_size, self.seed, self.window = batch_size, seed, window
        clips = np.sort(clips)
        buckets = index.bucket[clips]
        self._clips = [clips[buckets == bucket].astype(np.int32) for bucket in np.unique(buckets)]
        self._groups = [index.group[members] for members in self._clips]
        self._batches = [-(-len(members) // batch_size) for members in self._clips]
        self._plans: dict[int, np.ndarray] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Batches until every clip was seen."""
        return sum(self._batches)

    def batch(self, step: int) -> np.ndarray:
        """Ids [batch_size] of the clips of a step, which counts from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in self._plans:
            recent = {past: plan for past, plan in self._plans.items() if past == epoch - 1}
            self._plans = recent | {epoch: self._plan(epoch)}
        return self._plans[epoch][place].astype(np.int64)

    def __getstate__(self) -> dict[str, object]:
        """Without plans, which each process makes for itself when it needs them."""
        return self.__dict__ | {"_plans": {}}

    def _plan(self, epoch: int) -> np.ndarray:
        """Ids [steps_per_epoch, batch_size]."""
        plan = np.empty((self.steps_per_epoch, self.batch_size), np.int32)
        turns = np.repeat(np.arange(len(self._clips)), self._batches)
        turns = turns[np.argsort(self._random(len(turns), epoch), kind="stable")]
        for bucket, members in enumerate(self._clips):
            order = members[self._shuffled(bucket, epoch)]
            plan[turns == bucket] = np.resize(order, (self._batches[bucket], self.batch_size))
        return plan

    def _shuffled(self, bucket: int, epoch: int) -> np.ndarray:
        """An order of a bucket's clips."""
        groups, group = np.unique(self._groups[bucket], return_inverse=True)
        rank = np.empty(len(groups), np.int64)
        rank[np.argsort(self._random(len(groups), epoch, bucket, 0), kind="stable")] = np.arange(len(groups))
        return np.lexsort((self._random(len(group), epoch, bucket, 1), rank[group] // self.window))

    def _random(self, count: int, *key: int) -> np.ndarray:
        # The bits of PCG64 are the same in every version of NumPy, which its shuffles need not be.
        return np.random.PCG64(np.random.SeedSequence([self.seed % 2**64, *key])).random_raw(count)


def fitting_held_out(total: int) -> int:
    """How many of `total` clips are held out where nobody says: a quarter of them, up to 8. Not in the paper."""
    return min(8, total // 4)


def hold_out(source: ClipSource, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the clips to train on, and of `count` others, both ascending.

    Chosen by a hash of the names, so that clips added later change little of it, and file by file (a name up to its
    first `#`), for parts of one video are alike; only the last file is divided. Raises ValueError where none remain.
    """
    total = len(source.index)
    if not 0 <= count < total:
        raise ValueError(
            f"data.held_out is {count}, and there are {total} clips; accepted are 0 to {total - 1}, "
            "or -1 for a number that fits (--set data.held_out=-1)"
        )
    if count == 0:
        return np.arange(total), np.arange(0)
    hashes = np.array([_hash(seed, source.name(clip).partition("#")[0]) for clip in range(total)], np.uint64)
    order = np.argsort(hashes, kind="stable")
    return np.sort(order[count:]), np.sort(order[:count])


def _hash(seed: int, text: str) -> int:
    data = f"{seed}/{text}".encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


@dataclass(frozen=True)
class ClipReading:
    """What was read for a clip: of itself, or of `clip` in its place, since those in `broken` (id to the reason) cannot
    be read."""

    clip: int
    frames: Tensor
    caption: str
    context: Tensor | None
    broken: dict[int, str]


class RepairedClips:
    """Reads clips; for a broken one another of the same bucket that has the frames asked for, always the same one."""

    def __init__(self, source: ClipSource, clips: np.ndarray) -> None:
        """`clips` are the ids to take substitutes from."""
        self.source, self._clips = source, np.sort(clips)

    def read(self, clip: int, positions: Sequence[int]) -> ClipReading:
        """See `ClipSource.frames` for `positions`. Raises BrokenClip where no substitute can be read either."""
        broken: dict[int, str] = {}
        reading = self._try(clip, positions, broken)
        if reading is not None:
            return reading
        for substitute in self._substitutes(clip, max(positions)):
            reading = self._try(substitute, positions, broken)
            if reading is not None:
                return reading
        raise BrokenClip(f"{broken[clip]}; none of {len(broken) - 1} clips tried in its place can be read either")

    def _try(self, clip: int, positions: Sequence[int], broken: dict[int, str]) -> ClipReading | None:
        """Notes in `broken` why not. Nothing is remembered: other frames of the clip may be whole, and what a sample is
        made of must not depend on what the process read before."""
        try:
            frames, context = self.source.frames(clip, positions), self.source.context(clip)
        except BrokenClip as error:
            broken[clip] = str(error)
            return None
        return ClipReading(clip, frames, self.source.caption(clip), context, broken)

    def _substitutes(self, clip: int, position: int) -> list[int]:
        """In an order of the clip's own, so that neighbours, which often break together, are spread out."""
        index = self.source.index
        fitting = (index.bucket[self._clips] == index.bucket[clip]) & (index.num_frames[self._clips] > position)
        others = self._clips[fitting & (self._clips != clip)]
        if not len(others):
            return []
        start = _hash(clip, "substitute")
        stride = start // len(others) % len(others) + 1
        while math.gcd(stride, len(others)) != 1:
            stride += 1
        places = (start % len(others) + stride * np.arange(min(len(others), MAX_SUBSTITUTES))) % len(others)
        return others[places].tolist()


class BrokenCount:
    """The broken clips of a run, each counted once, whichever process met it."""

    def __init__(self) -> None:
        self.reasons: dict[int, str] = {}

    def add(self, broken: dict[int, str]) -> list[str]:
        """The reasons of those among them that are new, one line each, to be said once."""
        new = {clip: reason for clip, reason in broken.items() if clip not in self.reasons}
        self.reasons.update(new)
        return list(new.values())

    def __len__(self) -> int:
        return len(self.reasons)
