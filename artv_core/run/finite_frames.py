"""Frames with values that are infinite or not a number end a run. Not in the paper."""

from collections import deque
from collections.abc import Generator, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ..files.finite import NotFiniteError, is_finite
from ..method import transfer
from ..method.frames import Frame


def checked(frame: Frame) -> Frame:
    """The frame as it is. Waits for its device, so this is for where the frame is copied from there anyway. Raises
    `NotFiniteError`."""
    if not is_finite(frame.latent):
        raise NotFiniteError(frame.index)
    return frame


def finite_only(frames: Iterable[Frame]) -> Generator[Frame, None, None]:
    """The frames as they come. Raises `NotFiniteError` in place of one that holds values that are no numbers.

    On a GPU nothing is waited for: each frame's flag comes after it, and is read when it is there. So such a frame may
    be handed on, and the error follows: with one of the next frames, or at the end, where all flags are waited for.
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
    """Has happened once the device has done all that it was told to until now."""
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
