"""What the page is shown of a sampler's run while it goes on: numbers, small pictures, masks, drift.

A page that has the pack's scripts says so once (`watch`) and is then told of its runs by `PromptServer.send_sync`; no
other client ever gets such a message. What was told is kept, within bounds, so that a page that was loaded anew is told
all of it again.
"""

import base64
import threading
import time
import uuid
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..artv_core.watching import Thinned

EVENT = "artv.live"
MAX_PICTURES = 120
MAX_READINGS = 480
MAX_MASKS = 480
MAX_UNTOLD = 32
MAX_RUNS = 8
PACE_FRAMES = 20
"""Seconds per frame are those of so many frames."""


class LiveMask(NamedTuple):
    """What was copied into a frame, as bytes, row by row, 255 = all."""

    index: int
    width: int
    height: int
    values: bytes


class LivePicture(NamedTuple):
    """A finished frame as a small JPEG, or None where frames are not decoded, and its mask, if it has one."""

    index: int
    jpeg: bytes | None
    mask: LiveMask | None

    def told(self) -> dict[str, Any]:
        """As the page gets it."""
        mask = self.mask and {"width": self.mask.width, "height": self.mask.height, "values": _text(self.mask.values)}
        return {"index": self.index, "jpeg": self.jpeg and _text(self.jpeg), "mask": mask}


class LiveReading(NamedTuple):
    """A frame's drift from the first one, in latents, as `DriftReading` has it."""

    index: int
    shift: float
    sharpness: float
    copied: float


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@dataclass
class Run:
    """One run of a sampler node: `total` frames of `width` by `height` pixels, `known` of them there before it began;
    of several `videos` the first is shown.

    `workflow` is the id of the graph in the page it was queued from; the node and the client are the host's.
    """

    total: int
    width: int
    height: int
    fps: float
    workflow: str | None = None
    videos: int = 1
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        context = get_executing_context()
        self.node, self.prompt = (context.node_id, context.prompt_id) if context else (None, None)
        self.client: str | None = PromptServer.instance.client_id
        self.latents: Callable[[], Any] = lambda: None
        self.done = self.known = 0
        self.blind: str | None = None  # why there are no pictures: "vae" where none is wired
        self.state = "running"
        self.pictures = Thinned[LivePicture](MAX_PICTURES)
        self.readings = Thinned[LiveReading](MAX_READINGS)
        self.masks = Thinned[LiveMask](MAX_MASKS)
        self._untold = (Thinned[LivePicture](MAX_UNTOLD), Thinned[LiveReading](MAX_READINGS))
        self._times: deque[float] = deque([time.monotonic()], PACE_FRAMES + 1)
        self._lock = threading.Lock()
        _keep(self)
        self.tell()

    def frame(self, reading: LiveReading, mask: LiveMask | None) -> None:
        """The next frame is finished. One that was there already says nothing of the pace."""
        with self._lock:
            self.done = reading.index + 1
            if self.done <= self.known:
                self._times.clear()
            self._times.append(time.monotonic())
            self.readings.add(reading)
            self._untold[1].add(reading)
            if mask is not None:
                self.masks.add(mask)

    def show(self, index: int, jpeg: bytes | None) -> None:
        """A picture of a frame that is finished, to be told with the next message."""
        with self._lock:
            picture = LivePicture(index, jpeg, self.masks.get(index))
            self.pictures.add(picture)
            self._untold[0].add(picture)

    def tell(self, state: str | None = None) -> None:
        """Send what is new to the page that queued this run, or to all that watch where that one is gone."""
        self.state = state or self.state
        with self._lock:
            pictures, readings = self._untold
            self._untold = (Thinned(MAX_UNTOLD), Thinned(MAX_READINGS))
        recipients = _recipients(self.client)
        if recipients:
            message = self._message(pictures.items, readings.items, whole=False)
            for client, _ in recipients:
                PromptServer.instance.send_sync(EVENT, message, client)

    def tell_all(self, client: str) -> None:
        """Send one client all that is kept."""
        with self._lock:
            message = self._message(self.pictures.items, self.readings.items, whole=True)
        PromptServer.instance.send_sync(EVENT, message, client)

    def came_out(self, latents: Any) -> None:
        """What the run gave: nodes that decode it may show its frames (`run_of`)."""
        self.latents = weakref.ref(latents)

    @property
    def is_shown(self) -> bool:
        """Whether the page that queued this run shows it by itself, or will when it is loaded: the host's preview would
        be a second one."""
        return self.client in _watchers

    @property
    def wants_pictures(self) -> bool:
        """Whether anyone who is told of it wants to see its frames. The host's own setting for previews, off where it
        is not told otherwise, is for the host's own: here the page has a switch."""
        return any(watcher.pictures for _, watcher in _recipients(self.client))

    def _message(self, pictures: Sequence[LivePicture], readings: Sequence[LiveReading], whole: bool) -> dict[str, Any]:
        pace = self._seconds_per_frame()
        return {
            "run": self.id,
            "prompt_id": self.prompt,
            "node": self.node,
            "workflow": self.workflow,
            "state": self.state,
            "total": self.total,
            "known": self.known,
            "blind": self.blind or (None if self.wants_pictures else "off"),
            "done": self.done,
            "seconds_per_frame": pace,
            "seconds_left": None if pace is None else pace * (self.total - self.done),
            "fps": self.fps,
            "width": self.width,
            "height": self.height,
            "videos": self.videos,
            "pictures": [picture.told() for picture in pictures],
            "readings": [list(reading) for reading in readings],
            "whole": whole,
        }

    def _seconds_per_frame(self) -> float | None:
        made = len(self._times) - 1
        return (self._times[-1] - self._times[0]) / made if made > 0 else None


