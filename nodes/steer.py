"""Steering a run from the page or over HTTP: another prompt, pause, stop, steps back (`artv_core.run.steering`).

A prompt that is said must be encoded as those of the run were. ARTV Multi-Prompt Scheduler therefore notes with its
CONDITIONING which CLIP encoded it. Prompts from elsewhere cannot be changed during a run; all else works with them.
"""

import hashlib
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary

import comfy.model_management as memory
from server import PromptServer
from torch import Tensor

from ..artv_core.method.generate import VideoRequest
from ..artv_core.method.text_track import TextTrack
from ..artv_core.prompts.prompt_schedule import surrounded
from ..artv_core.run.recording import Recording, tensor_digest
from ..artv_core.run.steered_track import FixedTrack, SteeredTrack
from ..artv_core.run.steering import PAUSE_SECONDS, SteeredRun, Steering
from .live import Run, run_for
from .prompt_track import RANGE_KEY, Conditioning

STEER_KEY = "artv_steer"
"""The key in CONDITIONING."""

MAX_WORD = 40
MAX_STEERED = 256
MAX_PAUSED_ALONE = 600.0
"""For how many seconds a run stays paused if no page that shows it is connected."""

logger = logging.getLogger(__name__)

# By numbers that are never used again, as an object's id may be: CONDITIONING in the host's cache outlives its CLIP.
_numbers: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_clips: WeakValueDictionary[int, Any] = WeakValueDictionary()
_next_number = itertools.count()


class Steerable(NamedTuple):
    """How a prompt was made: its text as it was typed, a digest of what that was encoded to, the texts around it, the
    frames of its fade, and its CLIP."""

    text: str
    encoded: str
    pre_text: str
    app_text: str
    blend_frames: int
    clip: int


def steerable(clip: Any, text: str, context: Tensor, pre_text: str, app_text: str, blend_frames: int) -> Steerable:
    """The note for a prompt that was encoded to `context`. It does not keep the CLIP alive."""
    if clip not in _numbers:
        _numbers[clip] = next(_next_number)
        _clips[_numbers[clip]] = clip
    return Steerable(text, tensor_digest(context), pre_text, app_text, blend_frames, _numbers[clip])


def steered_track(
    positive: Conditioning, track: TextTrack, after_encoding: Callable[[], None], fixed: bool = False
) -> SteeredTrack:
    """The track of a run that can be steered. `after_encoding` is called after the host's CLIP was used. `fixed`: its
    prompts stay, because each has an anchor or a guidance scale of its own. So do those that another node has changed
    since they were encoded, because it would not change what is said later."""
    found = [(context, options.get(STEER_KEY)) for context, options in positive]
    notes = [note for context, note in found if isinstance(note, Steerable) and note.encoded == tensor_digest(context)]
    starts = [options.get(RANGE_KEY, (0, None))[0] for _, options in positive]
    clip = _clips.get(notes[0].clip) if notes and len({note[2:] for note in notes}) == 1 else None
    if fixed or clip is None or len(notes) < len(found) or len(set(starts)) < len(starts):
        return FixedTrack(track)
    around = (notes[0].pre_text, notes[0].app_text)

    def encode(text: str) -> Tensor:
        (context, _), *others = clip.encode_from_tokens_scheduled(clip.tokenize(surrounded(text, *around)))
        after_encoding()
        if others:
            raise ValueError("the prompts cannot be changed: this CLIP has scheduled hooks; use a CLIP without them")
        return context

    prompts = [(start, note.text) for start, note in zip(starts, notes, strict=True)]
    contexts = {note.text: context for (context, _), note in zip(positive, notes, strict=True)}
    return SteeredTrack(sorted(prompts), encode, notes[0].blend_frames, contexts)


def steered_run(
    model: Any, request: VideoRequest, recording: Recording | None, given: Sequence[Tensor], run: Run
) -> SteeredRun:
    """The run of a node. Its client alone goes on with it after it was interrupted."""
    steered = SteeredRun(model, request, recording, given, owner_of(run))
    steered.words_in_schedule = run.workflow is not None  # the page's timeline takes them, or its panel offers them
    return steered


def owner_of(run: Run) -> str:
    """Stands for the client that queued a run, which a reloaded page still is. It is not the client's id, because
    everyone who can read the output folder can read it. A run without a client has one of its own."""
    return hashlib.sha256((run.client or run.id).encode()).hexdigest()


