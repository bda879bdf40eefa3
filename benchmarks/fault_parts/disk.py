"""A disk that is full in the middle of a run: a small tmpfs, made larger for the next run. By `artv`, then by ComfyUI.

The journal, the growing video and, in the end, the latents are on that disk; its size is random, so that now one, now
another of them is the first that has no room.
"""

import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from artv_core.commands.comfyui_server import Graph, Host, Result, find_hosts
from artv_core.run.journal_file import JournalReader
from artv_core.run.journal_folder import FOLDER
from artv_core.run.journal_list import list_journals
from tests.host.graphs import node

from .servers import PROMPT, Program, expect_success, held, streamed

ROOT = Path(__file__).resolve().parents[2]
FRAMES, STEPS = 40, 2
PAGE = 4096
LARGE = 64 * 2**20
TRIALS, QUICK_TRIALS = 16, 3
SERVER_TRIALS, QUICK_SERVER_TRIALS = 6, 2
VIDEO, LATENTS = "out.mp4", "out.safetensors"
UPSCALES = (1, 3)
"""With the larger one the video takes most of the room, else the journal and it take about the same."""

REASON = "no space left on device"


class Disk:
    """Context manager: a file system of its own on `folder`, of so many bytes; `resize` changes it."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size

    def __enter__(self) -> "Disk":
        self.folder.mkdir(parents=True, exist_ok=True)
        _mount("-t", "tmpfs", "-o", f"size={self.size}", "tmpfs", str(self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def resize(self, size: int) -> None:
        _mount("-o", f"remount,size={size}", str(self.folder))

    def clear(self) -> None:
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    @property
    def pages_used(self) -> int:
        """What is in use, in pages: a file takes whole ones."""
        status = os.statvfs(self.folder)
        return (status.f_blocks - status.f_bfree) * status.f_frsize // PAGE


def _mount(*arguments: str) -> None:
    ran = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"this part needs a file system of its own: {ran.stderr.strip()}; try it under unshare -rm")


@dataclass
class Trial:
    """What a full disk did: who said so, and what came of it after there was room."""

    name: str
    full: str  # which file had no room
    clear: bool
    journal_intact: bool
    kept: int
    resumed: bool  # from all the frames that were kept, to the uninterrupted run's result

    def __str__(self) -> str:
        faults = [
            text
            for text, holds in (
                ("NO CLEAR ERROR", self.clear),
                ("JOURNAL DAMAGED", self.journal_intact),
                ("NOT RESUMED", self.resumed),
            )
            if not holds
        ]
        return f"{self.name}: no room for the {self.full}, {self.kept} frames kept; {', '.join(faults) or 'resumed'}"


def measure(seed: int, quick: bool) -> dict[str, Any]:
    rng = random.Random(seed)
    trials = command_line_trials(rng, QUICK_TRIALS if quick else TRIALS)
    for host in find_hosts():
        trials += server_trials(host, rng, QUICK_SERVER_TRIALS if quick else SERVER_TRIALS)
    return {
        "no room for": dict(Counter(trial.full for trial in trials)),
        "trials": [str(trial) for trial in trials],
        "bars": {
            "disk full: trials": len(trials),
            "disk full: other than one clear error": sum(not trial.clear for trial in trials),
            "disk full: journals damaged": sum(not trial.journal_intact for trial in trials),
            "disk full: not resumed to the same result": sum(not trial.resumed for trial in trials),
        },
    }


# artv generate


@dataclass(frozen=True)
class Whole:
    """The uninterrupted run: its results, the journal's frames, and how many pages all that takes."""

    results: tuple[bytes, bytes]
    frames: list[bytes]
    pages: int


def command_line_trials(rng: random.Random, count: int) -> list[Trial]:
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base) / "disk"
        with Disk(folder, LARGE) as disk:
            wholes = {upscale: run_whole(disk, upscale) for upscale in UPSCALES}
        for number in range(count):
            upscale = UPSCALES[number % len(UPSCALES)]
            # The last of the pages may be the latents': they come when all else is there.
            with Disk(folder, PAGE * rng.randrange(1, wholes[upscale].pages)) as disk:
                trials.append(command_line_trial(disk, upscale, wholes[upscale]))
            print(f"  {trials[-1]}", flush=True)
    return trials


def run_whole(disk: Disk, upscale: int) -> Whole:
    ran = generate(disk.folder, upscale)
    if ran.returncode:
        raise SystemExit(f"the uninterrupted run failed: {ran.stderr}")
    whole = Whole(results(disk.folder), frames_of(disk.folder / FOLDER)[1], disk.pages_used)
    disk.clear()
    return whole


