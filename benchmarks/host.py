"""What the host costs: `python benchmarks/host.py`, with ComfyUI at $COMFYUI_PATH or ~/comfy/ComfyUI.

Runs the shipped text-to-video workflow on a real server of each host found, and writes `benchmarks/results/host.json`:
of the sampler node's time, the share that went by outside `artv_core` (the bar: at most 3%); seconds of every node; and
which nodes ran again for the same prompt, and for the same prompt with another seed.
"""

import argparse
import copy
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from result_files import commit  # noqa: E402

from artv_core.comfyui import Graph, Host, Server, find_hosts  # noqa: E402

BAR = 0.03
TIMING = ROOT / "benchmarks/host_timing"
RESULT = ROOT / "benchmarks/results/host.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    hosts = find_hosts()
    if not hosts:
        parser.exit(2, "no ComfyUI found: set COMFYUI_PATH to its folder\n")
    measured = {host.version: measure(host, args.repeats) for host in hosts}
    result = {
        "command": "python benchmarks/host.py",
        "commit": commit(),
        "machine": f"{platform.machine()}, {platform.system()}, --cpu",
        "bar": f"at most {BAR:.0%} of the sampler node's time outside artv_core",
        "hosts": measured,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for version, values in measured.items():
        print(f"\nComfyUI {version}")
        for name, value in values.items():
            print(f"  {name}: {value}")


def measure(host: Host, repeats: int) -> dict[str, Any]:
    """One host. The first run, which also loads everything, is not counted."""
    shipped = json.loads((ROOT / "workflows/api/text_to_video.json").read_text())
    sampler = next(key for key, part in shipped.items() if part["class_type"] == "ARTVMaskedDiffusionSampler")
    with tempfile.TemporaryDirectory() as base, Server(host, Path(base), TIMING) as server:
        server.get("/artv_timing")
        run(server, shipped)
        with_previews = [run(server, with_seed(shipped, sampler, 100 + n)) for n in range(repeats)]
        bare = without_preview(shipped, sampler)
        without = [run(server, with_seed(bare, sampler, 200 + n)) for n in range(repeats)]
        last = with_seed(bare, sampler, 200 + repeats - 1)
        again, reseeded = server.run(last), server.run(with_seed(bare, sampler, 300))
        kinds = {key: part["class_type"] for key, part in shipped.items()}
        overhead = {"no preview": share_outside_core(without), "previews": share_outside_core(with_previews)}
        return {
            "frames": shipped[sampler]["inputs"]["frames"],
            "share outside the core": {name: round(value, 4) for name, value in overhead.items()},
            "holds": max(overhead.values()) <= BAR,
            "seconds, median, with previews": medians(with_previews),
            "seconds, median, no preview": medians(without),
            "ran again for the same prompt": [kinds[key] for key in again.executed],
            "ran again for another seed": [kinds[key] for key in reseeded.executed],
        }


def run(server: Server, graph: Graph) -> dict[str, float]:
    """Queue it; seconds of its parts and, as "prompt", of the whole from queueing to the last message."""
    started = time.perf_counter()
    result = server.run(graph)
    seconds = time.perf_counter() - started
    if result.status != "success":
        raise SystemExit(f"the workflow failed: {result.message}")
    return {name: value for name, value in server.get("/artv_timing").items() if value} | {"prompt": seconds}


def share_outside_core(runs: list[dict[str, float]]) -> float:
    """Median over runs of the part of the sampler's time that was not the core's."""
    shares = []
    for times in runs:
        whole = times["ARTVMaskedDiffusionSampler"]
        shares.append((whole - times["core"] + times.get("callback", 0.0)) / whole)
    return statistics.median(shares)


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for times in runs for name in times)
    return {name: round(statistics.median(times.get(name, 0.0) for times in runs), 4) for name in names}


def with_seed(graph: Graph, sampler: str, seed: int) -> Graph:
    graph = copy.deepcopy(graph)
    graph[sampler]["inputs"]["seed"] = seed
    return graph


def without_preview(graph: Graph, sampler: str) -> Graph:
    graph = copy.deepcopy(graph)
    del graph[sampler]["inputs"]["vae"]
    return graph


if __name__ == "__main__":
    main()
