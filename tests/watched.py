"""A page without a browser that shows the frames of `artv play` at their time."""

import json
import time
from typing import Any

import psutil
from websockets.sync.client import ClientConnection

from artv_core.play.server import PICTURE

SAY_EVERY = 10.0  # seconds
WAYS, THINGS = ("left", "up", "right", "down"), ("red circle", "green star", "yellow square", "white triangle")
PROMPTS = [f"a large {thing} moving {way} on a blue background" for thing in THINGS for way in WAYS]


class Watch:
    """A page that shows frames by its clock, says prompts, and reads the memory of the process."""

    def __init__(self, socket: ClientConnection, process: psutil.Process) -> None:
        self.socket, self.process = socket, process
        self.there = self.shown = -1
        self.status: dict[str, Any] = {"made": 0}
        self.steps, self.cpu_seconds = 0, 0.0
        self.starts: list[int] = []  # of the prompts
        self.said: list[int] = []  # the frame that was being made
        self.delays: list[tuple[float, float]] = []  # (when, seconds late) of each frame
        self.memory: list[tuple[float, float]] = []  # (when, MB)

    def watch(self, seconds: float) -> None:
        period, began, due = 1 / 8, 0.0, 0.0
        spent = sum(self.process.cpu_times()[:2])
        while not began or time.monotonic() - began < seconds:
            self.hear(due)
            now = time.monotonic()
            if self.shown == self.there or now < due:
                continue
            began, due = (began, due) if began else (now, now)
            self.delays.append((now - began, now - due))
            due = due + period if now - due < period else now + period
            self.shown += 1
            self.send(do="shown", index=self.shown, take=0)
            self.memory.append((now - began, self.process.memory_info().rss / 1e6))
            if now - began > SAY_EVERY * (len(self.said) + 1):
                self.send(do="say", text=PROMPTS[len(self.said) % len(PROMPTS)])
                self.said.append(self.status["made"])
        self.cpu_seconds = sum(self.process.cpu_times()[:2]) - spent

    def hear(self, due: float) -> None:
        """Take a message, and wait for one until the next frame is due."""
        try:
            message = self.socket.recv(None if self.shown == self.there else max(0.001, due - time.monotonic()))
        except TimeoutError:
            return
        if isinstance(message, bytes):
            self.there, _ = PICTURE.unpack_from(message)
            return
        heard = json.loads(message)
        self.status = heard if heard["kind"] == "status" else self.status
        self.steps = heard.get("steps", self.steps)
        self.starts = [start for start, _ in heard.get("prompts", [])] or self.starts

    def send(self, **message: object) -> None:
        self.socket.send(json.dumps(message))
