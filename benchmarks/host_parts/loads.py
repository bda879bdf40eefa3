"""How often a host is asked to load model and VAE while 16 frames are sampled and streamed to a file.

In process on a CPU, with the patcher that the host has there and, where it has dynamic VRAM, with that one too.
"""

import tempfile
from pathlib import Path
from typing import Any

from artv_core.commands.comfyui_server import Host, find_hosts

from .program import has_dynamic_vram, run_inside

MODEL, VAE = "loads of the model for 16 streamed frames", "loads of the VAE for 16 streamed frames"


def measure(quick: bool) -> dict[str, Any]:
    """Every host found; of the bars, the greatest count."""
    found = {host.version: _counts(host, frames=4 if quick else 16) for host in find_hosts()}
    counts = [count for by_patcher in found.values() for count in by_patcher.values()]
    bars = {MODEL: max(count["model"] for count in counts), VAE: max(count["vae"] for count in counts)}
    return {"hosts": found, "bars": bars}


def _counts(host: Host, frames: int) -> dict[str, dict[str, int]]:
    kinds = ["plain", "dynamic"] if has_dynamic_vram(host) else ["plain"]
    with tempfile.TemporaryDirectory() as base:
        return {kind: run_inside(host, Path(base), "loads", kind, frames=frames) for kind in kinds}
