"""Whether memory and time stay level over a long video: `python benchmarks/long_video.py`.

10,000 frames of the shipped checkpoint, two steps a frame, made by the core (each frame journaled, decoded, written to
a growing file, measured, forgotten), by `artv generate --stream`, and on a real server of each ComfyUI found
($COMFYUI_PATH or ~/comfy/ComfyUI), once with Decode to Video and once with Stream to Video. Each in a process of its
own, whose memory is read from after frame 100 to after the last. Writes `benchmarks/results/long_video.json`; `--parts`
does some of it, and what the others wrote is kept. Give it a quiet machine, or at least `OMP_NUM_THREADS=1`.
"""

import argparse
import gc
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from result_files import commit

from artv_core.commands.comfyui_server import Graph, Host, Server, find_hosts
from artv_core.media import VideoWriter
from artv_core.method.generate import GenerateOptions
from artv_core.run.drift import DriftLog, DriftMeter
from artv_core.run.journal_file import SUFFIX, JournalReader
from artv_core.run.journal_folder import FOLDER
from artv_core.run.pipeline import Pipeline
from artv_core.run.recording import Recording

RESULT = ROOT / "benchmarks/results/long_video.json"
PROMPT = "a large red circle moving right on a blue background"
FRAMES, QUICK_FRAMES, STEPS = 10_000, 400, 2
EARLY = 100
"""After so many frames memory must not grow any more."""
WINDOW = 100
"""Readings of so many frames give one figure, their median."""
SPAN = 1000
"""How many frames are timed at the start (from frame `EARLY` on) and at the end."""
BLOCK = 50
"""Frames that are timed as one, where a median is taken: of a process that is read from outside no frame is timed."""
WARM_UP = EARLY
"""Frames of the video that a server makes before the one that is measured: what it loads once is there then."""
POLL_SECONDS = 0.02

MEMORY_BAR = 20.0
TIME_BAR = 1.05
HOSTS = ("0.3.64", "0.12.1")
MAKERS = ("core", "turns", "cli", "comfyui")
TURNS = 500
"""Of one late and one early frame each."""
STAGES = {"core": ("streaming",), "core, in turns": ()} | {
    f"ComfyUI {version}, Decode to Video": ("sampling", "decoding") for version in HOSTS
}
"""The parts that there are bars for in any case, and what is timed in them; others have theirs once they were run."""

OWN = "MB of LATENT and MASK"

Figures = dict[str, Any]
Part = dict[str, Figures]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, help=f"default: {FRAMES}; with another number nothing is kept")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_FRAMES} frames")
    parser.add_argument("--parts", nargs="+", choices=MAKERS, default=MAKERS)
    parser.add_argument("--output", type=Path, help="where to write, instead of the committed result")
    args = parser.parse_args()
    frames = args.frames or (QUICK_FRAMES if args.quick else FRAMES)
    if frames < 2 * EARLY:
        parser.error(f"--frames is {frames}; at least {2 * EARLY} are needed")
    path = args.output or (RESULT if frames == FRAMES else None)
    for maker in args.parts:
        for name, part in {"core": run_core, "turns": run_turns, "cli": run_cli, "comfyui": run_hosts}[maker](frames):
            print_part(name, part)
            if path is not None:
                keep(path, frames, name, part)
    if path is not None:
        print_bars(json.loads(path.read_text())["bars"])


# Results


def keep(path: Path, frames: int, name: str, part: Part) -> None:
    """Write this part beside what the file holds of others of the same length."""
    kept = json.loads(path.read_text()) if path.is_file() else {}
    parts = kept["parts"] if kept.get("frames") == frames else {}
    now = commit()
    parts[name] = {"commit": now} | part
    result = {
        "command": "python benchmarks/long_video.py",
        "commit": now,
        "machine": machine(),
        "frames": frames,
        "steps": STEPS,
        "bars": [bar for name in dict.fromkeys([*STAGES, *parts]) for bar in bars(name, parts.get(name))],
        "parts": parts,
    }
    path.write_text(json.dumps(result, indent=1) + "\n")


