"""`train.py` as a user starts it, small clips to train on, and what a run logged."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from artv_core.media import VideoWriter
from artv_core.synthetic.shapes import Clip, render, sample_clip

ROOT = Path(__file__).resolve().parents[2]
CPU = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def write_clips(folder: Path, clips: Sequence[Clip], frames: int = 24, side: int = 64) -> None:
    """An MP4 of 8 frames per second and a text beside it, for each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, clip in enumerate(clips):
        with VideoWriter(folder / f"clip{number:04d}.mp4", fps=8) as video:
            for frame in render([clip], frames, side, side)[0]:
                video.append(frame)
        (folder / f"clip{number:04d}.txt").write_text(clip.caption)


def moving_clips(count: int, seed: int = 11) -> list[Clip]:
    """The synthetic world's clips in which something moves."""
    clips: list[Clip] = []
    index = 0
    while len(clips) < count:
        clip = sample_clip(seed, index)
        clips += [clip] if clip.velocity is not None else []
        index += 1
    return clips


def command(config: Path, output: Path, *more: str, processes: int = 1) -> list[str]:
    """`python train.py ...`, or the same by torchrun, for `accelerate launch` starts several processes on GPUs only."""
    own = [str(ROOT / "train.py"), "--config", str(config), "--output", str(output), *more]
    if processes == 1:
        return [sys.executable, *own]
    return [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone", *own]


def train(config: Path, output: Path, *more: str, processes: int = 1) -> str:
    """Run to the end and return what was printed. Raises RuntimeError with its last words where it fails."""
    arguments = command(config, output, *more, processes=processes)
    done = subprocess.run(arguments, env=os.environ | CPU, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return done.stdout


def train_and_kill(config: Path, output: Path, seconds: float, *more: str) -> bool:
    """SIGKILL the run, with all it started, `seconds` after it has begun to train; False where it was done before."""
    arguments = command(config, output, *more)
    process = subprocess.Popen(
        arguments,
        env=os.environ | CPU | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd=ROOT,
    )
    assert process.stderr is not None
    seen = b""
    while b"diffusion:" not in seen and process.poll() is None:
        seen += process.stderr.read1(4096)  # type: ignore[attr-defined]
    try:
        process.communicate(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True


def logged(output: Path, name: str, scalar: str = "loss", stage: str = "diffusion") -> dict[int, float]:
    """A scalar by step, from the TensorBoard files of a run; what a resumed run logged again counts as it was last."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, values = output / name / stage / "tensorboard", {}
    for file in sorted(folder.glob("events*"), key=lambda path: path.stat().st_mtime):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        if scalar in events.Tags()["scalars"]:
            values |= {event.step: event.value for event in events.Scalars(scalar)}
    return values


def timed(started: float) -> float:
    """Minutes since."""
    return round((time.monotonic() - started) / 60, 1)
