"""What survives when things go wrong: `python benchmarks/faults.py [--quick] [--parts NAME ...] [--seed N]`.

kill      SIGKILL at random moments of a run with a journal and a growing video, then the same run again
comfyui   ComfyUI killed in the middle of a 200-frame prompt, started, and given the same prompt
disk      a disk that is full in the middle of a run; then there is room, and the same run again (needs root: tmpfs)
prompts   500 prompts through one ComfyUI: valid, refused, failing and interrupted ones
fuzz      100,000 inputs for each reader of text and files (`benchmarks/fuzz.py`)

Writes `benchmarks/results/faults.json`; what it holds of parts that are not run now is kept. The parts with ComfyUI use
every one in $COMFYUI_PATH, else ~/comfy/ComfyUI. `--quick` does a little of each part and writes nothing.
"""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from result_files import run_parts

RESULT = ROOT / "benchmarks/results/faults.json"

BARS: dict[str, dict[str, tuple[str, float]]] = {
    "kill": {
        "kills: trials": ("at least", 25),
        "kills: other latents than the uninterrupted run's": ("at most", 0),
        "kills: another video than the uninterrupted run's": ("at most", 0),
        "kills: journals refused": ("at most", 0),
        "kills: most frames made again after one": ("at most", 1),
        "kills: most frames that an interrupted video lacks": ("at most", 1),
    },
    "comfyui": {
        "ComfyUI killed: results other than the uninterrupted one's": ("at most", 0),
        "ComfyUI killed: most journaled frames made again": ("at most", 0),
    },
    "disk": {
        "disk full: trials": ("at least", 16),
        "disk full: other than one clear error": ("at most", 0),
        "disk full: journals damaged": ("at most", 0),
        "disk full: not resumed to the same result": ("at most", 0),
    },
    "prompts": {
        "prompts in a row: on each host": ("at least", 500),
        "prompts in a row: valid ones not answered": ("at most", 0),
        "prompts in a row: others that ended otherwise than they should": ("at most", 0),
        "prompts in a row: memory grown after warm-up, MB": ("at most", 50),
    },
    "fuzz": {
        "fuzzing: inputs for each reader": ("at least", 100_000),
        "fuzzing: faults": ("at most", 0),
        "fuzzing: slowest, seconds": ("at most", 1),
        "fuzzing: memory, MB": ("at most", 100),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    run_parts(parser, RESULT, BARS, measure)


def measure(part: str, args: argparse.Namespace) -> dict[str, Any]:
    """A part's figures."""
    about = {"seed": args.seed}
    if part == "fuzz":
        return about | fuzz(args.seed, args.quick)
    return about | importlib.import_module(f"fault_parts.{part}").measure(args.seed, args.quick)


def fuzz(seed: int, quick: bool) -> dict[str, Any]:
    """Every reader of `benchmarks/fuzz.py`."""
    from fuzz import TARGETS, run_target

    targets = {}
    for name in TARGETS:
        targets[name] = run_target(name, 300 if quick else 100_000, seed)
        print(f"  {name}: {targets[name]}", flush=True)
    return {
        "readers": targets,
        "bars": {
            "fuzzing: inputs for each reader": min(figures["inputs"] for figures in targets.values()),
            "fuzzing: faults": sum(len(figures["faults"]) for figures in targets.values()),
            "fuzzing: slowest, seconds": max(figures["slowest_seconds"] for figures in targets.values()),
            "fuzzing: memory, MB": max(figures["memory_mb"] for figures in targets.values()),
        },
    }


if __name__ == "__main__":
    main()
