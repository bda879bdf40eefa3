"""Our UNet, diffusers' and ComfyUI's, of SD 2.1's size, on one thread of a CPU: what a forward pass takes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from artv_core.comfyui import find_host

CHILD = Path(__file__).with_name("unet_child.py")
ROOT = Path(__file__).resolve().parents[2]
FORMATS = ("channels_first", "channels_last")
WAYS = ("ours", "ours, text projected each time", "ours, weights not packed", "diffusers", "ComfyUI")


def measure(quick: bool) -> dict[str, Any]:
    """Each in processes of its own, one after the other in turns; of every library the faster memory format counts."""
    host = find_host()
    rounds, passes = (1, 1) if quick else (2, 3)
    ways = [way for way in WAYS if way != "ComfyUI" or host is not None]
    times: dict[str, dict[str, list[float]]] = {way: {format_: [] for format_ in FORMATS} for way in ways}
    for _ in range(rounds):
        for way in ways:
            for format_ in FORMATS:
                root = str(host.root) if host is not None else ""
                python = host.python if host is not None and way == "ComfyUI" else sys.executable
                times[way][format_] += forward_times(python, way, format_, passes, root)
                print(f"  {way}, {format_}: {min(times[way][format_]):.2f} s", flush=True)
    best = {way: min(min(of_format) for of_format in times[way].values()) for way in ways}
    name = "UNet of SD 2.1, 32x32, batch 4, bfloat16, one CPU thread"
    bars = {f"{name}: time over diffusers'": best["ours"] / best["diffusers"]}
    if host is not None:
        bars[f"{name}: time over ComfyUI's"] = best["ours"] / best["ComfyUI"]
    return {"thread seconds": times, "best": best, "host": host and host.version, "bars": bars}


def forward_times(python: str, way: str, format_: str, passes: int, host: str) -> list[float]:
    """Thread seconds of each pass."""
    command = [python, str(CHILD), way, format_, str(passes), host]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])
