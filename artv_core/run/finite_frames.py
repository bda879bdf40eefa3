"""Stops a run at the first frame with values that are infinite or not a number. Not in the paper."""

from collections import deque
from collections.abc import Generator, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ..files.finite import NotFiniteError, is_finite
from ..method import transfer
from ..method.frames import Frame


def checked(frame: Frame) -> Frame:
    """Return the frame unchanged, or raise `NotFiniteError`. This waits for the frame's device, so use it where the
    frame is copied from the device anyway."""
    if not is_finite(frame.latent):
        raise NotFiniteError(frame.index)
    return frame


def finite_only(frames: Iterable[Frame]) -> Generator[Frame, None, None]:
    """Yield the frames unchanged. Raises `NotFiniteError` instead of yielding a frame with infinite values or NaN.

    On a GPU, this does not wait for the check: a frame is yielded at once, and its flag is read when it is ready. So a
    bad frame may be yielded, and the error follows with one of the next frames, or at the end, where all flags are
    awaited.
    """
    notes: deque[_Note] = deque()
    for frame in frames:
        if transfer.queues_work(frame.latent.device):
            notes.append(_note(frame))
            _read(notes)
            yield frame
        else:
            yield checked(frame)
    _read(notes, wait=True)


class _Note(NamedTuple):
    frame: int
    finite: Tensor
    there: torch.cuda.Event


def _event(device: torch.device) -> torch.cuda.Event:
    """An event that happens once the device has finished all work queued so far."""
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


def _note(frame: Frame) -> _Note:
    extremes = torch.stack(torch.aminmax(frame.latent))
    finite = torch.isfinite(extremes).all().to("cpu", non_blocking=True)
    return _Note(frame.index, finite, _event(frame.latent.device))


def _read(notes: deque[_Note], wait: bool = False) -> None:
    while notes and (wait or notes[0].there.query()):
        note = notes.popleft()
        note.there.synchronize()
        if not note.finite:
            raise NotFiniteError(note.frame)
