"""What the host costs: `python benchmarks/host.py`, with ComfyUI at $COMFYUI_PATH or ~/comfy/ComfyUI.

server  queues the shipped text-to-video workflow on each ComfyUI found, and gives the share of the sampler node's
        time that is spent outside `artv_core`
gpu     only where it is named (`--parts gpu`): sampling inside the first ComfyUI on its GPU, with and without
        dynamic VRAM, beside the core alone. Random weights of SD 2.1's size, 512x512, 25 steps of 2S with four
        branches; the same with a LoRA, and with 4 GB free on the card. Each kind of memory management has a process
        of its own. All of it must end within `--seconds`. With `--quick` the code is tried with `tiny`.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from result_files import ROOT, Figures, Limits, card_or_quick, needed_hosts, parser_of, read, run_parts, succeeded

from artv_core.commands.comfyui_server import PACK, Graph, Host, Server
from tests.host.random_graphs import shipped

RESULT = ROOT / "benchmarks/results/host.json"
TIMING = ROOT / "tests/host/artv_timing"
SAMPLER = "ARTVMaskedDiffusionSampler"
WITH, WITHOUT = "share of the sampler node's time outside the core, with previews", "the same, without previews"
SAME = 0.05
"""Of the latents' spread: what rounding makes of frames that are otherwise equal stays well below it."""
KINDS = {"dynamic": "under dynamic VRAM", "plain": "without dynamic VRAM"}
TIMES = {kind: f"sampler node's time over the core's, 512, {said}" for kind, said in KINDS.items()}
FULL = {kind: f"4 GB free: difference from frames of a free card, {said}" for kind, said in KINDS.items()}
LORA = "a LoRA's frames under dynamic VRAM: difference from those without"
LIMITS: Limits = {
    "server": {WITH: ("at most", 0.03), WITHOUT: ("at most", 0.03)},
    "gpu": dict.fromkeys(TIMES.values(), ("at most", 1.1)) | dict.fromkeys([*FULL.values(), LORA], ("at most", SAME)),
}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--seconds", type=float, default=115.0, help="deadline of the part gpu (default: 115)")
    measure = {"server": server, "gpu": gpu}
    run_parts(parser, RESULT, LIMITS, lambda part, args: measure[part](args), asked_for=("gpu",))


# A real server


def server(args: argparse.Namespace) -> Figures:
    """Every host found; of the bars, the host that costs most."""
    measured = {host.version: measure_host(host, 1 if args.quick else 5) for host in needed_hosts()}
    shares = [values["share outside the core"] for values in measured.values()]
    bars = {WITH: max(share["previews"] for share in shares), WITHOUT: max(share["no preview"] for share in shares)}
    return {"hosts": measured, "bars": bars}


def measure_host(host: Host, repeats: int) -> Figures:
    """One host. The first run, which also loads everything, is not counted."""
    with tempfile.TemporaryDirectory() as base, Server(host, Path(base), TIMING) as comfyui:
        comfyui.get("/artv_timing")
        run(comfyui, shipped(previews=True))
        with_previews = [run(comfyui, shipped(previews=True, seed=100 + number)) for number in range(repeats)]
        without = [run(comfyui, shipped(seed=200 + number)) for number in range(repeats)]
    return {"share outside the core": {"no preview": outside_core(without), "previews": outside_core(with_previews)}}


def run(comfyui: Server, graph: Graph) -> dict[str, float]:
    """Queue it; seconds of its parts."""
    succeeded(comfyui.run(graph))
    return comfyui.get("/artv_timing")


def outside_core(runs: list[dict[str, float]]) -> float:
    """Median over runs of the share of the sampler's time that was not the core's."""
    shares = [1 - (times["core"] - times.get("callback", 0.0)) / times[SAMPLER] for times in runs]
    return round(statistics.median(shares), 4)


# Inside the host


def gpu(args: argparse.Namespace) -> Iterator[Figures]:
    """Figures and bars, more of them each time."""
    card_or_quick(args.quick)
    host, quick, on_card = needed_hosts()[0], args.quick, torch.cuda.is_available()
    kinds = [kind for kind in KINDS if kind == "plain" or has_dynamic_vram(host)]
    end = time.monotonic() + (600 if quick else args.seconds)
    figures: Figures = {"host": host.version, "torch": torch.__version__, "bars": {}}
    with tempfile.TemporaryDirectory() as base:
        for place, kind in enumerate(kinds):
            share = (end - time.monotonic()) / (len(kinds) - place)
            found = run_inside(host, Path(base), kind, share + 5, quick=quick, seconds=share, on_card=on_card)
            node, core = found.get("sampled", {}).get("seconds of the node"), found.get("core", {}).get("seconds")
            bars = {TIMES[kind]: node / core if node and core else None}
            bars[FULL[kind]] = found.get("full card", {}).get("difference")
            figures[kind] = found
            figures["bars"] |= {name: value for name, value in bars.items() if value is not None}
            print(f"  {kind}: {found}", flush=True)
            yield figures
        kept = [Path(base) / f"lora_{kind}.pt" for kind in KINDS]
        if all(path.is_file() for path in kept):
            first, second = (torch.load(path, weights_only=True) for path in kept)
            figures["bars"][LORA] = float((first - second).square().mean().sqrt() / first.std())
        yield figures


def has_dynamic_vram(host: Host) -> bool:
    """Whether the host can load weights as they are used."""
    place = host.root / "comfy" / "memory_management.py"
    return place.is_file() and "aimdo_enabled" in place.read_text(encoding="utf-8")


def run_inside(host: Host, base: Path, memory: str, timeout: float, **settings: Any) -> Figures:
    """What `host_inside.py` wrote, run by the host's Python in the host's folder; also where it was stopped at the end
    of `timeout` seconds. Raises SystemExit where it failed before it wrote anything."""
    result, program = base / f"{memory}.json", ROOT / "benchmarks/host_inside.py"
    command = [host.python, str(program), memory, str(PACK), str(base), str(result), json.dumps(settings)]
    try:
        ran = subprocess.run(command, cwd=host.root, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return read(result) | {"stopped": f"after {timeout:.0f} s"}
    if ran.returncode and not result.is_file():
        raise SystemExit(f"{memory}, failed:\n{ran.stderr[-3000:]}")
    return read(result) | ({"failed": ran.stderr.splitlines()[-1]} if ran.returncode else {})


if __name__ == "__main__":
    main()
