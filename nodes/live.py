"""What the page shows of a sampler's run while it goes on: numbers, small pictures, masks, drift.

A page with the pack's scripts announces itself once (`watch`) and then receives messages about its runs through
`PromptServer.send_sync`. Its runs are those that its client id queued and those that it names by id. It receives
nothing about other runs, so people who share a server do not see each other's frames here. The id of a run is a random
number that is sent only to the page that queued it. Sent messages are kept, within bounds, and sent again after the
page is reloaded: it then has the same client id, which the host's page keeps in its tab. A page opened later in the
same browser names the ids that `js/live_runs.js` has stored in the browser.

This is not access control: the host shows its queue, its history and its output folder to everyone who can reach it.
"""

import base64
import threading
import time
import uuid
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, NamedTuple

from comfy_execution.utils import get_executing_context
from server import PromptServer

from .preview_budget import Thinned
from .recipe import made_from, recipe_of
from .size_advice import SizeAdvice

EVENT = "artv.live"
SAMPLER = "ARTVMaskedDiffusionSampler"
MAX_PICTURES = 120
MAX_READINGS = 480
MAX_MASKS = 480
MAX_UNTOLD = 32
MAX_RUNS = 16
MAX_RUNS_OF_NODE = 4
MAX_NAMED = 64
MAX_PROBLEM = 300
PACE_FRAMES = 20
"""The number of latest frames over which seconds per frame are measured."""


@dataclass(frozen=True)
class LiveMask:
    """How much of each cell of a frame was copied: bytes, row by row, 255 = all of it."""

    index: int
    width: int
    height: int
    values: bytes


@dataclass(frozen=True)
class LivePicture:
    """A finished frame as a small JPEG (None if frames are not decoded), and its mask, if it has one."""

    index: int
    jpeg: bytes | None
    mask: LiveMask | None

    def told(self) -> dict[str, Any]:
        """The picture as it is sent to the page."""
        mask = self.mask and {"width": self.mask.width, "height": self.mask.height, "values": _text(self.mask.values)}
        return {"index": self.index, "jpeg": self.jpeg and _text(self.jpeg), "mask": mask}


