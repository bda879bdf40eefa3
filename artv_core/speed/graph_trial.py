"""Tests whether evaluations can be captured as CUDA graphs with the allocator cudaMallocAsync, ComfyUI's default.

With this allocator, a failed capture may crash the whole process. So a small model is captured once in another process,
which may crash. This takes some seconds. Not in the paper.
"""

import functools
import logging
import subprocess
import sys
from pathlib import Path

logger = logging.getLogger(__name__)

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
        ran = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False, text=True, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.info("trying CUDA graphs in another process: %s", error)
        return False
    if ran.returncode:
        logger.info("trying CUDA graphs in another process: exit code %d, %s", ran.returncode, _last_words(ran.stderr))
    return ran.returncode == 0


def _last_words(text: str) -> str:
    """The first line of an error message, where there is one: a crash prints many lines of addresses after it."""
    lines = [line.strip() for line in text.splitlines() if "Error" in line or "error" in line]
    return lines[0] if lines else "without an error message"