def command_line_trial(disk: Disk, upscale: int, whole: Whole) -> Trial:
    failed = generate(disk.folder, upscale)
    sound, frames = frames_of(disk.folder / FOLDER)
    said = errors(failed.stderr)
    size = disk.size
    disk.resize(LARGE)
    ran = generate(disk.folder, upscale)
    resumed = re.search(r"going on from frame (\d+)", ran.stderr)
    same = ran.returncode == 0 and results(disk.folder) == whole.results
    return Trial(
        name=f"artv, {size // 1024} of {whole.pages * PAGE // 1024} kB",
        full=which_file(said[0] if said else ""),
        clear=failed.returncode == 2 and len(said) == 1 and is_clear(said[0]) and "Traceback" not in failed.stderr,
        journal_intact=sound and frames == whole.frames[: len(frames)],
        kept=len(frames),
        resumed=same and len(frames) == (int(resumed[1]) if resumed else 0),
    )


def generate(folder: Path, upscale: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "artv_core.cli", "generate", PROMPT, "--frames", str(FRAMES)]
    command += ["--steps", str(STEPS), "--stream", "--upscale", str(upscale), "--device", "cpu"]
    command += ["-o", str(folder / VIDEO), "--save-latents", str(folder / LATENTS)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


def results(folder: Path) -> tuple[bytes, bytes]:
    """The video, and the bits of the latents: their file's header comes in any order."""
    return (folder / VIDEO).read_bytes(), load_file(folder / LATENTS)["latents"].numpy().tobytes()


def errors(stderr: str) -> list[str]:
    """What `artv` says, without its progress bar."""
    return re.findall(r"artv: (.+)", stderr)


# Both


def frames_of(folder: Path) -> tuple[bool, list[bytes]]:
    """Whether every journal there can be read to its end, and the bits of the longest one's frames."""
    longest: list[bytes] = []
    sound = True
    for info in list_journals(folder):
        with JournalReader(info.path) as reader:
            frames = [frame.latent.numpy().tobytes() for frame in reader.frames()]
            sound = sound and len(frames) == reader.num_records
        longest = max(longest, frames, key=len)
    return sound, longest


def is_clear(message: str) -> bool:
    """One line that names a file and the reason."""
    return len(message.splitlines()) == 1 and "/" in message and REASON in message.lower()


def which_file(message: str) -> str:
    names = {"journal": "journal", LATENTS: "latents", "stream/": "streamed video", ".mp4": "video"}
    return next((kind for part, kind in names.items() if part in message), "UNKNOWN")


# ComfyUI


def server_trials(host: Host, rng: random.Random, count: int) -> list[Trial]:
    """On one server, which must survive them all."""
    trials: list[Trial] = []
    graph = streamed(FRAMES, steps=STEPS, seed=3)
    with (
        tempfile.TemporaryDirectory() as base,
        Disk(Path(base) / "output", LARGE) as disk,
        Program(host, Path(base)) as server,
    ):
        expect_success(server.run(graph))
        _, frames = frames_of(disk.folder / FOLDER)
        pages = disk.pages_used
        for _ in range(count):
            forget(server)
            disk.clear()
            size = PAGE * rng.randrange(2, pages)
            disk.resize(size)
            trial = server_trial(server, disk, graph, frames)
            trial.name = f"ComfyUI {host.version}, {size // 1024} of {pages * PAGE // 1024} kB"
            trials.append(trial)
            print(f"  {trial}", flush=True)
    return trials


def forget(server: Program) -> None:
    """Another prompt, after which the host's cache no longer holds the one before."""
    other: Graph = {"other": node("EmptyImage", width=64, height=64, batch_size=1, color=0)}
    expect_success(server.run(other | {"show": node("PreviewAny", source=["other", 0])}))


def server_trial(server: Program, disk: Disk, graph: Graph, frames: list[bytes]) -> Trial:
    failed = server.run(graph)
    sound, kept = frames_of(disk.folder / FOLDER)
    disk.resize(LARGE)
    again = server.run(graph)
    made = frames_of(disk.folder / FOLDER)
    # Where only the decoded video had no room, the host's cache has the sampler's result, text and all.
    went_on = "sample" not in again.executed or held(again) == len(kept)
    return Trial(
        name="",
        full=which_file(failed.message),
        clear=failed.status == "error" and is_clear(failed.message) and is_one_sentence(failed),
        journal_intact=sound and kept == frames[: len(kept)],
        kept=len(kept),
        resumed=again.status == "success" and went_on and made == (True, frames),
    )


def is_one_sentence(failed: Result) -> bool:
    return str(failed.error.get("exception_type", "")).endswith("ValueError")
