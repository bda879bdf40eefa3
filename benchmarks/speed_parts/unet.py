"""Our UNet, diffusers' and ComfyUI's, of SD 2.1's size, on one thread of a CPU: what a forward pass takes."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from artv_core.commands.comfyui_server import find_host

CHILD = Path(__file__).with_name("unet_child.py")
ROOT = Path(__file__).resolve().parents[2]
FORMATS = ("channels_first", "channels_last")
LIBRARIES = ("ours", "diffusers", "ComfyUI")
OTHER_WAYS = ("ours, text projected each time", "ours, weights not packed")
NAME = "UNet of SD 2.1, 32x32, batch 4, bfloat16, one CPU thread"


def measure(quick: bool) -> dict[str, Any]:
    """All libraries in turns, a pass each, since what else the machine does makes a pass twice as long at times.

    Of every library the memory format with the lower median counts; a bar is the median of the rounds' ratios.
    """
    host = find_host()
    rounds = 1 if quick else 12
    libraries = [way for way in LIBRARIES if way != "ComfyUI" or host is not None]
    times = in_turns(libraries, rounds, host) | in_turns(OTHER_WAYS, max(1, rounds // 3), host)
    best = {way: min(of_formats.values(), key=median) for way, of_formats in times.items()}
    bars = {
        f"{NAME}: time over {theirs}'{'s' * (theirs == 'ComfyUI')}": ratio(best["ours"], best[theirs])
        for theirs in libraries[1:]
    }
    medians = {way: median(seconds) for way, seconds in best.items()}
    return {"thread seconds": times, "median": medians, "host": host and host.version, "bars": bars}


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the rounds'."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def in_turns(ways: Any, rounds: int, host: Any) -> dict[str, dict[str, list[float]]]:
    """Thread seconds of each pass, by way and memory format."""
    times: dict[str, dict[str, list[float]]] = {way: {format_: [] for format_ in FORMATS} for way in ways}
    with ExitStack() as stack:
        started = {
            (way, format_): stack.enter_context(started_unet(way, format_, host)) for way in ways for format_ in FORMATS
        }
        for _ in range(rounds):
            for (way, format_), unet in started.items():
                times[way][format_].append(round(pass_seconds(unet), 4))
            print("  ", {way: [seconds[-1] for seconds in of.values()] for way, of in times.items()}, flush=True)
    return times


def started_unet(way: str, format_: str, host: Any) -> subprocess.Popen[str]:
    """A process that holds it, warm. It ends when its input does."""
    python = host.python if way == "ComfyUI" else sys.executable
    command = [python, str(CHILD), way, format_, str(host.root) if host is not None else ""]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    unet = subprocess.Popen(
        command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    _answer(unet, "ready")
    return unet


def pass_seconds(unet: subprocess.Popen[str]) -> float:
    """Of one forward pass."""
    assert unet.stdin is not None
    print(file=unet.stdin, flush=True)
    return float(_answer(unet, ""))


def _answer(unet: subprocess.Popen[str], wanted: str) -> str:
    assert unet.stdout is not None
    for line in unet.stdout:
        if not wanted or line.strip() == wanted:
            return line
    raise RuntimeError(f"a UNet's process ended with {unet.wait()}; what it said is above")
