"""Directing a video while it is made: `python benchmarks/steering.py [--quick] [--parts NAME ...]`.

play      `artv play` with `tiny`, watched for five minutes by a page that shows each frame at its time
killed    `artv play` as a process that is killed ten times at random moments, and goes on each time
flood     1,200 frames of `artv play` with three steps back, and thousands of messages
unused    what steering costs a run that is not steered
host      prompts said to runs in a ComfyUI over HTTP

In `play`, a prompt is said every ten seconds. A frame is late if it is not there when the frame before it was shown for
as long as the video's rate says. `play` needs a quiet machine; the other parts count, or measure CPU time.
"""

import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import psutil
from result_files import ROOT, Figures, Limits, parser_of, run_parts
from websockets.sync.client import connect

from artv_core.commands.comfyui_server import Server, find_hosts
from artv_core.method.generate import VideoRequest
from artv_core.method.options import GenerateOptions
from artv_core.play.pace import short_collections
from artv_core.play.trial import threads_of_torch
from artv_core.run.pipeline import Pipeline
from artv_core.run.recording import record_frames
from artv_core.run.steered_track import SteeredTrack
from artv_core.run.steering import SteeredRun
from tests.host.conftest import FAULTS
from tests.host.steered import Driver, graph, made
from tests.played import QUICK, Player, frames_lost_or_other, killed_at_random, process_of
from tests.watched import PROMPTS, Watch
from tests.work import count_each

RESULT = ROOT / "benchmarks/results/steering.json"
SECONDS, QUICK_SECONDS = 300.0, 20.0
FIRST_SECOND, TOLERANCE = 1.0, 0.02  # frames may be late in the first; a clock of this page is not more exact
WARM_SECONDS, NEAR_SECONDS = 10.0, 5.0  # memory: the median over the second, from the first on and at the end
TINY, LONGEST = "tiny (shipped)", 1800.0
LIMITS: Limits = {
    "play": {
        "play: minutes watched": ("at least", 5),
        "play: frames late after the first second": ("at most", 0),
        "play: MB grown from ten seconds to the end": ("at most", 5),
        "play: most frames from the one being made to the first that obeys": ("at most", 1),
    },
    "killed": {
        "killed: times": ("at least", 10),
        "killed: pictures that were played and are lost or others": ("at most", 0),
        "killed: latents that the schedule does not make again to the bit": ("at most", 0),
    },
    "flood": {
        "flood: frames made": ("at least", 1200),
        "flood: messages in the fullest second": ("at least", 1000),
        "flood: MB grown": ("at most", 5),
    },
    "unused": {
        "unused: operators more in a frame": ("at most", 0),
        "unused: share of a frame's CPU time": ("at most", 0.001),
    },
    "host": {
        "host: prompts said": ("at least", 10),
        "host: most frames from the one being made to the first that obeys": ("at most", 1),
        "host: latents that the schedule does not make again to the bit": ("at most", 0),
    },
}


def main() -> None:
    parts = {"play": run_play, "killed": run_killed, "flood": run_flood, "unused": run_unused, "host": run_host}
    run_parts(parser_of(__doc__), RESULT, LIMITS, lambda part, args: parts[part](args.quick))


def values_of(part: str, *values: float | None) -> Figures:
    return {"bars": dict(zip(LIMITS[part], values, strict=True))}


def run_play(quick: bool) -> Figures:
    """The command as people start it, but for the browser."""
    seconds = QUICK_SECONDS if quick else SECONDS
    with tempfile.TemporaryDirectory() as folder:
        words = ["play", "--checkpoint", "tiny", "--seed", "1", "--no-browser", "--output", folder]
        command = [sys.executable, "-m", "artv_core.cli", *words]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            origin = process.stdout.readline().strip().rstrip("/")
            where = origin.replace("http", "ws") + "/socket"
            with connect(where, origin=origin, compression=None) as socket:  # type: ignore[arg-type]
                watched = Watch(socket, psutil.Process(process.pid))
                with short_collections():  # as in a page, nothing pauses here
                    watched.watch(seconds)
            process.terminate()
        return figures(watched, seconds)


def figures(watched: Watch, seconds: float) -> Figures:
    late = [delay for when, delay in watched.delays if when > FIRST_SECOND and delay > TOLERANCE]
    early = [value for when, value in watched.memory if WARM_SECONDS <= when < WARM_SECONDS + NEAR_SECONDS]
    end = [value for when, value in watched.memory if when > watched.memory[-1][0] - NEAR_SECONDS]
    obeyed = [start - made for made, start in zip(watched.said, watched.starts[1:], strict=False)]
    minutes, grown = round(seconds / 60, 2), round(median(end) - median(early), 2)
    bars = values_of("play", minutes, len(late), grown, max(obeyed, default=None))
    seen = {"frames": watched.shown + 1, "latest, seconds": round(max(late, default=0.0), 3)}
    more = {"frames a second that it makes": watched.status.get("rate"), "prompts said": len(watched.said)}
    cost = {"steps": watched.steps, "CPU ms a frame": round(1000 * watched.cpu_seconds / (watched.shown + 1), 1)}
    alone = round(1000 * median(cpu_seconds(watched.steps)), 1)
    return {**bars, **seen, **more, **cost, "CPU ms a frame of the pipeline alone": alone}


