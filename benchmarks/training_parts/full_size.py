"""`sd21-adapter` as large as it is: three steps on a CPU, what they change, and what the start is equal to."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from artv_core.config import preset
from tests.models import write_public_base

from .programs import CPU, ROOT, moving_clips, write_clips


def measure(folder: Path, quick: bool) -> dict[str, Any]:
    """On random weights in the layout of the public file; a small stand-in with `quick`."""
    base = folder / "sd21-random.safetensors"
    write_public_base(base, preset("sd21"))
    write_clips(folder / "clips", moving_clips(6), frames=16, side=256)
    child = [
        sys.executable,
        str(Path(__file__).with_name("full_size_child.py")),
        str(base),
        str(folder),
        str(1 if quick else 3),
    ]
    environment = os.environ | CPU | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(os.cpu_count())}
    done = subprocess.run(child, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}; {done.stdout[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    base.unlink()
    return found | {
        "bars": {
            "sd21-adapter, 3 steps at 256x256 on a CPU: steps": found["steps"],
            "sd21-adapter, 3 steps at 256x256 on a CPU: peak memory, GB": found["peak_gb"],
            "sd21-adapter: named tensors that did not change": len(found["named but the same"]),
            "sd21-adapter: other tensors that changed, or require gradients": len(found["changed but not named"]),
            "sd21 before step 1: noise network equals the plain UNet to the bit": float(
                found["start is the plain UNet"]
            ),
        },
    }
