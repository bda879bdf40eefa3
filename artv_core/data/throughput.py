"""How fast clips can be read, as training reads them."""

import random
import time

import numpy as np
from torch.utils.data import DataLoader, Dataset

from .clips import ClipSource
from .order import RepairedClips

REACH = 11
"""Frames that a sample's frames lie within."""


def samples_per_second(
    source: ClipSource, clips: np.ndarray, workers: int, *, samples: int = 500, frames: int = 4, seed: int = 0
) -> float:
    """What a DataLoader of `workers` processes (0: this one) gives, their start not counted.

    A sample is `frames` frames (two references, target and anchor are 4) drawn from `REACH` successive ones of one of
    the `clips` (ids), also drawn. Broken clips are replaced.
    """
    reads = _Reads(source, clips, samples + max(1, workers), frames, seed)
    loader = iter(DataLoader(reads, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None))
    for _ in range(max(1, workers)):
        next(loader)
    started = time.perf_counter()
    for _ in range(samples):
        next(loader)
    return samples / (time.perf_counter() - started)


class _Reads(Dataset):
    def __init__(self, source: ClipSource, clips: np.ndarray, length: int, frames: int, seed: int) -> None:
        self._reader, self._num_frames = RepairedClips(source, clips), source.index.num_frames
        self._clips, self._length, self._frames, self._seed = clips, length, frames, seed

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> tuple:
        rng = random.Random(f"{self._seed}/{number}")
        clip = int(self._clips[rng.randrange(len(self._clips))])
        length = int(self._num_frames[clip])
        start = rng.randrange(max(1, length - REACH + 1))
        within = range(start, min(length, start + REACH))
        reading = self._reader.read(clip, sorted(rng.choices(within, k=self._frames)))
        return reading.frames, reading.caption