def bars(name: str, part: Part | None) -> list[dict[str, Any]]:
    """Of one part; without figures where it was not run."""
    if name == "core, in turns":
        ratio = None if part is None else part["late and early frames"]["wall, late over early"]
        return [bar(f"{name}: seconds per frame after 9,000 frames over after {EARLY}", ratio, TIME_BAR)]
    stages = STAGES.get(name) or [stage for stage in part or {} if stage != "commit"]
    memory = {} if part is None else part["memory"]
    own = " (20 and those of LATENT and MASK)" if "ComfyUI" in name else ""
    limit = round(MEMORY_BAR + memory.get(OWN, 0.0), 2)
    found = [bar(f"{name}: MB grown from frame {EARLY} to the end{own}", memory.get("MB grown"), limit)]
    if "ComfyUI" in name:
        within = None if part is None else round(sum(grown_within(part[stage]) for stage in stages), 2)
        found.append(bar(f"{name}: MB grown from frame {EARLY} to the end of {' and of '.join(stages)}", within, 20))
    for stage in stages:
        ratio = None if part is None else part[stage]["medians, last over first"]
        found.append(bar(f"{name}: seconds per frame of {stage}, last {SPAN} over first {SPAN}", ratio, TIME_BAR))
    return found


def grown_within(stage: Figures) -> float:
    """MB from frame `EARLY` to the end of one stage: without what the next one needs for itself, such as an encoder."""
    return max(figures["end"] - figures[str(EARLY)] for kind, figures in stage.items() if kind.endswith("MB"))


def bar(name: str, value: float | None, limit: float) -> dict[str, Any]:
    return {"name": name, "value": value, "limit": f"at most {limit:g}", "holds": value is not None and value <= limit}


def machine() -> str:
    threads = os.environ.get("OMP_NUM_THREADS") or os.cpu_count()
    torch_version = metadata.version("torch").split("+")[0]
    return f"{platform.machine()}, {platform.system()}, CPU, {threads} threads, torch {torch_version}"


def print_part(name: str, part: Part) -> None:
    print(f"\n{name}")
    for stage, figures in part.items():
        print(f"  {stage}: " + ", ".join(f"{key} {value}" for key, value in figures.items()), flush=True)


def print_bars(found: list[dict[str, Any]]) -> None:
    print()
    for entry in found:
        state = "holds" if entry["holds"] else "not measured" if entry["value"] is None else "MISSED"
        print(f"{entry['name']:90} {entry['value']!s:>8}  {entry['limit']:13}  {state}")


# Readings


