"""Directing a video while it is made: `python benchmarks/steering.py [--quick] [--parts NAME ...]`.

play      `artv play` with `tiny`, watched for five minutes by a page that shows each frame at its time

A prompt is said every ten seconds. A frame is late if it is not there when the frame before it was shown for as long as
the video's rate says. Writes `benchmarks/results/steering.json`. Give it a quiet machine; `--quick` takes 20 seconds
and writes nothing.
"""

import json
import subprocess
import sys
import tempfile
import time
from statistics import median

import psutil
from result_files import ROOT, Figures, Limits, parser_of, run_parts
from websockets.sync.client import ClientConnection, connect

from artv_core.play.server import PICTURE

RESULT = ROOT / "benchmarks/results/steering.json"
SECONDS, QUICK_SECONDS, SAY_EVERY = 300.0, 20.0, 10.0
FIRST_SECOND, TOLERANCE = 1.0, 0.02  # frames may be late in the first; a clock of this page is not more exact
WARM_SECONDS, NEAR_SECONDS = 10.0, 5.0  # memory: the median over the second, from the first on and at the end
WAYS, THINGS = ("left", "up", "right", "down"), ("red circle", "green star", "yellow square", "white triangle")
PROMPTS = [f"a large {thing} moving {way} on a blue background" for thing in THINGS for way in WAYS]
LIMITS: Limits = {
    "play": {
        "play: minutes watched": ("at least", 5),
        "play: frames late after the first second": ("at most", 0),
        "play: MB grown from ten seconds to the end": ("at most", 5),
        "play: most frames from the one being made to the first that obeys": ("at most", 1),
    }
}


def main() -> None:
    run_parts(parser_of(__doc__), RESULT, LIMITS, lambda part, args: run_play(QUICK_SECONDS if args.quick else SECONDS))


def run_play(seconds: float) -> Figures:
    """The command as people start it, but for the browser."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["play", "--checkpoint", "tiny", "--seed", "1", "--no-browser", "--output", folder]
        command = [sys.executable, "-m", "artv_core.cli", *words]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            origin = process.stdout.readline().strip().rstrip("/")
            where = origin.replace("http", "ws") + "/socket"
            with connect(where, origin=origin, compression=None) as socket:  # type: ignore[arg-type]
                watched = Watch(socket, psutil.Process(process.pid))
                watched.watch(seconds)
            process.terminate()
        return watched.figures(seconds)


class Watch:
    """A page that shows frames by its clock, says prompts, and reads the memory of the process."""

    def __init__(self, socket: ClientConnection, process: psutil.Process) -> None:
        self.socket, self.process = socket, process
        self.there = self.shown = -1
        self.status: Figures = {"made": 0}
        self.starts: list[int] = []  # of the prompts
        self.said: list[int] = []  # the frame that was being made
        self.delays: list[tuple[float, float]] = []  # (when, seconds late) of each frame
        self.memory: list[tuple[float, float]] = []  # (when, MB)

    def watch(self, seconds: float) -> None:
        period, began, due = 1 / 8, 0.0, 0.0
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
        self.starts = [start for start, _ in heard.get("prompts", [])] or self.starts

    def send(self, **message: object) -> None:
        self.socket.send(json.dumps(message))

    def figures(self, seconds: float) -> Figures:
        late = [delay for when, delay in self.delays if when > FIRST_SECOND and delay > TOLERANCE]
        early = [value for when, value in self.memory if WARM_SECONDS <= when < WARM_SECONDS + NEAR_SECONDS]
        end = [value for when, value in self.memory if when > self.memory[-1][0] - NEAR_SECONDS]
        obeyed = [start - made for made, start in zip(self.said, self.starts[1:], strict=False)]
        values = (round(seconds / 60, 2), len(late), round(median(end) - median(early), 2), max(obeyed, default=None))
        seen = {"frames": self.shown + 1, "latest, seconds": round(max(late, default=0.0), 3)}
        more = {"frames a second that it makes": self.status.get("rate"), "prompts said": len(self.said)}
        return {"bars": dict(zip(LIMITS["play"], values, strict=True)), **seen, **more}


if __name__ == "__main__":
    main()