@contextmanager
def steering_told(run: Run, steered: SteeredRun, files: bool) -> Iterator[None]:
    """While the run goes on it can be steered, and the page is told. `files`: video files are written meanwhile."""
    steered.steering.while_paused = _while_paused(run, steered.steering)
    if files:
        steered.steering.no_way_back = "the video file is written while the frames are made; disconnect 'stream'"
    run.steered, run.steering = steered, lambda: told_of(steered)
    try:
        yield
    finally:
        last = told_of(steered)
        run.steered, run.steering = None, lambda: last
        if steered.was_steered:
            run.recipe = None  # another run with these inputs has other frames


def _while_paused(run: Run, steering: Steering) -> Callable[[], None]:
    """What a paused run does: it ends if the user interrupts it. If nobody who could let it go on is connected, it goes
    on after a while, because other runs wait for it."""
    alone = 0.0

    def check() -> None:
        nonlocal alone
        memory.throw_exception_if_processing_interrupted()
        connected = PromptServer.instance.sockets
        alone = 0.0 if any(one in connected for one in (run.client, *run.followers)) else alone + PAUSE_SECONDS
        if alone >= MAX_PAUSED_ALONE:
            alone = 0.0
            minutes = MAX_PAUSED_ALONE / 60
            logger.warning("ARTV: a paused run goes on, because no page has shown it for %g minutes", minutes)
            steering.go_on()

    return check


_steered: deque[tuple[int, dict[str, Any]]] = deque(maxlen=MAX_STEERED)
_next_note = itertools.count(1)


def note_steered(widgets: dict[str, Any]) -> None:
    """Note the values of the widgets of a run that was steered. The host must not take its result for what these values
    make."""
    _steered.append((next(_next_note), dict(widgets)))


def last_steered(widgets: dict[str, Any]) -> int:
    """The number of the last noted run that had these values, 0 if there is none; it changes what the host finds in its
    cache. A value of None is not known here, because a wire provides it."""
    return max(
        (number for number, run in _steered if all(value in (None, run.get(name)) for name, value in widgets.items())),
        default=0,
    )


def told_of(run: SteeredRun) -> dict[str, Any]:
    """What the page is told about a run's steering."""
    steering, track = run.steering, run.track
    return {
        "can_say": track.can_say,
        "paused": steering.paused,
        "stopped": steering.stopped,
        "waiting": track.waiting,
        "said": [list(one) for one in track.said],
        "first": steering.first,
        "redo": [list(one) for one in run.redo],
        "schedule": track.schedule().canonical() if track.can_say else None,
    }


def answer_steer(question: dict[str, Any]) -> dict[str, Any]:
    """`POST /artv/steer {run, say, pause, back, seed, stop}`: steers a run that goes on. Instead of `run`, the id that
    its page is told, a client may give `client_id` and `prompt_id` of a prompt that it queued, and `node` if that has
    several samplers.

    `say`: another prompt, from the next frame on. `pause`: true or false. `back`: drop this many frames and make
    others, with `seed` or the text in `say`. `stop`: true ends the video after this frame. Returns what `told_of` does.
    """
    run = run_for(question)
    steered = run.steered
    if run.state != "running":
        raise ValueError("the run has ended; queue it again to make another")
    if steered is None:
        raise ValueError("the run is still loading; try again when `steering` in its messages is not empty")
    text, back, seed = _of_type(question, "say", str), _of_type(question, "back", int), _of_type(question, "seed", int)
    pause, stop = _of_type(question, "pause", bool), _of_type(question, "stop", bool)  # read before anything is done
    if seed is not None and back is None:
        raise ValueError("seed is given without back; give the number of frames to go back, too")
    if back is not None:
        steered.steering.back(back, seed, text)
    elif text is not None:
        steered.steering.say(text)
    if pause is not None:
        (steered.steering.pause if pause else steered.steering.go_on)()
    if stop:
        steered.steering.stop()
    run.tell()
    return told_of(steered)


def _of_type(question: dict[str, Any], name: str, kind: type) -> Any:
    value = question.get(name)
    if value is None or type(value) is kind:
        return value
    accepted = {str: "a text", int: "a whole number", bool: "true or false"}[kind]
    raise ValueError(f"{name} is {str(value)[:MAX_WORD]!r}; it must be {accepted}")
