"""Whether memory and time stay level over a long video: `python benchmarks/long_video.py [--quick] [--parts NAME ...]`.

10,000 frames of the shipped checkpoint, two steps a frame:

core            each frame journaled, decoded, written to a growing file, measured, forgotten, in a process of its own
core, in turns  frames after 9,000 and frames after 100 in turns, so that what else the machine does hits both
ComfyUI ...     text to video with Decode to Video on a server of each ComfyUI found ($COMFYUI_PATH or ~/comfy/ComfyUI)

Memory is read from after frame 100 to after the last. Give it a quiet machine, or at least `OMP_NUM_THREADS=1`.
"""

import argparse
import gc
import multiprocessing
import os
import tempfile
import time
from array import array
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from result_files import ROOT, Figures, Limits, parser_of, run_parts, succeeded

from artv_core.commands.comfyui_server import Host, Server, find_hosts
from artv_core.media import VideoWriter
from artv_core.method.options import GenerateOptions
from artv_core.run.drift import DriftLog, DriftMeter
from artv_core.run.pipeline import Pipeline
from artv_core.run.recording import Recording
from tests.host.random_graphs import shipped

RESULT = ROOT / "benchmarks/results/long_video.json"
PROMPT = "a large red circle moving right on a blue background"
FRAMES, QUICK_FRAMES, STEPS = 10_000, 400, 2
USUAL: dict[str, Any] = {"steps": STEPS}
EARLY = 100
"""Memory must not grow any more after this number of frames. A figure is the median of as many readings."""
SPAN, BLOCK = 1000, 50
"""How many frames are timed at the start (from frame `EARLY` on) and at the end, in blocks: of a process that is read
from outside no single frame is timed."""
TURNS, QUICK_TURNS = 500, 20
"""Of one late and one early frame each."""
LATENT_AND_MASK = FRAMES * 4 * (4 + 1) * 8 * 8 / 1e6
"""MB that a host keeps of them: float32 numbers of four channels and one, 8x8 cells a frame."""

CORE, IN_TURNS = "core", "core, in turns"
HOSTS = {f"ComfyUI {host.version}, Decode to Video": host for host in find_hosts()}
STAGES = {"ARTVMaskedDiffusionSampler": "sampling", "ARTVDecodeVideo": "decoding"}
MEMORY, TIME = ("at most", 20.0), ("at most", 1.05)


def limits_of(part: str, *stages: str) -> dict[str, tuple[str, float]]:
    """The bars of `level`. A part of several stages runs in a host."""
    grown, within = f"{part}: MB grown from frame {EARLY} to the end", " and of ".join(stages)
    memory = {grown: MEMORY}
    if len(stages) > 1:
        allowed = f"{grown} (limit: {MEMORY[1]:g} plus LATENT and MASK)"
        memory = {allowed: ("at most", MEMORY[1] + LATENT_AND_MASK), f"{grown} of {within}": MEMORY}
    times = (f"{part}: seconds per frame of {stage}, last {SPAN} over first {SPAN}" for stage in stages)
    return memory | dict.fromkeys(times, TIME)


LIMITS: Limits = {
    CORE: limits_of(CORE, "streaming"),
    IN_TURNS: {f"{IN_TURNS}: seconds per frame after 9,000 frames over after {EARLY}": TIME},
    **{part: limits_of(part, *STAGES.values()) for part in HOSTS},
}


def main() -> None:
    run_parts(parser_of(__doc__), RESULT, LIMITS, measure)


def measure(part: str, args: argparse.Namespace) -> Figures:
    frames = QUICK_FRAMES if args.quick else FRAMES
    if part == IN_TURNS:
        figures = run_turns(frames, QUICK_TURNS if args.quick else TURNS)
        found, values = {"late and early frames": figures}, [figures["wall, late over early"]]
    else:
        found = run_host(HOSTS[part], frames) if part in HOSTS else run_core(frames)
        values = level(found)
    return {"frames": frames, "steps": STEPS} | found | {"bars": dict(zip(LIMITS[part], values, strict=True))}


# Readings


