"""How fast frames are made, and how many of them to make ahead of the one that is shown. Not in the paper."""

import gc
import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

LEAST_AHEAD = 2
MOST_AHEAD_SECONDS = 0.5
"""What is said counts after the frames that are made already. So they must be few."""

_REMEMBERED = 16


class Pace:
    """The time of the last frames of a video that is shown at `fps` frames a second."""

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self.most_ahead = max(LEAST_AHEAD, round(fps * MOST_AHEAD_SECONDS))
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)

    def made(self, seconds: float) -> None:
        """Note how long a frame took, without waiting."""
        self._seconds.append(seconds)

    @property
    def rate(self) -> float | None:
        """Frames a second that can be made, None if that is not known yet."""
        return len(self._seconds) / max(1e-6, sum(self._seconds)) if self._seconds else None

    @property
    def keeps_up(self) -> bool:
        """Whether frames are made as fast as they are shown."""
        return self.rate is None or self.rate >= self.fps

    @property
    def ahead(self) -> int:
        """How many frames to make ahead: one more than are shown in the time that two frames take, if both are as
        slow as the slowest of the last frames."""
        if not self._seconds:
            return self.most_ahead
        return min(self.most_ahead, max(LEAST_AHEAD, 1 + math.ceil(2 * max(self._seconds) * self.fps)))


@contextmanager
def short_collections() -> Iterator[None]:
    """Python's garbage collector looks through all objects now and then. With PyTorch loaded, that takes longer than
    some frames are shown. In here it leaves out what is there already."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
