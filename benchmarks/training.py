"""What training is held to: `python benchmarks/training.py [--quick] [--parts NAME ...]`.

processes  one process, two that share each batch, and two with sharded weights: the same losses (gloo, CPU)
kills      SIGKILL at random moments, then resumed: the same losses and weights to the bit
resident   the loop whose clips lie on the device: calls for each sample; on a card samples a second over the usual loop
           (`training_resident.py`)
gpu        sd21-adapter and sd21 on a GPU: steps per second, memory, MFU, waiting for data, within `--seconds`
           (`training_gpu.py`)

Writes `benchmarks/results/training.json`; what it holds of other parts is kept. The part `gpu` writes after each row.
`--quick` does a little of each part and writes nothing.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

STARTED = time.monotonic()
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import training_gpu
import training_resident
from result_files import Figures, Limits, run_parts

from artv_core.media import VideoWriter
from artv_core.synthetic.shapes import Clip, render, sample_clip

RESULT = ROOT / "benchmarks/results/training.json"
TWO, KILLED = "2 processes of batch 4 against 1 of batch 8", "killed and resumed"
LIMITS: Limits = {
    "processes": {
        f"{TWO}: steps": ("at least", 20),
        f"{TWO}: largest relative difference of losses": ("at most", 1e-4),
        f"{TWO}: the same with fully_shard, largest difference": ("at most", 1e-4),
    },
    "kills": {
        f"{KILLED}: SIGKILLs that hit": ("at least", 4),
        f"{KILLED}: runs with other weights": ("at most", 0),
        f"{KILLED}: runs with other losses": ("at most", 0),
    },
    "resident": training_resident.LIMITS,
    "gpu": training_gpu.LIMITS,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=110, help="for the part gpu, imports included (default: 110)")
    run_parts(parser, RESULT, LIMITS, measure, asked_for=("gpu",))


def measure(part: str, args: argparse.Namespace) -> Figures | Iterator[Figures]:
    """A part's figures."""
    if part == "gpu":
        left = args.seconds - (time.monotonic() - STARTED)
        return training_gpu.measure(args.quick, left)
    parts = {"processes": processes, "kills": kills, "resident": training_resident.measure}
    with tempfile.TemporaryDirectory() as folder:
        return parts[part](Path(folder), args.quick)


# `train.py` as a user starts it

CPU = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
CONFIG = """
name = "{name}"
preset = "tiny"
base = "tiny"
seed = 1
[data]
path = "{clips}"
bucket_multiple = 0
held_out = 2
[diffusion]
steps = {steps}
batch_size = 8
warmup_steps = 5
log_every = 1
sheet_every = 1000000
sheet_rows = 1
sheet_columns = 2
"""


def write_config(folder: Path, name: str, steps: int, more: str = "") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(CONFIG.format(name=name, clips=folder / "clips", steps=steps) + more)
    return path


def write_clips(folder: Path, count: int = 16) -> None:
    """MP4s of the synthetic world in which something moves, 3 seconds each, and a text beside each."""
    folder.mkdir(parents=True)
    clips: list[Clip] = [clip for index in range(10 * count) if (clip := sample_clip(11, index)).velocity is not None]
    for number, clip in enumerate(clips[:count]):
        with VideoWriter(folder / f"clip{number:04d}.mp4", fps=8) as video:
            for frame in render([clip], 24, 64, 64)[0]:
                video.append(frame)
        (folder / f"clip{number:04d}.txt").write_text(clip.caption)


def command(config: Path, output: Path, *more: str) -> list[str]:
    own = ["--config", str(config), "--output", str(output), "--stages", "diffusion", *more]
    return [sys.executable, str(ROOT / "train.py"), *own]


def run(arguments: Sequence[str]) -> None:
    """To its end. Raises RuntimeError with its last words where it fails."""
    done = subprocess.run(arguments, env=os.environ | CPU, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])


def logged(output: Path, name: str) -> dict[int, float]:
    """The loss by step, from the TensorBoard files of a run; what a resumed run logged again counts as it was last."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, values = output / name / "diffusion/tensorboard", {}
    for file in sorted(folder.glob("events*"), key=lambda path: path.stat().st_mtime):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        if "loss" in events.Tags()["scalars"]:
            values |= {event.step: event.value for event in events.Scalars("loss")}
    return values


def processes(folder: Path, quick: bool) -> Figures:
    """Largest relative differences of the logged losses to one process's with batch 8, float32, gloo, on the CPU."""
    steps, losses = (4 if quick else 20), {}
    write_clips(folder / "clips")
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    for name in ("one", "two", "sharded"):
        config = write_config(folder, name, steps)
        if name == "sharded":  # `fully_shard`, which Accelerate never picks on CPUs
            run([*two, str(ROOT / "benchmarks/training_sharded.py"), str(config), str(folder)])
        else:
            run(command(config, folder) if name == "one" else two + command(config, folder)[1:])
        losses[name] = logged(folder, name)
        states = list((folder / name / "diffusion" / f"state-{steps:08d}").glob("generators-*"))
        if len(losses[name]) != steps or len(states) != 1 + (name != "one"):
            raise RuntimeError(f"{name}: {len(losses[name])} steps were logged, by {len(states)} processes")
    differences = {
        name: max(abs(losses[name][step] / value - 1) for step, value in losses["one"].items())
        for name in ("two", "sharded")
    }
    bars = dict(zip(LIMITS["processes"], (steps, *differences.values()), strict=True))
    return {"losses": {name: list(values.values()) for name, values in losses.items()}, "bars": bars}


def kills(folder: Path, quick: bool) -> Figures:
    """Numbers of trials whose losses and weights differ in any bit from the uninterrupted run's."""
    trials, steps, rng = (1 if quick else 4), (8 if quick else 30), random.Random(5)
    write_clips(folder / "clips")
    more = "save_minutes = 0.03\nema_decay = 0.9\n"
    run(command(write_config(folder, "whole", steps, more), folder))
    whole, whole_losses = load_file(folder / "whole/diffusion.safetensors"), logged(folder, "whole")
    hits, other_weights, other_losses = 0, 0, 0
    for name in (f"killed{trial}" for trial in range(trials)):
        arguments = command(write_config(folder, name, steps, more), folder, "--resume")
        hits += sum(killed(arguments, rng.uniform(1, 8)) for _ in range(2))
        run(arguments)
        resumed = load_file(folder / name / "diffusion.safetensors")
        other_weights += not all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())
        other_losses += logged(folder, name) != whole_losses
    return {"trials": trials, "bars": dict(zip(LIMITS["kills"], (hits, other_weights, other_losses), strict=True))}


def killed(arguments: Sequence[str], seconds: float) -> bool:
    """SIGKILL the run, with all it started, `seconds` after it has begun to train; False where it was done before."""
    environment = os.environ | CPU | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, cwd=ROOT
    )
    seen = b""
    while b"diffusion:" not in seen and process.poll() is None:
        seen += process.stderr.read1(4096)  # type: ignore[union-attr]
    try:
        process.communicate(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True


if __name__ == "__main__":
    main()
