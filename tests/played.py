"""`artv play` without a browser: a page that shows each picture at once, and real processes that are killed."""

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from artv_core import cli
from artv_core.commands.options import load_pipeline
from artv_core.commands.play import make_run, play_options, resumed
from artv_core.method.generate import generate_frames
from artv_core.play.pace import short_collections
from artv_core.play.pictures import encoded
from artv_core.play.server import PICTURE
from artv_core.play.session import Session
from artv_core.play.trial import threads_of_torch
from artv_core.run.journal_file import JournalReader
from artv_core.run.journal_folder import FOLDER, newest_first
from artv_core.run.pipeline import Pipeline
from tests.forked import COMMAND, COMMANDS, Fork, python_with

QUICK = ["--steps", "1", "--sampler", "euler", "--width", "32", "--height", "32"]
SECONDS = 120
THINGS, WAYS = ("red circle", "green star", "yellow square"), ("left", "right", "up", "down")


@dataclass
class Player:
    """A page without a browser: it shows each picture at once, and says so."""

    session: Session
    socket: ClientConnection
    frames: list[bytes] = field(default_factory=list)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    count: int = 0
    shows: bool = True

    def send(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def step(self) -> dict[str, Any] | None:
        """Take one message."""
        message = self.socket.recv(timeout=SECONDS)
        self.count += 1
        if isinstance(message, bytes):
            index, take = PICTURE.unpack_from(message)
            self.see(index, message[PICTURE.size :])
            if self.shows:
                self.send(do="shown", index=index, take=take)
            return None
        self.told[json.loads(message)["kind"]] = heard = json.loads(message)
        return heard

    def see(self, index: int, picture: bytes) -> None:
        self.frames[index:] = [picture]

    def until(self, met: Callable[[], Any], seconds: float = SECONDS) -> None:
        end = time.monotonic() + seconds
        while not met():
            assert time.monotonic() < end
            self.step()

    def ask(self, **message: Any) -> dict[str, Any]:
        """Send a message, and take messages up to its answer. Others that were sent before may be answered first."""
        self.send(**message)
        while True:
            heard = self.step()
            if heard is not None and heard["kind"] == "answer" and heard["to"] in (message["do"], "message"):
                return heard

    @property
    def status(self) -> dict[str, Any]:
        return self.told["status"]


def opened(address: str, origin: str | None = None, **headers: str) -> ClientConnection:
    where = address.replace("http", "ws") + "socket"
    return connect(where, origin=origin or address.rstrip("/"), additional_headers=headers, compression=None)  # type: ignore[arg-type]


class Listener(Player):
    """A player of a run that goes on, which begins in its midst: `seen` has the pictures of all its processes."""

    seen: dict[int, bytes]

    def see(self, index: int, picture: bytes) -> None:
        assert self.seen.get(index, picture) == picture, f"frame {index} is another one than it was"
        self.seen[index] = picture
        self.frames = [picture]

    def back(self) -> None:
        first = self.ask(do="back").get("frame", 1 + max(self.seen))
        for index in [index for index in self.seen if index >= first]:
            del self.seen[index]


def rate_of_play(folder: Path, frames: int, *words: str, warm: int = 20) -> float:
    """Frames a second that `artv play` makes with one thread of PyTorch after the first `warm` ones, if each is shown
    as soon as it is there. Its journal and the pictures for the page are made too."""
    args = cli.build_parser().parse_args(["play", "--output", str(folder), "--frames", str(frames), *words])
    pipeline, times = load_pipeline(args), list[float]()
    with threads_of_torch(1), short_collections():
        run = make_run(pipeline, play_options(args, pipeline.model.config), args)
        session = Session(pipeline, run, folder, lambda *_: "")

        def show() -> None:
            pictures = session.pictures_after(len(times))
            times.extend(time.perf_counter() for _ in pictures)
            if pictures:
                session.shown(pictures[-1].index, 0)

        session.on_change = show
        session.start()
        while len(times) < frames:
            assert session.failure is None
            time.sleep(0.1)
        session.close()
    return (frames - 1 - warm) / (times[-1] - times[warm])


@contextmanager
def process_of(folder: Path, *words: object) -> Iterator[tuple[Fork, ClientConnection]]:
    """`artv play` as a process of its own, and the socket of its page. It is killed at the end."""
    running = python_with(*COMMANDS).start(COMMAND, "play", "--no-browser", "--output", folder, *words)
    try:
        with opened(running.stdout.readline().strip()) as socket:
            yield running, socket
    finally:
        running.kill()
        running.communicate()


def killed_at_random(folder: Path, kills: int, seed: int = 0) -> dict[int, bytes]:
    """Play with words and steps back, SIGKILL the process at a random moment, and go on, `kills` times. Returns the
    pictures that were played. Raises AssertionError if one that comes again is another one."""
    rng, seen = random.Random(seed), dict[int, bytes]()
    for number in range(kills + 1):
        words = ["--resume"] if number else ["--seed", "5", "--prompt", "a red circle", *QUICK]
        with process_of(folder, *words) as (running, socket):
            page = Listener(None, socket)  # type: ignore[arg-type]
            page.seen, last = seen, max(seen, default=-1)
            page.until(lambda page=page: page.frames)
            assert max(seen) >= last, "what was played is there"
            end = time.monotonic() + rng.uniform(0.1, 1.5)
            while time.monotonic() < end or max(seen) < last + 3:
                page.step()
                if rng.random() < 0.1:
                    page.send(do="say", text=f"a {rng.choice(THINGS)} moving {rng.choice(WAYS)}")
                if rng.random() < 0.03 and max(seen) > 24:
                    page.back()
                    last = 0
            running.kill()
            with suppress(ConnectionClosed):
                page.until(lambda: False)
    return seen


def frames_lost_or_other(pipeline: Pipeline, folder: Path, seen: dict[int, bytes]) -> tuple[int, int]:
    """(of the pictures that were played, those that the journal does not have so; of the journal's latents, those that
    the run's schedule and seeds do not make again to the bit)."""
    with JournalReader(newest_first(folder / FOLDER)[0]) as reader:
        kept = list(reader.frames())
    pictures = {frame.index: encoded(pipeline.decode(frame).image[0], frame.index) for frame in kept}
    again = made_again(pipeline, folder, len(kept))
    other = sum(not frame.latent.equal(latent) for frame, latent in zip(kept, again, strict=True))
    return sum(pictures.get(index) != picture for index, picture in seen.items()), other


def made_again(pipeline: Pipeline, folder: Path, count: int) -> list[Tensor]:
    """The first latents of the newest run in the folder, made from its schedule and seeds."""
    args = resumed(cli.build_parser().parse_args(["play", "--resume", "--output", str(folder)]))
    run = make_run(pipeline, play_options(args, pipeline.model.config), args)
    frames = run.frames()
    next(frames)  # takes over what was said and done
    frames.close()
    request = run.final_request()
    request = replace(request, options=replace(request.options, num_frames=count))
    return [frame.latent for frame in generate_frames(pipeline.model, request)]
