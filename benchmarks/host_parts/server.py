"""On a real server of each host: what it costs beside the core, and what it runs again.

The shipped text-to-video workflow. Of the sampler node's time, the share that went by outside `artv_core`; seconds of
every node; and which nodes ran again for the same prompt, and for the same prompt with another seed.
"""

import copy
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from artv_core.commands.comfyui_server import Graph, Host, Server, find_hosts

ROOT = Path(__file__).resolve().parents[2]
TIMING = ROOT / "benchmarks/host_timing"
WITH, WITHOUT = "share of the sampler node's time outside the core, with previews", "the same, without previews"


def measure(quick: bool) -> dict[str, Any]:
    """Every host found; of the bars, the host that costs most."""
    hosts = find_hosts()
    if not hosts:
        raise SystemExit("no ComfyUI found: set COMFYUI_PATH to its folder")
    measured = {host.version: measure_host(host, 1 if quick else 5) for host in hosts}
    shares = [values["share outside the core"] for values in measured.values()]
    bars = {WITH: max(share["previews"] for share in shares), WITHOUT: max(share["no preview"] for share in shares)}
    return {"hosts": measured, "bars": bars}


def measure_host(host: Host, repeats: int) -> dict[str, Any]:
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