@dataclass(frozen=True)
class LiveReading:
    """The drift of a frame from the first one, in latents, as in `DriftReading`."""

    index: int
    shift: float
    sharpness: float
    copied: float


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@dataclass
class Run:
    """One run of a sampler node: `total` frames of `width` by `height` pixels, of which `known` existed before it
    began. If there are several `videos`, the first is shown.

    `size_advice` is there if the size is far from the checkpoint's. `workflow` is the id of the graph in the page that
    queued the run; the node and the client are the host's. `followers` are other clients that named the run's id.
    """

    total: int
    width: int
    height: int
    fps: float
    workflow: str | None = None
    videos: int = 1
    size_advice: SizeAdvice | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        context = get_executing_context()
        self.node: str | None = context.node_id if context else None
        self.prompt: str | None = context.prompt_id if context else None
        self.client: str | None = PromptServer.instance.client_id
        self.followers: frozenset[str] = frozenset()
        self.recipe = recipe_of(_queued(self.prompt).graph, self.node)
        self.latents: Callable[[], Any] = lambda: None
        self.done = self.known = 0
        self.blind: str | None = None  # why there are no pictures: "vae" if none is connected
        self.state = "running"
        self.problem: str | None = None  # one line, if it failed
        self.unknown: dict[str, Any] | None = None  # words that the model does not know; see `words.warn_of_words`
        self.steered: Any = None  # the `SteeredRun` while it goes on
        self.steering: Callable[[], dict[str, Any]] = dict  # what is told of that
        self.pictures = Thinned[LivePicture](MAX_PICTURES)
        self.readings = Thinned[LiveReading](MAX_READINGS)
        self.masks = Thinned[LiveMask](MAX_MASKS)
        self._untold = (Thinned[LivePicture](MAX_UNTOLD), Thinned[LiveReading](MAX_READINGS))
        self._times: deque[float] = deque([time.monotonic()], PACE_FRAMES + 1)
        self._lock, self._cut = threading.Lock(), False
        _keep(self)
        self.tell()

    def frame(self, reading: LiveReading, mask: LiveMask | None) -> None:
        """Note a finished frame. Frames that existed before do not count for the pace."""
        with self._lock:
            self.done = reading.index + 1
            if self.done <= self.known:
                self._times.clear()
            self._times.append(time.monotonic() - self._paused_seconds())
            self.readings.add(reading)
            self._untold[1].add(reading)
            if mask is not None:
                self.masks.add(mask)

    def cut(self, count: int) -> None:
        """Forget all but the first `count` frames, since others will take the place of the rest."""
        with self._lock:
            for kept in (self.pictures, self.readings, self.masks, *self._untold):
                kept.cut(count)
            self.done, self._cut = count, True

    def show(self, index: int, jpeg: bytes | None) -> None:
        """Add the picture of a finished frame to the next message."""
        with self._lock:
            picture = LivePicture(index, jpeg, self.masks.get(index))
            self.pictures.add(picture)
            self._untold[0].add(picture)

    def tell(self, state: str | None = None, problem: str | None = None) -> None:
        """Send what is new to everyone who may see this run."""
        self.state = state or self.state
        self.problem = _first_line(problem)
        with self._lock:
            pictures, readings = self._untold
            self._untold = (Thinned(MAX_UNTOLD), Thinned(MAX_READINGS))
            if self._cut:  # the page forgets what it has
                pictures, readings = self.pictures, self.readings
            whole, self._cut = self._cut, False
        recipients = self._recipients()
        if recipients:
            message = self._message(pictures.items, readings.items, whole)
            for client, _ in recipients:
                PromptServer.instance.send_sync(EVENT, message, client)

    def tell_all(self, client: str) -> None:
        """Send everything that is kept to one client."""
        with self._lock:
            message = self._message(self.pictures.items, self.readings.items, whole=True)
        PromptServer.instance.send_sync(EVENT, message, client)

    def came_out(self, latents: Any) -> None:
        """Note the result of the run, so that nodes that decode it can show its frames (`run_of`)."""
        self.latents = weakref.ref(latents)

    @property
    def is_shown(self) -> bool:
        """Whether the page that queued this run shows it, or will when it is loaded. The host's own preview is then not
        needed."""
        return self.client in _watchers

    @property
    def wants_pictures(self) -> bool:
        """Whether any page that may see this run wants its frames. The host's setting for previews does not count,
        because it is off unless the user turns it on, and the page has a switch of its own."""
        return any(watcher.pictures for _, watcher in self._recipients())

    def belongs_to(self, client: str) -> bool:
        """Whether a client may see this run: it queued the run, or named its id."""
        return client == self.client or client in self.followers

    def _recipients(self) -> list[tuple[str, "_Watcher"]]:
        """The clients that may see this run, watch, and are connected."""
        sockets = PromptServer.instance.sockets
        found = [(one, _watchers.get(one)) for one in filter(None, {self.client, *self.followers})]
        return [(one, watcher) for one, watcher in found if watcher and watcher.socket is sockets.get(one)]

    def _message(self, pictures: Sequence[LivePicture], readings: Sequence[LiveReading], whole: bool) -> dict[str, Any]:
        pace = self._seconds_per_frame()
        return {
            "run": self.id,
            "prompt_id": self.prompt,
            "node": self.node,
            "workflow": self.workflow,
            "state": self.state,
            "problem": self.problem,
            "unknown": self.unknown,
            "steering": self.steering(),
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
            "size_advice": self.size_advice and self.size_advice.told(),
            "pictures": [picture.told() for picture in pictures],
            "readings": [list(astuple(reading)) for reading in readings],
            "whole": whole,
        }

    def _paused_seconds(self) -> float:
        return 0.0 if self.steered is None else self.steered.steering.paused_seconds

    def _seconds_per_frame(self) -> float | None:
        made = len(self._times) - 1
        return (self._times[-1] - self._times[0]) / made if made > 0 else None


# Who receives messages


class _Watcher(NamedTuple):
    """A page, identified by its socket, and whether it wants pictures. A page that was reloaded and does not listen yet
    has another socket, and is sent nothing."""

    socket: Any
    pictures: bool


_runs: OrderedDict[str, Run] = OrderedDict()
_watchers: dict[str, _Watcher] = {}
_lock = threading.Lock()


def watch(question: dict[str, Any]) -> dict[str, Any]:
    """`POST /artv/live {client_id, pictures, runs}`: from now on this client receives messages about the runs that it
    queues and those whose ids are in `runs`, with pictures of frames unless `pictures` is false. It is sent at once
    what is kept of the latest of these runs for each node. Returns the ids of what it is sent (`runs`)."""
    pictures, named = question.get("pictures", True), _named(question.get("runs", []))
    if not isinstance(pictures, bool):
        raise ValueError(f"pictures is {type(pictures).__name__}; accepted are true and false")
    client, sockets = _client(question), PromptServer.instance.sockets
    with _lock:
        for gone in [one for one in _watchers if one not in sockets]:
            del _watchers[gone]
        _watchers[client] = _Watcher(sockets[client], pictures)
        for run in _runs.values():
            follower = {client} if run.id in named else set()
            run.followers = frozenset(one for one in run.followers if one in sockets) | follower
        runs = {(run.workflow, run.node): run for run in _runs.values() if run.belongs_to(client)}
    for run in runs.values():
        run.tell_all(client)
    return {"runs": [run.id for run in runs.values()]}


