"""Tests whether evaluations can be captured as CUDA graphs with the allocator cudaMallocAsync, ComfyUI's default.

With this allocator, a failed capture may crash the whole process. So a small model is captured once in another process,
which may crash. This takes some seconds. Not in the paper.
"""

import functools
import subprocess
import sys
from pathlib import Path

SECONDS = 120.0
CHILD = (
    "import sys; sys.path.insert(0, sys.argv[1]); from artv_core.speed.graph_trial_child import main; main(sys.argv[2])"
)


_given_up: list[bool] = []


def give_up() -> None:
    """Note that a capture has failed in this process, so that no other is tried."""
    _given_up.append(True)


def survives_capture(device: str) -> bool:
    """Whether capture and replay work on this device, with the right results. Tried once, in another process."""
    return not _given_up and _tried(device)


@functools.cache
def _tried(device: str) -> bool:
    command = [sys.executable, "-c", CHILD, str(Path(__file__).resolve().parents[2]), device]
    try:
        return subprocess.run(command, capture_output=True, timeout=SECONDS, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