class Trace:
    """Readings of one process while it makes frames: frames finished, time, processor time, resident memory (RSS), and
    that without mapped files, which the system may drop and so hide what grows."""

    def __init__(self, process: int) -> None:
        self._process = psutil.Process(process)
        self._finished = 0.0
        self._readings = array("d")  # flat, so that 10,000 of them in the process that is read weigh nothing

    def note(self, finished: float) -> None:
        """Read now, if there is more than before; `finished` may have a part of a frame."""
        if finished <= self._finished:
            return
        self._finished = finished
        with suppress(psutil.NoSuchProcess), self._process.oneshot():  # it may have ended since
            memory, times = self._process.memory_info(), self._process.cpu_times()
            own = memory.rss - getattr(memory, "shared", 0)
            if memory.rss:
                clocks = (time.perf_counter(), times.user + times.system)
                self._readings.extend((finished, *clocks, memory.rss / 1e6, own / 1e6))

    def figures(self, frames: int) -> Figures:
        """Memory (MB) and ratios of time; see `EARLY`, `WINDOW` and `SPAN`."""
        finished, seconds, busy, memory, own = np.array(self._readings).reshape(-1, 5).T
        span = min(SPAN, (frames - EARLY) // 2 // BLOCK * BLOCK)
        return {
            "RSS, MB": memory_figures(finished, memory, frames),
            "RSS without files, MB": memory_figures(finished, own, frames),
            "medians, last over first": ratio(finished, seconds, frames, span, np.median),
            "totals, last over first": ratio(finished, seconds, frames, span, np.sum),
            "processor time, last over first": ratio(finished, busy, frames, span, np.sum),
        }


def memory_figures(finished: np.ndarray, memory: np.ndarray, frames: int) -> dict[str, float | None]:
    """After frame `EARLY` and every `SPAN` frames, at the end, and the most there was from frame `EARLY` on."""

    def around(frame: int) -> float | None:
        near = memory[(finished >= frame) & (finished < frame + WINDOW)]
        return round(float(np.median(near)), 2) if len(near) else None  # a server tells of frames now and then

    return {str(frame): around(frame) for frame in (EARLY, *range(SPAN, frames - WINDOW, SPAN))} | {
        "end": round(float(np.median(memory[finished > frames - WINDOW])), 2),
        "most": round(float(memory[finished >= EARLY].max()), 2),
    }


def ratio(
    finished: np.ndarray, clock: np.ndarray, frames: int, span: int, summary: Callable[[np.ndarray], Any]
) -> float:
    """Of what the last `span` frames took, in blocks, to what those from frame `EARLY` on did. Clocks are read now and
    then, and taken as straight lines between."""

    def taken(start: int) -> float:
        ends = np.interp(np.arange(start, start + span + 1, BLOCK), finished, clock)
        return float(summary(np.diff(ends)))

    return round(taken(frames - span) / taken(EARLY), 4)


def as_part(stages: dict[str, Figures], own: dict[str, float] | None = None) -> Part:
    """Its memory over all stages, from frame `EARLY` of the first to the end of the last. The `own` bytes of LATENT and
    MASK, which the bar allows for, are told beside it; both are there, whole and empty, before the first frame."""
    first, *_ = stages.values()
    kinds = [kind for kind in first if kind.endswith("MB")]
    grown = max(figures[kind]["end"] - first[kind][str(EARLY)] for figures in stages.values() for kind in kinds)
    return {"memory": {"MB grown": round(grown, 2)} | (own or {})} | stages


# The core and the command line


def run_core(frames: int) -> list[tuple[str, Part]]:
    """In a child, so that nothing else is in its memory."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return [("core", as_part({"streaming": pool.submit(stream_core, frames).result()}))]


def stream_core(frames: int) -> Figures:
    """Each frame is made, journaled, decoded, written, measured, and forgotten, in this process."""
    trace, meter, pipeline = Trace(os.getpid()), DriftMeter(), Pipeline.from_checkpoint("tiny")
    options = GenerateOptions(num_frames=frames, steps=STEPS)
    with tempfile.TemporaryDirectory() as folder:
        made = pipeline.frames(PROMPT, options, recording=Recording(Path(folder)))
        for finished in streamed(made, Path(folder), meter):
            if finished in (EARLY, frames - WINDOW):
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


# Late and early frames in turns: what else the machine does hits both


def run_turns(frames: int) -> list[tuple[str, Part]]:
    """Frames from `frames` - `SPAN` on of one run and from `EARLY` on of another, made in turns. The frames before are
    given ones, so that they need not be sampled; they go through journal, decoder and writer like the others."""
    late, early = frames - SPAN if frames > 2 * SPAN else frames // 2, EARLY
    pipeline = Pipeline.from_checkpoint("tiny")
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        runs = [goes_on(pipeline, Path(one), late), goes_on(pipeline, Path(other), early)]
        times = [
            [clocked(run) for run in (runs if turn % 2 else runs[::-1])][:: 1 if turn % 2 else -1]
            for turn in range(TURNS)
        ]
    clocks = np.array(times)  # [turn, late or early, clock]
    wall, processor = np.median(clocks, axis=0)[0] / np.median(clocks, axis=0)[1]
    figures = {"wall, late over early": round(float(wall), 4), "processor, late over early": round(float(processor), 4)}
    return [("core, in turns", {"late and early frames": figures | {"late": late, "early": early, "turns": TURNS}})]


def goes_on(pipeline: Pipeline, folder: Path, given: int) -> Iterator[int]:
    """A run behind so many given frames, at the first frame that it makes."""
    first = next(iter(pipeline.frames(PROMPT, GenerateOptions(num_frames=1, steps=STEPS)))).latent
    options = GenerateOptions(num_frames=0, steps=STEPS)
    made = pipeline.frames(PROMPT, options, given=[first] * given, recording=Recording(folder))
    run = streamed(made, folder, DriftMeter())
    for finished in run:
        if finished == given + 5:
            return run
    raise AssertionError("an endless run has ended")


def clocked(run: Iterator[int]) -> tuple[float, float]:
    """Seconds that the next frame takes, by the wall and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    next(run)
    return time.perf_counter() - wall, time.process_time() - processor


def run_cli(frames: int) -> list[tuple[str, Part]]:
    """`artv generate --stream`, read from outside; its journal says how far it is."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        output = ["-o", str(folder / "video.mp4"), "--stream", "--device", "cpu"]
        command = [sys.executable, "-m", "artv_core.cli", "generate", PROMPT, *output]
        command += ["--frames", str(frames), "--steps", str(STEPS)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            trace = follow(process, folder / FOLDER)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            raise SystemExit(f"artv generate failed: {(folder / 'log').read_text()[-1000:]}")
    return [("cli", as_part({"streaming": trace.figures(frames)}))]


def follow(process: subprocess.Popen, folder: Path) -> Trace:
    """Read the process until it ends, from when there is a journal in the folder."""
    trace, journal = Trace(process.pid), None
    while process.poll() is None:
        if journal is None:
            journal = next(map(JournalReader, folder.glob(f"*{SUFFIX}")), None)
        else:
            trace.note(journal.num_records)
        time.sleep(POLL_SECONDS)
    if journal is not None:
        journal.__exit__()
    return trace


# ComfyUI


def run_hosts(frames: int) -> Iterator[tuple[str, Part]]:
    """Each as soon as it is measured, for it takes long."""
    hosts = find_hosts()
    if not hosts:
        print("no ComfyUI found: set COMFYUI_PATH to its folder", file=sys.stderr)
    graphs = {"Decode": decode_graph, "Stream": stream_graph}
    for host in hosts:
        for name, graph in graphs.items():
            yield f"ComfyUI {host.version}, {name} to Video", run_host(host, graph, frames)


def run_host(host: Host, graph: Callable[[int, int], Graph], frames: int) -> Part:
    """A server of its own, read from outside when it tells of its progress."""
    with tempfile.TemporaryDirectory() as base, Server(host, Path(base)) as server:
        kinds = {key: part["class_type"] for key, part in graph(frames, 1).items()}
        traces: dict[str, Trace] = {}

        def note(result: Any) -> None:
            node, value, total = result.progress[-1]
            trace = traces.setdefault(kinds[node], Trace(server._process.pid))
            trace.note(value * frames / total)

        for length, seed, on_progress in ((WARM_UP, 2, None), (frames, 1, note)):
            result = server.run(graph(length, seed), on_progress)
            if result.status != "success":
                raise SystemExit(f"the workflow failed: {result.message}")
        latent_bytes = journal_latent_bytes(Path(base) / "output" / FOLDER)
    names = {"ARTVMaskedDiffusionSampler": "sampling", "ARTVDecodeVideo": "decoding"}
    stages = {names[kind]: trace.figures(frames) for kind, trace in traces.items()}
    return as_part(stages, {OWN: round(frames * latent_bytes / 1e6, 2)})


def journal_latent_bytes(folder: Path) -> int:
    """What a frame takes in LATENT and MASK together, float32; the journal's header knows its size."""
    with JournalReader(next(folder.glob(f"*{SUFFIX}"))) as journal:
        batch, channels, height, width = journal.header.shape
    return 4 * batch * (channels + 1) * height * width


def decode_graph(frames: int, seed: int) -> Graph:
    """The shipped text to video, without previews."""
    graph = json.loads((ROOT / "workflows/api/text_to_video.json").read_text())
    inputs = graph[_sampler(graph)]["inputs"]
    inputs |= {"frames": frames, "steps": STEPS, "seed": seed}
    del inputs["vae"]
    return graph


def stream_graph(frames: int, seed: int) -> Graph:
    """The same with the file written by the sampler, and nothing after it."""
    graph = decode_graph(frames, seed)
    sampler = _sampler(graph)
    decode = next(key for key, part in graph.items() if part["class_type"] == "ARTVDecodeVideo")
    settings = {name: value for name, value in graph.pop(decode)["inputs"].items() if name != "latent"}
    graph["stream"] = {"class_type": "ARTVStreamVideo", "inputs": settings}
    graph["journal"] = {"class_type": "PreviewAny", "inputs": {"source": [sampler, 3]}}
    graph[sampler]["inputs"]["stream"] = ["stream", 0]
    return graph


def _sampler(graph: Graph) -> str:
    return next(key for key, part in graph.items() if part["class_type"] == "ARTVMaskedDiffusionSampler")


if __name__ == "__main__":
    main()
