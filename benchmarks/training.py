"""What training is held to: `python benchmarks/training.py [--quick] [--parts NAME ...]`.

processes  one process, two that share each batch, and two with sharded weights: the same losses (gloo, CPU)
kills      SIGKILL at random moments, then resumed: the same losses and weights to the bit
overfit    four encoded clips learned by heart by `tiny`: loss, and the rollout beside the clip
full_size  `sd21-adapter` as large as it is: three steps on a CPU, memory, what changes, what the start equals
prepare    `artv prepare` on 500 clips: what is kept, a kill in between, Ray against a plain run
loading    how fast clips are read, against what a training step takes
tiny       the retrained `tiny` against the bars of `benchmarks/quality.py`
waits      how often a step of either stage waits for its device, counted on a CPU
resident   the loop whose clips lie on the device: calls for each sample; on a card samples a second over the usual loop
gpu        sd21-adapter and sd21 on a GPU: steps per second, memory, MFU, waiting for data, within `--seconds`

Writes `benchmarks/results/training.json`; what it holds of parts that are not run now is kept. The part `gpu` writes
after each row. `--quick` does a little of each part and writes nothing. Pictures go to `build/training`.
"""

import argparse
import importlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STARTED = time.monotonic()
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from result_files import as_result, commit, kept_parts, run_parts

RESULT = ROOT / "benchmarks/results/training.json"

BARS: dict[str, dict[str, tuple[str, float]]] = {
    "processes": {
        "2 processes of batch 4 against 1 of batch 8: steps": ("at least", 20),
        "2 processes of batch 4 against 1 of batch 8: largest relative difference of losses": ("at most", 1e-4),
        "2 processes of batch 4 against 1 of batch 8: the same with fully_shard, largest difference": ("at most", 1e-4),
    },
    "kills": {
        "killed and resumed: SIGKILLs that hit": ("at least", 4),
        "killed and resumed: runs with other weights": ("at most", 0),
        "killed and resumed: runs with other losses": ("at most", 0),
    },
    "overfit": {
        "4 clips learned by heart: eps error of the last 20 steps over that of the first": ("at most", 1 / 3),
        "4 clips learned by heart: least PSNR at frame 8": ("at least", 22),
        "4 clips learned by heart: least PSNR at frame 8 above frame 0's": ("at least", 3),
    },
    "full_size": {
        "sd21-adapter, 3 steps at 256x256 on a CPU: steps": ("at least", 3),
        "sd21-adapter, 3 steps at 256x256 on a CPU: peak memory, GB": ("at most", 20),
        "sd21-adapter: named tensors that did not change": ("at most", 0),
        "sd21-adapter: other tensors that changed, or require gradients": ("at most", 0),
        "sd21 before step 1: noise network equals the plain UNet to the bit": ("at least", 1),
    },
    "prepare": {
        "prepare: clips": ("at least", 500),
        "prepare: clips kept or dropped otherwise than they should be": ("at most", 0),
        "prepare: kills": ("at least", 2),
        "prepare: shards that differ after kills": ("at most", 0),
        "prepare: shards that differ between Ray with 2 workers and a plain run": ("at most", 0),
    },
    "loading": {
        "loading: samples per second over those of a training step of tiny, encoded videos": ("at least", 3),
        "loading: samples per second over those of a training step of tiny, prepared clips": ("at least", 3),
    },
    "tiny": {"tiny retrained: bars of the shipped model that it misses": ("at most", 0)},
    "waits": {"training: device waits inside a training step": ("at most", 0)},
    "resident": {
        "samples drawn on the device: calls of Python for each of them": ("at most", 0),
        "GPU: samples per second of the resident loop over the usual one": ("at least", 5),
    },
    "gpu": {
        "GPU, sd21-adapter at 256x256: MFU": ("at least", 0.25),
        "GPU, sd21 at 256x256: MFU": ("at least", 0.25),
        "GPU, FSDP: largest relative difference of losses": ("at most", 1e-4),
        "GPU, sd21: share of the time waited for data": ("at most", 0.05),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=110, help="for the part gpu, imports included (default: 110)")
    run_parts(parser, RESULT, BARS, measure, asked_for=("gpu",))


def measure(part: str, args: argparse.Namespace) -> dict[str, Any]:
    """A part's figures."""
    module = importlib.import_module(f"training_parts.{part}")
    if part == "gpu":
        left = args.seconds - (time.monotonic() - STARTED)
        return module.measure(args.quick, left, lambda figures: save(part, figures, args.quick))
    with tempfile.TemporaryDirectory() as folder:
        return module.measure(Path(folder), args.quick)


def save(part: str, figures: dict[str, Any], quick: bool) -> None:
    """Write what is known of a part so far."""
    if not quick:
        parts = kept_parts(RESULT) | {part: {"commit": commit(), **figures}}
        RESULT.write_text(json.dumps(as_result("python benchmarks/training.py", BARS, parts), indent=1) + "\n")


if __name__ == "__main__":
    main()
