"""On a card, inside the first host found: the sampler node under dynamic VRAM and without, beside the core alone.

Random weights of SD 2.1's size, 512x512, 25 steps of 2S with four branches; the same with a LoRA, and with 4 GB free on
the card. Each kind of memory management has a process of its own, which writes its figures as they come. `--quick`
tries the code with `tiny` on whatever there is.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from artv_core.commands.comfyui_server import find_hosts

from .program import has_dynamic_vram, run_inside

SAME = 0.05
"""Of the latents' spread: what rounding makes of frames that are otherwise equal stays well below it."""

KINDS = {"dynamic": "under dynamic VRAM", "plain": "without dynamic VRAM"}
LIMITS: dict[str, tuple[str, float]] = {
    **{f"sampler node's time over the core's, 512, {said}": ("at most", 1.1) for said in KINDS.values()},
    **{f"4 GB free: difference from frames of a free card, {said}": ("at most", SAME) for said in KINDS.values()},
    "a LoRA's frames under dynamic VRAM: difference from those without": ("at most", SAME),
}
TIMES, FULL, LORA = list(LIMITS)[:2], list(LIMITS)[2:4], list(LIMITS)[4]


def measure(quick: bool, seconds: float) -> Iterator[dict[str, Any]]:
    """Figures and bars, more of them each time."""
    if not torch.cuda.is_available() and not quick:
        raise SystemExit("there is no GPU here; --quick tries the code on the CPU")
    hosts = find_hosts()
    if not hosts:
        raise SystemExit("no ComfyUI found: set COMFYUI_PATH to its folder")
    kinds = [kind for kind in KINDS if kind == "plain" or has_dynamic_vram(hosts[0])]
    end = time.monotonic() + (600 if quick else seconds)
    figures: dict[str, Any] = {"host": hosts[0].version, "torch": torch.__version__, "bars": {}}
    with tempfile.TemporaryDirectory() as base:
        for place, kind in enumerate(kinds):
            share = (end - time.monotonic()) / (len(kinds) - place)
            found = run_inside(hosts[0], Path(base), "gpu", kind, share + 5, quick=quick, seconds=share)
            figures[kind] = found
            figures["bars"] |= _bars(kind, found)
            print(f"  {kind}: {found}", flush=True)
            yield figures
        kept = [Path(base) / f"lora_{kind}.pt" for kind in KINDS]
        if all(path.is_file() for path in kept):
            first, second = (torch.load(path, weights_only=True) for path in kept)
            figures["bars"][LORA] = float((first - second).square().mean().sqrt() / first.std())
        yield figures


def _bars(kind: str, found: dict[str, Any]) -> dict[str, float]:
    place = list(KINDS).index(kind)
    node, core = found.get("sampled", {}).get("seconds of the node"), found.get("core", {}).get("seconds")
    bars = {FULL[place]: found.get("full card", {}).get("difference")}
    bars[TIMES[place]] = node / core if node and core else None
    return {name: value for name, value in bars.items() if value is not None}