def recall(question: dict[str, Any]) -> dict[str, Any]:
    """`POST /artv/recall {client_id, prompt_id}`: finds the runs behind results that the host took from its cache. The
    client is sent what is kept of these runs, if they are its own. Returns the id of the graph in the page
    (`workflow`), and for each sampler of the prompt the id of its run (`runs`), None if the client has none."""
    client, prompt = _client(question), question.get("prompt_id")
    queued = _queued(prompt if isinstance(prompt, str) else None)
    graph = queued.graph
    if graph is None:
        raise ValueError("prompt_id is not known; give the id of a prompt that is running or in the history")
    found = {}
    with _lock:
        for node in made_from(graph, queued.outputs):
            if graph[node].get("class_type") == SAMPLER:
                recipe = recipe_of(graph, node)
                made = [run for run in _runs.values() if run.recipe == recipe and run.belongs_to(client)]
                found[node] = next((run for run in reversed(made) if run.state == "finished"), None)
    for run in filter(None, found.values()):
        if run.prompt != prompt:  # otherwise it was sent while the run went on
            run.tell_all(client)
    return {"workflow": queued.workflow, "runs": {node: run and run.id for node, run in found.items()}}


def run_of(latents: Any) -> Run | None:
    """The run that made exactly these latents, if it is kept."""
    with _lock:
        return next((run for run in _runs.values() if run.latents() is latents), None)


def run_for(question: dict[str, Any]) -> Run:
    """The run that a client may steer: the one with the id `run`, or, of those that `client_id` queued, the latest one
    of `prompt_id`, and of `node` if that is given. Raises ValueError if there is none."""
    with _lock:
        runs = list(reversed(_runs.values()))
    if question.get("run") is not None:
        found = [run for run in runs if run.id == question["run"]]
    else:
        client, prompt, node = _client(question), question.get("prompt_id"), question.get("node")
        found = [run for run in runs if run.client == client and run.prompt == prompt and node in (None, run.node)]
    if not found:
        raise ValueError("no such run is known; give its id as run, or the client_id and prompt_id that queued it")
    return found[0]


def _client(question: dict[str, Any]) -> str:
    client = question.get("client_id")
    if not isinstance(client, str) or client not in PromptServer.instance.sockets:
        raise ValueError("client_id is not known; open the web socket /ws?clientId=ID first, and give that ID")
    return client


def _named(runs: Any) -> set[str]:
    if not isinstance(runs, list) or len(runs) > MAX_NAMED or not all(isinstance(one, str) for one in runs):
        raise ValueError(f"runs is not a list of run ids; accepted are up to {MAX_NAMED} of them")
    return set(runs)


def _keep(run: Run) -> None:
    """Keep the latest runs of each node of a page, within a limit. Older ones are for results from the host's cache."""
    with _lock:
        same = [one.id for one in _runs.values() if _place(one) == _place(run)]
        for old in same[: max(0, len(same) + 1 - MAX_RUNS_OF_NODE)]:
            del _runs[old]
        _runs[run.id] = run
        while len(_runs) > MAX_RUNS:
            _runs.popitem(last=False)


def _place(run: Run) -> tuple[str | None, str | None, str | None]:
    return run.client, run.workflow, run.node


# What a run is made from


def workflow_id(extra_pnginfo: Any) -> str | None:
    """The id of the graph in the page; None if the prompt came from elsewhere."""
    workflow = extra_pnginfo.get("workflow") if isinstance(extra_pnginfo, dict) else None
    found = workflow.get("id") if isinstance(workflow, dict) else None
    return found if isinstance(found, str) else None


class _Queued(NamedTuple):
    """The graph of a prompt, the graph's id in the page, and the nodes that were requested."""

    graph: dict[str, Any] | None = None
    workflow: str | None = None
    outputs: Sequence[str] = ()


def _queued(prompt: str | None) -> _Queued:
    """A prompt that is running or has run, found by the host's id."""
    queue = PromptServer.instance.prompt_queue
    items = [item for item in queue.get_current_queue_volatile()[0] if item[1] == prompt]
    if not items and prompt is not None:
        items = [done["prompt"] for done in queue.get_history(prompt_id=prompt).values()]
    if not items:
        return _Queued()
    _, _, graph, extra, outputs = items[0][:5]
    return _Queued(graph, workflow_id(extra.get("extra_pnginfo")), list(outputs))


def _first_line(text: str | None) -> str | None:
    lines = (text or "").strip().splitlines()
    return lines[0][:MAX_PROBLEM] if lines else None
