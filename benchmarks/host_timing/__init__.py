"""A pack for `benchmarks/host.py` and `front_end.py` only: it times the ARTV nodes from inside the host, and answers with the times.

`GET /artv_timing` gives seconds since the last asking: for each node its `execute`, and of the sampler's how much went
by in `artv_core.run.recording.record_frames` (less what that spent in the node's own callback), and how much in showing
frames: decoding, packing and telling ("previews"), and sending what was told ("sending", in the server's own thread).
"""

import sys
import time

from aiohttp import web
from server import PromptServer

SECONDS: dict[str, float] = {}
NODE_CLASS_MAPPINGS: dict[str, type] = {}


def add(name: str, started: float) -> None:
    SECONDS[name] = SECONDS.get(name, 0.0) + time.perf_counter() - started


def timed_node(node: type) -> None:
    execute = node.execute.__func__  # type: ignore[attr-defined]

    def timed(cls, *arguments, **named):
        started = time.perf_counter()
        try:
            return execute(cls, *arguments, **named)
        finally:
            add(node.__name__, started)

    node.execute = classmethod(timed)  # type: ignore[attr-defined]


def timed_core(bridge) -> None:
    record_frames = bridge.record_frames

    def timed(*arguments, on_step, **named):
        def step(*info):
            started = time.perf_counter()
            try:
                on_step(*info)
            finally:
                add("callback", started)

        frames = record_frames(*arguments, on_step=step, **named)
        while True:
            started = time.perf_counter()
            try:
                frame = next(frames)
            except StopIteration:
                return
            finally:
                add("core", started)
            yield frame

    bridge.record_frames = timed


def timed_previews(monitor) -> None:
    finished, send = monitor.Monitor.finished, PromptServer.instance.send

    def timed(self, *arguments, **named):
        started = time.perf_counter()
        try:
            finished(self, *arguments, **named)
        finally:
            add("previews", started)

    async def timed_send(event, data, sid=None):
        started = time.perf_counter()
        try:
            await send(event, data, sid)
        finally:
            if event == "artv.live":
                add("sending", started)

    monitor.Monitor.finished = timed
    PromptServer.instance.send = timed_send


@PromptServer.instance.routes.get("/artv_timing")
async def times(_request):
    """All packs are loaded by now: on the first asking, put the clocks in."""
    if not SECONDS:
        modules = [module for name, module in sys.modules.items() if name.endswith(".nodes.extension")]
        for extension in modules:
            for node in extension.NODES:
                timed_node(node)
            timed_core(sys.modules[extension.__package__ + ".bridge"])
            timed_previews(sys.modules[extension.__package__ + ".monitor"])
        SECONDS["asked"] = 0.0
    answer = dict(SECONDS)
    SECONDS.clear()
    SECONDS["asked"] = 0.0
    return web.json_response(answer)