class Trace:
    """Readings of one process while it makes frames: frames finished, time, resident memory (RSS), and that without
    mapped files, which the system may drop and so hide what grows."""

    def __init__(self, process: int) -> None:
        self._process = psutil.Process(process)
        self._finished = 0.0
        self._readings = array("d")  # flat, so that 10,000 of them in the process that is read weigh nothing

    def note(self, finished: float) -> None:
        """Read now, if there is more than before; `finished` may have a part of a frame."""
        if finished <= self._finished:
            return
        self._finished = finished
        with suppress(psutil.NoSuchProcess):  # it may have ended since
            memory = self._process.memory_info()
            own = memory.rss - getattr(memory, "shared", 0)
            self._readings.extend((finished, time.perf_counter(), memory.rss / 1e6, own / 1e6))

    def figures(self, frames: int) -> Figures:
        """Memory (MB), and the ratio of the last `SPAN` frames' time to that of those from frame `EARLY` on."""
        finished, seconds, memory, own = np.array(self._readings).reshape(-1, 4).T
        span = min(SPAN, (frames - EARLY) // 2 // BLOCK * BLOCK)

        def taken(start: int) -> float:  # the clock is read now and then, and taken as straight lines between
            ends = np.interp(np.arange(start, start + span + 1, BLOCK), finished, seconds)
            return float(np.median(np.diff(ends)))

        def levels(values: np.ndarray) -> Figures:
            places = {str(EARLY): (finished >= EARLY) & (finished < 2 * EARLY), "end": finished > frames - EARLY}
            return {name: round(float(np.median(values[near])), 2) for name, near in places.items()}

        times = {"medians, last over first": round(taken(frames - span) / taken(EARLY), 4)}
        return {"RSS, MB": levels(memory), "RSS without files, MB": levels(own)} | times


def grown(stages: dict[str, Figures]) -> float:
    """MB over all stages, from frame `EARLY` of the first to the end of the last; of both kinds the larger."""
    first, *_ = stages.values()
    kinds = [kind for kind in first if kind.endswith("MB")]
    return round(max(part[kind]["end"] - first[kind][str(EARLY)] for part in stages.values() for kind in kinds), 2)


def level(stages: dict[str, Figures]) -> list[float]:
    """The values of `limits_of`. Of several stages also what they grow without what the next one needs for itself, such
    as an encoder."""
    within = round(sum(grown({stage: figures}) for stage, figures in stages.items()), 2)
    memory = [grown(stages), within] if len(stages) > 1 else [grown(stages)]
    return memory + [figures["medians, last over first"] for figures in stages.values()]


# The core


def run_core(frames: int, options: dict[str, Any] = USUAL) -> dict[str, Figures]:
    """In a child, so that nothing else is in its memory."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return {"streaming": pool.submit(stream_core, frames, options).result()}


def stream_core(frames: int, options: dict[str, Any]) -> Figures:
    """Each frame is made, journaled, decoded, written, measured, and forgotten, in this process."""
    trace, meter, pipeline = Trace(os.getpid()), DriftMeter(), Pipeline.from_checkpoint("tiny")
    chosen = GenerateOptions(num_frames=frames, **options)
    with tempfile.TemporaryDirectory() as folder:
        made = pipeline.frames(PROMPT, chosen, recording=Recording(Path(folder)))
        for finished in streamed(made, Path(folder), meter):
            if finished in (EARLY, frames - EARLY):
                gc.collect()
            trace.note(finished)
    return trace.figures(frames)


def streamed(made: Generator[Any, None, None], folder: Path, meter: DriftMeter) -> Iterator[int]:
    """Write and measure frame after frame; how many are done."""
    video = VideoWriter(folder / "video.mp4", 8.0, growing=True)
    with closing(made), video, DriftLog(folder / "drift.csv") as log:
        for frame in made:
            video.append(frame.image[0])
            mask = None if frame.mask is None else frame.mask[0, 0]
            log.append(meter.read(frame.index, frame.image[0], mask))
            yield frame.index + 1


def run_turns(frames: int, turns: int, chosen: dict[str, Any] = USUAL) -> Figures:
    """The last frames of one run (from `frames` - `SPAN` on, of a short one from `frames` - `EARLY` on) and those from
    `EARLY` on of another, made in turns. The frames before are given ones, so that they need not be sampled; they go
    through journal, decoder and writer like the others."""
    late = frames - (SPAN if frames > 2 * SPAN else EARLY)
    pipeline, times = Pipeline.from_checkpoint("tiny"), []
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        runs = {"late": goes_on(pipeline, Path(one), late, chosen)}
        runs["early"] = goes_on(pipeline, Path(other), EARLY, chosen)
        for turn in range(turns):
            clocked = {name: clock(runs[name]) for name in (list(runs) if turn % 2 else list(runs)[::-1])}
            times.append([clocked["late"], clocked["early"]])
    medians = np.median(np.array(times), axis=0)  # [late or early, clock]
    wall, processor = (round(float(ratio), 4) for ratio in medians[0] / medians[1])
    return {"wall, late over early": wall, "processor, late over early": processor, "late": late, "turns": turns}


def goes_on(pipeline: Pipeline, folder: Path, given: int, chosen: dict[str, Any]) -> Iterator[int]:
    """A run that was given this number of frames, at the first frame that it makes."""
    first = next(iter(pipeline.frames(PROMPT, GenerateOptions(num_frames=1, **chosen)))).latent
    options = GenerateOptions(num_frames=0, **chosen)
    made = pipeline.frames(PROMPT, options, given=[first] * given, recording=Recording(folder))
    run = streamed(made, folder, DriftMeter())
    while next(run) < given + 5:
        pass
    return run


def clock(run: Iterator[int]) -> tuple[float, float]:
    """Seconds that the next frame takes, by the wall and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    next(run)
    return time.perf_counter() - wall, time.process_time() - processor


# ComfyUI


def run_host(host: Host, frames: int) -> dict[str, Figures]:
    """A server of its own, read from outside when it tells of its progress; a short video warms it up."""
    with tempfile.TemporaryDirectory() as base, Server(host, Path(base)) as server:
        kinds = {key: part["class_type"] for key, part in shipped().items()}
        traces: dict[str, Trace] = {}

        def note(result: Any) -> None:
            node, value, total = result.progress[-1]
            traces.setdefault(kinds[node], Trace(server._process.pid)).note(value * frames / total)

        for length, seed, on_progress in ((EARLY, 2, None), (frames, 1, note)):
            succeeded(server.run(shipped(frames=length, seed=seed, steps=STEPS), on_progress))
    return {STAGES[kind]: trace.figures(frames) for kind, trace in traces.items()}


if __name__ == "__main__":
    main()
