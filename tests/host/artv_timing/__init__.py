"""A pack for `benchmarks/host.py` and `front_end.py` only: it times the ARTV nodes from inside the host.

`GET /artv_timing` gives seconds since the last asking: for each node its `execute`, and of the sampler's how much went
by in `SteeredRun.frames` of the core (less what that spent in the node's own callback), and how much in showing
frames: decoding, packing and telling ("previews"), and sending what was told ("sending", in the server's own thread).
"""

import dataclasses
import sys
import time
from contextlib import contextmanager

from aiohttp import web
from server import PromptServer

SECONDS: dict[str, float] = {}
NODE_CLASS_MAPPINGS: dict[str, type] = {}


@contextmanager
def clocked(name: str):
    started = time.perf_counter()
    try:
        yield
    finally:
        SECONDS[name] = SECONDS.get(name, 0.0) + time.perf_counter() - started


def timed_node(node: type) -> None:
    execute = node.execute.__func__  # type: ignore[attr-defined]

    def timed(cls, *arguments, **named):
        with clocked(node.__name__):
            return execute(cls, *arguments, **named)

    node.execute = classmethod(timed)  # type: ignore[attr-defined]


def timed_core(steer) -> None:
    class Timed(steer.SteeredRun):
        def __init__(self, model, request, *more) -> None:
            def step(*info):
                with clocked("callback"):
                    request.on_step(*info)

            super().__init__(model, dataclasses.replace(request, on_step=step), *more)

        def frames(self):
            frames = super().frames()
            while True:
                with clocked("core"):
                    frame = next(frames, None)
                if frame is None:
                    return
                yield frame

    steer.SteeredRun = Timed


def timed_previews(monitor) -> None:
    finished, send = monitor.Monitor.finished, PromptServer.instance.send

    def timed(self, *arguments, **named):
        with clocked("previews"):
            finished(self, *arguments, **named)

    async def timed_send(event, data, sid=None):
        with clocked("sending" if event == "artv.live" else "sending of other things"):
            await send(event, data, sid)

    monitor.Monitor.finished = timed
    PromptServer.instance.send = timed_send


@PromptServer.instance.routes.get("/artv_timing")
async def times(_request):
    """All packs are loaded by now: on the first asking, put the clocks in."""
    if not SECONDS:
        for extension in [module for name, module in sys.modules.items() if name.endswith(".nodes.extension")]:
            for node in extension.NODES:
                timed_node(node)
            timed_core(sys.modules[extension.__package__ + ".steer"])
            timed_previews(sys.modules[extension.__package__ + ".monitor"])
        SECONDS["asked"] = 0.0
    answer = dict(SECONDS)
    SECONDS.clear()
    SECONDS["asked"] = 0.0
    return web.json_response(answer)
