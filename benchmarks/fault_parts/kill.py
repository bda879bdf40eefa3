"""SIGKILL at random moments of a run: what the next run makes of what is there. Every run is a process of its own."""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import av

from artv_core.run.journal_list import list_journals

from .kill_child import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
CHILD = Path(__file__).with_name("kill_child.py")
JOURNAL, VIDEO, PART, LATENTS = "journals", "out.mp4", "out.part.mp4", "latents.bin"
TRIALS, QUICK_TRIALS = 25, 3

KINDS = (
    "step",  # between two denoising steps of a frame
    "journal write",  # a part of a frame's record is in the file
    "video write",  # a part of a frame is in the video
    "any time",  # from outside, wherever it is
    "sampled",  # a frame is made, and nothing has kept it
    "journaled",  # the journal has a frame, the video lacks it
    "shown",  # journal and video have a frame
    "journal torn",  # a part of a new journal's header is written
    "journal unnamed",  # a new journal is whole and has not its name yet
    "journal named",  # a new journal has just got its name
    "video unnamed",  # the video is whole and has not its name yet
)
AGAIN_KINDS = KINDS[:7]
"""What may strike a run that goes on: a journal is there."""

KILLED_TWICE = 0.3
"""Share of trials."""


@dataclass
class Run:
    """What one process told before it ended: its journal, how many frames that held, the frames it made, how many the
    video was given."""

    journal: str = ""
    found: int = 0
    made: list[int] = field(default_factory=list)
    shown: int = 0
    whole: bool = False
    seconds: float = 0.0

    def hear(self, line: str) -> None:
        word, *rest = line.split()
        if word == "open":
            self.journal, self.found = rest[0], int(rest[1])
        elif word == "made":
            self.made.append(int(rest[0]))
        elif word == "shown":
            self.shown = int(rest[0]) + 1
        self.whole = word == "whole"


@dataclass
class Trial:
    """A run that was killed, perhaps twice, and went on to its end: what came of it."""

    kills: list[str]
    again: list[int]  # frames made again after each kill
    refused: int  # runs that did not go on from the journal there was
    lacking: list[int]  # frames that each interrupted video lacks at its end
    same_latents: bool
    same_video: bool
    stray: list[str]  # files that nobody will use again

    def __str__(self) -> str:
        whole = self.same_latents and self.same_video
        again, lacking = (", ".join(map(str, counts)) for counts in (self.again, self.lacking))
        result = "same result" if whole else "ANOTHER RESULT"
        stray = f"; left there: {', '.join(self.stray)}" if self.stray else ""
        return f"{' and '.join(self.kills)}: made again {again}, interrupted video lacks {lacking}, {result}{stray}"


def measure(seed: int, quick: bool) -> dict[str, Any]:
    rng = random.Random(seed)
    kinds = [*KINDS, *AGAIN_KINDS, *AGAIN_KINDS][: QUICK_TRIALS if quick else TRIALS]
    rng.shuffle(kinds)
    trials = []
    with tempfile.TemporaryDirectory() as base:
        reference = make_whole(Path(base) / "whole")
        for number, kind in enumerate(kinds):
            trials.append(run_trial(Path(base) / str(number), Path(base) / "whole", kind, reference, rng))
            print(f"  {trials[-1]}", flush=True)
    return {
        "frames": OPTIONS.num_frames,
        "kills": sum(len(trial.kills) for trial in trials),
        "trials": [str(trial) for trial in trials],
        "bars": {
            "kills: trials": len(trials),
            "kills: other latents than the uninterrupted run's": sum(not trial.same_latents for trial in trials),
            "kills: another video than the uninterrupted run's": sum(not trial.same_video for trial in trials),
            "kills: journals refused": sum(trial.refused for trial in trials),
            "kills: most frames made again after one": max(count for trial in trials for count in trial.again),
            "kills: most frames that an interrupted video lacks": max(n for trial in trials for n in trial.lacking),
        },
    }


def make_whole(folder: Path) -> Run:
    """The uninterrupted run."""
    run = start(folder, {"kind": "none"})
    if not run.whole or run.made != list(range(OPTIONS.num_frames)):
        raise SystemExit("the uninterrupted run did not come to its end")
    return run


