"""What the host costs: `python benchmarks/host.py`, with ComfyUI at $COMFYUI_PATH or ~/comfy/ComfyUI.

`server` runs the shipped workflow on a server of each host found; `loads` counts how often each host is asked to load
model and VAE. With `--gpu` only the part `gpu` runs: sampling inside the first host on its card, in under two minutes;
`--seconds` is its deadline, and its figures are written as they come. Results go to `benchmarks/results/host.json`.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from host_parts import gpu, loads, server
from result_files import Limits, run_parts

RESULT = ROOT / "benchmarks/results/host.json"
LIMITS: Limits = {
    "server": {server.WITH: ("at most", 0.03), server.WITHOUT: ("at most", 0.03)},
    "loads": {loads.MODEL: ("at most", 2), loads.VAE: ("at most", 2)},
    "gpu": gpu.LIMITS,
}


def main() -> None:
    if "--gpu" in sys.argv:
        sys.argv[sys.argv.index("--gpu") : sys.argv.index("--gpu") + 1] = ["--parts", "gpu"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=115.0, help="deadline of the part gpu (default: 115)")
    run_parts(parser, RESULT, LIMITS, measure, asked_for=("gpu",))


def measure(part: str, args: argparse.Namespace) -> dict[str, Any] | Iterator[dict[str, Any]]:
    if part == "gpu":
        return gpu.measure(args.quick, args.seconds)
    return server.measure(args.quick) if part == "server" else loads.measure(args.quick)


if __name__ == "__main__":
    main()