def cpu_seconds(steps: int, count: int = 40) -> list[float]:
    """Seconds of processor time for each frame of `tiny`, image included, on one thread."""
    options = GenerateOptions(num_frames=count, steps=steps, seed=1)
    with threads_of_torch(1):
        times = [time.process_time() for _ in Pipeline.from_checkpoint("tiny").frames(PROMPTS[0], options)]
    return [later - earlier for earlier, later in pairwise(times)][2:]


def run_killed(quick: bool) -> Figures:
    kills = 2 if quick else 10
    with tempfile.TemporaryDirectory() as folder:
        seen = killed_at_random(Path(folder), kills)
        lost, other = frames_lost_or_other(Pipeline.from_checkpoint("tiny"), Path(folder), seen)
    return {**values_of("killed", kills, lost, other), "frames": len(seen)}


def run_flood(quick: bool) -> Figures:
    """The memory before is that after the first 150 frames, a flood and a step back. Each prompt keeps its encoding, so
    all floods say the same ones."""
    frames, memory, fullest = 240 if quick else 1200, list[float](), 0.0
    with tempfile.TemporaryDirectory() as folder, process_of(Path(folder), "--seed", 1, *QUICK) as (running, socket):
        page = Player(None, socket)  # type: ignore[arg-type]
        page.until(lambda: page.frames)
        for goal in (frames // 12, frames // 8, frames // 2, frames):
            page.until(lambda goal=goal: len(page.frames) >= goal, seconds=LONGEST)
            began = time.monotonic()
            for number in range(1000):
                page.send(do="say", text=PROMPTS[number % len(PROMPTS)])
            fullest = max(fullest, 1000 / max(1.0, time.monotonic() - began))
            page.ask(do="back")
            page.until(lambda goal=goal: len(page.frames) < goal)  # the step back is taken
            memory.append(psutil.Process(running.pid).memory_info().rss / 1e6)
    return {**values_of("flood", frames, round(fullest), round(memory[-1] - memory[1], 2)), "MB": memory[-1]}


def run_unused(quick: bool) -> Figures:
    pipeline, count = Pipeline.from_checkpoint("tiny"), 10_000
    options = GenerateOptions(num_frames=5, steps=4, seed=1).resolved(pipeline.model.config)
    text = pipeline.encode_prompts(PROMPTS[0])
    track = SteeredTrack([(0, PROMPTS[0])], lambda _: text.segments[0].context)
    run = SteeredRun(pipeline.model, VideoRequest(track, options))
    for _ in record_frames(pipeline.model, VideoRequest(text, options)):
        pass  # the first run also packs weights
    ways = (record_frames(pipeline.model, VideoRequest(text, options)), run.frames())
    plain, hooked = ([work.kernels for work in count_each(pipeline.model, frames)] for frames in ways)
    began = time.process_time()
    for frame in range(count):
        track.begin(frame)
        run.steering.frame_made(frame)
        run.steering.between_frames()
    hooks, whole = (time.process_time() - began) / count, median(cpu_seconds(4, 8 if quick else 40))
    more = max(one - other for one, other in zip(hooked, plain, strict=True))
    figures = {"microseconds of a frame": round(hooks * 1e6, 2), "CPU ms of a frame of 4 steps": round(whole * 1e3, 1)}
    return {**values_of("unused", more, round(hooks / whole, 7)), **figures}


def run_host(quick: bool) -> Figures:
    asked, frames = [(2 + 5 * number, {"say": text}) for number, text in enumerate(PROMPTS[: 2 if quick else 12])], 70
    with tempfile.TemporaryDirectory() as base, Server(find_hosts()[0], Path(base), FAULTS) as server:
        queued, driver = graph(frames=frames, checkpoint=TINY), Driver(server, *asked)
        latents, result = made(server, queued, driver)
        told = result.live[-1]["steering"]
        seed = queued["sample"]["inputs"]["seed"]
        again, _ = made(server, graph(told["schedule"], 0.0, frames=frames, seed=seed, checkpoint=TINY))
    late = [start - done for done, (start, _) in zip(driver.at, told["said"], strict=True)]
    other = sum(not one.equal(two) for one, two in zip(latents, again, strict=True))
    return {**values_of("host", len(late), max(late), other), "ComfyUI": find_hosts()[0].version}


if __name__ == "__main__":
    main()