# Who is told


class _Watcher(NamedTuple):
    """A page by its socket, so that one that was loaded anew and does not listen yet is told nothing; and whether it
    wants pictures."""

    socket: Any
    pictures: bool


_runs: OrderedDict[tuple[str | None, str | None], Run] = OrderedDict()
_watchers: dict[str, _Watcher] = {}
_lock = threading.Lock()


def watch(question: dict[str, Any]) -> dict[str, Any]:
    """`POST /artv/live {client_id, pictures}`: from now on that client is told of its runs, with pictures of frames or
    (`pictures` false) without; at once it is told all that is kept of earlier ones. Answers with how many there are."""
    client, pictures = question.get("client_id"), question.get("pictures", True)
    if not isinstance(pictures, bool):
        raise ValueError(f"pictures is {type(pictures).__name__}; accepted are true and false")
    sockets = PromptServer.instance.sockets
    if not isinstance(client, str) or client not in sockets:
        raise ValueError("client_id is not known; give the id that a socket is open with")
    with _lock:
        for gone in [one for one in _watchers if one not in sockets]:
            del _watchers[gone]
        _watchers[client] = _Watcher(sockets[client], pictures)
        runs = list(_runs.values())
    for run in runs:
        run.tell_all(client)
    return {"runs": len(runs)}


def run_of(latents: Any) -> Run | None:
    """The run that these very latents came out of, if it is kept."""
    with _lock:
        return next((run for run in _runs.values() if run.latents() is latents), None)


def _keep(run: Run) -> None:
    """The latest run of each node, and not of too many."""
    with _lock:
        _runs.pop((run.workflow, run.node), None)
        _runs[run.workflow, run.node] = run
        while len(_runs) > MAX_RUNS:
            _runs.popitem(last=False)


def _recipients(client: str | None) -> list[tuple[str, _Watcher]]:
    """The client itself where it watches; where its page is gone, everyone who does."""
    if client is None:
        return []
    sockets = PromptServer.instance.sockets
    wanted = [client] if client in sockets else list(sockets)
    watchers = [(one, _watchers.get(one)) for one in wanted]
    return [(one, watcher) for one, watcher in watchers if watcher and watcher.socket is sockets.get(one)]
