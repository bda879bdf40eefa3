"""Decides which clips a training step sees, which are held out, and what is read instead of a broken clip.

Everything depends only on (seed, step) and the source, so the only position to save is the step's number, and the
number of processes does not matter. How clips are shuffled is not in the paper.
"""

import hashlib
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .clips import BrokenClip, ClipIndex, ClipSource

MAX_SUBSTITUTES = 100
"""How many clips are tried in place of a broken one. If none of them can be read, the problem is not single clips."""


class ClipOrder:
    """The clips of every step. The clips of a batch share one bucket, and a bucket has as large a share of the batches
    as of the clips.

    In each bucket the clips come in one order after another, each clip once in each, and batches are cut from this
    without a gap. Groups are shuffled, and then clips within `window` groups, so that clips of a group stay close
    together. An epoch has as many batches of each bucket as its clips fill; what they fill only in part is carried over
    to the next epoch. Batches of different buckets are mixed at random.
    """

    def __init__(self, index: ClipIndex, clips: np.ndarray, batch_size: int, seed: int, window: int = 16) -> None:
        """`clips` are the ids to use. Raises ValueError if there are none."""
        if batch_size < 1 or window < 1:
            raise ValueError(f"batch size is {batch_size} and window is {window}; accepted are numbers from 1")
        if not len(clips):
            raise ValueError("there are no clips to train on; give more clips, or hold out fewer")
        self.batch_size, self.seed, self.window = batch_size, seed, window
        clips = np.sort(clips)
        buckets = index.bucket[clips]
        self._clips = [clips[buckets == bucket].astype(np.int32) for bucket in np.unique(buckets)]
        self._groups = [index.group[members] for members in self._clips]
        self._sizes = np.array([len(members) for members in self._clips])
        # Each bucket begins with a part of a batch carried over. Otherwise the first epochs had no rare buckets.
        self._carried = np.array([_hash(seed, f"carried {bucket}") % batch_size for bucket in range(len(self._clips))])
        self._plans: dict[int, np.ndarray] = {}

    def batch(self, step: int) -> np.ndarray:
        """The clip ids [batch_size] of a step; steps count from 0."""
        epoch = self._epoch(step)
        if epoch not in self._plans:
            recent = {past: plan for past, plan in self._plans.items() if past == epoch - 1}
            self._plans = recent | {epoch: self._plan(epoch)}
        return self._plans[epoch][step - self._before(epoch).sum()].astype(np.int64)

    def __getstate__(self) -> dict[str, object]:
        """Plans are left out, because each process makes them when it needs them."""
        return self.__dict__ | {"_plans": {}}

    def _before(self, epoch: int) -> np.ndarray:
        """How many batches of each bucket come before this epoch."""
        return (epoch * self._sizes + self._carried) // self.batch_size

    def _epoch(self, step: int) -> int:
        """The epoch of a step. If there are few clips, it is the last of several epochs that begin with this step."""
        later = (step + 1 + len(self._sizes)) * self.batch_size // int(self._sizes.sum()) + 1
        return bisect_right(range(later + 1), step, key=lambda epoch: self._before(epoch).sum()) - 1

    def _plan(self, epoch: int) -> np.ndarray:
        """The clip ids of an epoch, [its steps, batch_size]."""
        first, end = self._before(epoch), self._before(epoch + 1)
        turns = np.repeat(np.arange(len(self._clips)), end - first)
        turns = turns[np.argsort(self._random(len(turns), epoch), kind="stable")]
        plan = np.empty((len(turns), self.batch_size), np.int32)
        for bucket in np.unique(turns).tolist():
            plan[turns == bucket] = self._batches(bucket, int(first[bucket]), int(end[bucket]))
        return plan

    def _batches(self, bucket: int, first: int, end: int) -> np.ndarray:
        """The batches of a bucket from number `first` up to, but not including, `end`: [end - first, batch_size]."""
        members = self._clips[bucket]
        begin, stop = first * self.batch_size, end * self.batch_size
        rounds = range(begin // len(members), -(-stop // len(members)))
        orders = np.concatenate([members[self._shuffled(bucket, number)] for number in rounds])
        skipped = begin - rounds.start * len(members)
        return orders[skipped : skipped + stop - begin].reshape(end - first, self.batch_size)

    def _shuffled(self, bucket: int, number: int) -> np.ndarray:
        """The places of a bucket's clips in one of its orders."""
        groups, group = np.unique(self._groups[bucket], return_inverse=True)
        rank = np.empty(len(groups), np.int64)
        rank[np.argsort(self._random(len(groups), number, bucket, 0), kind="stable")] = np.arange(len(groups))
        return np.lexsort((self._random(len(group), number, bucket, 1), rank[group] // self.window))

    def _random(self, count: int, *key: int) -> np.ndarray:
        # The bits of PCG64 are the same in every version of NumPy; those of NumPy's own shuffles may change.
        return np.random.PCG64(np.random.SeedSequence([self.seed % 2**64, *key])).random_raw(count)


def fitting_held_out(total: int) -> int:
    """How many of `total` clips are held out by default: a quarter of them, up to 8. Not in the paper."""
    return min(8, total // 4)


def hold_out(
    source: ClipSource, count: int, seed: int, usable: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the clips to train on, and of `count` held-out clips, both ascending. `usable` are the ids to divide; None
    means all.

    They are chosen by a hash of the names, so that adding clips later changes little. Whole files are held out (a name
    counts up to its first `#`), because parts of one video look alike; only the last file may be split. Raises
    ValueError if none would remain to train on.
    """
    clips = np.arange(len(source.index)) if usable is None else usable
    total = len(clips)
    if not 0 <= count < total:
        raise ValueError(
            f"data.held_out is {count}, and there are {total} clips; accepted are 0 to {total - 1}, "
            "or -1 for a number that fits (--set data.held_out=-1)"
        )
    if count == 0:
        return clips, clips[:0]
    hashes = np.array([_hash(seed, source.name(clip).partition("#")[0]) for clip in clips.tolist()], np.uint64)
    chosen = clips[np.argsort(hashes, kind="stable")]
    return np.sort(chosen[count:]), np.sort(chosen[:count])


def _hash(seed: int, text: str) -> int:
    data = f"{seed}/{text}".encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


@dataclass(frozen=True)
class ClipReading:
    """What was read for a clip. `clip` is the clip itself, or the one read in its place because those in `broken` (id
    to reason) cannot be read."""

    clip: int
    frames: Tensor
    caption: str
    context: Tensor | None
    broken: dict[int, str]


class NoSubstitute(BrokenClip):
    """A clip cannot be read, and none in its place. `broken`: these clips' ids, and why they cannot be read."""

    def __init__(self, message: str, broken: dict[int, str] | None = None) -> None:
        super().__init__(message)
        self.broken = broken or {}


class RepairedClips:
    """Reads clips. For a broken clip it reads another one of the same bucket that has the requested frames, always the
    same one."""

    def __init__(self, source: ClipSource, clips: np.ndarray) -> None:
        """`clips` are the ids that can be used as substitutes."""
        self.source, self._clips = source, np.sort(clips)

    def read(self, clip: int, positions: Sequence[int]) -> ClipReading:
        """See `ClipSource.frames` for `positions`. Raises NoSubstitute if no substitute can be read either."""
        broken: dict[int, str] = {}
        reading = self._try(clip, positions, broken)
        if reading is not None:
            return reading
        for substitute in self._substitutes(clip, max(positions)):
            reading = self._try(substitute, positions, broken)
            if reading is not None:
                return reading
        tried = f"none of {len(broken) - 1} clips tried in its place can be read either"
        if len(broken) == 1:
            tried = "there is no other clip of its size that is long enough to take its place"
        raise NoSubstitute(f"{broken[clip]}; {tried}", broken)

    def of_another_bucket(self, clip: int, step: int, count: int) -> np.ndarray:
        """In place of a batch of this clip's bucket, `count` ids of the bucket that has most of the other clips; empty
        if there are none."""
        buckets = self.source.index.bucket[self._clips]
        others = self._clips[buckets != self.source.index.bucket[clip]]
        if not len(others):
            return others
        most = np.bincount(self.source.index.bucket[others]).argmax()
        others = others[self.source.index.bucket[others] == most]
        return others[(step * count + np.arange(count)) % len(others)]

    def _try(self, clip: int, positions: Sequence[int], broken: dict[int, str]) -> ClipReading | None:
        """Read a clip, or note in `broken` why that fails. Failures are not remembered: other frames of the clip may be
        readable, and a sample must not depend on what the process has read before."""
        try:
            frames, context = self.source.frames(clip, positions), self.source.context(clip)
            return ClipReading(clip, frames, self.source.caption(clip), context, broken)
        except BrokenClip as error:
            broken[clip] = str(error)
            return None

    def _substitutes(self, clip: int, position: int) -> list[int]:
        """Substitutes in an order that differs from clip to clip, because neighbours often break together."""
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
    """Counts the broken clips of a run, each once, whichever process found it."""

    def __init__(self) -> None:
        self.reasons: dict[int, str] = {}

    def add(self, broken: dict[int, str]) -> list[str]:
        """The reasons, one line each, for the clips among them that were not reported before."""
        new = {clip: reason for clip, reason in broken.items() if clip not in self.reasons}
        self.reasons.update(new)
        return list(new.values())

    def __len__(self) -> int:
        return len(self.reasons)
