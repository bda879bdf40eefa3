"""One process, two processes that share each batch (DDP), and two whose weights are sharded: the same losses."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from .programs import CPU, ROOT, logged, moving_clips, train, write_clips

CONFIG = """
name = "{name}"
preset = "tiny"
base = "tiny"
seed = 1
[data]
path = "{clips}"
bucket_multiple = 0
held_out = 2
[diffusion]
steps = {steps}
batch_size = 8
warmup_steps = 5
log_every = 1
sheet_every = 1000000
sheet_rows = 1
sheet_columns = 2
"""


def measure(folder: Path, quick: bool) -> dict[str, Any]:
    """Largest relative differences of the logged losses to one process's with batch 8, float32, gloo, on the CPU."""
    steps = 4 if quick else 20
    write_clips(folder / "clips", moving_clips(16))
    losses = {}
    for name in ("one", "two", "sharded"):
        config = folder / f"{name}.toml"
        config.write_text(CONFIG.format(name=name, clips=folder / "clips", steps=steps))
        if name == "sharded":
            train_sharded(config, folder)
        else:
            train(config, folder, "--stages", "diffusion", processes=1 if name == "one" else 2)
        losses[name] = logged(folder, name)
        assert len(losses[name]) == steps, losses[name]
        states = folder / name / "diffusion" / f"state-{steps:08d}"
        assert len(list(states.glob("generators-*"))) == (1 if name == "one" else 2), "not so many processes"
    differences = {
        name: max(abs(losses[name][step] / value - 1) for step, value in losses["one"].items())
        for name in ("two", "sharded")
    }
    return {
        "losses": {name: list(values.values()) for name, values in losses.items()},
        "bars": {
            "2 processes of batch 4 against 1 of batch 8: steps": steps,
            "2 processes of batch 4 against 1 of batch 8: largest relative difference of losses": differences["two"],
            "2 processes of batch 4 against 1 of batch 8: the same with fully_shard, largest difference": differences[
                "sharded"
            ],
        },
    }


def train_sharded(config: Path, output: Path) -> None:
    """Two processes by torchrun whose module is sharded by `fully_shard`, which Accelerate never picks on CPUs."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command = [*launch, str(Path(__file__).with_name("sharded.py")), str(config), str(output)]
    environment = os.environ | CPU | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