def run_trial(folder: Path, whole: Path, kind: str, reference: Run, rng: random.Random) -> Trial:
    """Kill, perhaps go on and kill again, go on to the end."""
    faults = [random_fault(rng, kind, 0, reference)]
    runs = [killed(folder, faults[0])]
    lacking = [lacking_frames(folder, runs[0])]
    held = journaled(folder)
    if rng.random() < KILLED_TWICE and 0 < held < OPTIONS.num_frames - 1:
        faults.append(random_fault(rng, rng.choice(AGAIN_KINDS), held, reference))
        runs.append(killed(folder, faults[-1]))
        lacking.append(lacking_frames(folder, runs[-1]))
    runs.append(start(folder, {"kind": "none"}))
    if not runs[-1].whole:
        raise SystemExit(f"the run that goes on after {faults} did not come to its end")
    return Trial(
        kills=[described(fault) for fault in faults],
        again=frames_again(runs),
        refused=sum(was_refused(before, after) for before, after in pairwise(runs)),
        lacking=lacking,
        same_latents=(folder / LATENTS).read_bytes() == (whole / LATENTS).read_bytes(),
        same_video=(folder / VIDEO).read_bytes() == (whole / VIDEO).read_bytes(),
        stray=stray_files(folder, runs[-1].journal),
    )


def random_fault(rng: random.Random, kind: str, first: int, reference: Run) -> dict[str, Any]:
    """A moment of that kind in a run that makes the frames from `first` on."""
    fault: dict[str, Any] = {"kind": kind}
    if kind in AGAIN_KINDS:
        fault["frame"] = rng.randrange(first, OPTIONS.num_frames - 1)
    if kind == "step":
        fault["step"] = rng.randrange(OPTIONS.steps or 1)
    if kind in ("journal write", "video write", "journal torn"):
        fault["share"] = rng.random()
    if kind == "any time":  # from `ready` or a frame on, up to about where the next one is made
        told = rng.choice(["ready", *(f"shown {frame}" for frame in range(first, OPTIONS.num_frames - 1))])
        return {"kind": kind, "after": told, "seconds": rng.uniform(0, reference.seconds / OPTIONS.num_frames)}
    return fault


def killed(folder: Path, fault: dict[str, Any]) -> Run:
    run = start(folder, fault)
    if run.whole:
        raise SystemExit(f"the run came to its end in spite of {fault}")
    return run


def start(folder: Path, fault: dict[str, Any]) -> Run:
    """One process; of kind "any time" it is killed from here."""
    folder.mkdir(exist_ok=True)
    from_outside = fault["kind"] == "any time"
    command = [sys.executable, str(CHILD), str(folder), json.dumps({"kind": "none"} if from_outside else fault)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run, began = Run(), 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            run.hear(line)
            if line == "ready\n":
                began = time.monotonic()
            if from_outside and line == f"{fault['after']}\n":
                time.sleep(fault["seconds"])
                process.kill()
    run.seconds = time.monotonic() - began
    if process.returncode not in (0, -9):
        raise SystemExit(f"a run ended with exit code {process.returncode} under {fault}")
    return run


def journaled(folder: Path) -> int:
    """Frames in the journal there is."""
    return max((info.num_frames for info in list_journals(folder / JOURNAL)), default=0)


def frames_again(runs: list[Run]) -> list[int]:
    """After each kill, how many frames were made that had been made before."""
    before: set[int] = set()
    counts = []
    for run in runs:
        counts.append(len(before & set(run.made)))
        before |= set(run.made)
    return counts[1:]


def was_refused(before: Run, after: Run) -> bool:
    """Whether a run took another journal than the run before it had, or fewer frames than that had kept for sure."""
    kept_for_sure = before.found + max(0, len(before.made) - 1)
    return bool(before.journal) and (after.journal != before.journal or after.found < kept_for_sure)


def lacking_frames(folder: Path, run: Run) -> int:
    """How many of the frames that it was given the interrupted video does not show."""
    return max(0, run.shown - num_readable(folder / PART)) if run.shown else 0


def num_readable(path: Path) -> int:
    """Frames of a video up to where it cannot be read."""
    count = 0
    try:
        with av.open(str(path)) as container:
            for _ in container.decode(video=0):
                count += 1
    except (OSError, av.FFmpegError):
        pass
    return count


def stray_files(folder: Path, journal: str) -> list[str]:
    """What lies there beside the results, the journal and its lock."""
    expected = {VIDEO, LATENTS, journal, f".{journal}.lock"}
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name not in expected)


def described(fault: dict[str, Any]) -> str:
    where = [f"{name} {fault[name]}" for name in ("frame", "step", "after") if name in fault]
    if "share" in fault:
        where.append(f"{fault['share']:.0%} written")
    if "seconds" in fault:
        where.append(f"{1000 * fault['seconds']:.0f} ms")
    return f"{fault['kind']} ({', '.join(where)})" if where else fault["kind"]
