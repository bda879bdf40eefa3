"""The shipped model, trained again with this loop, against the bars that the shipped one is held to.

Training comes first and takes hours: `python train.py --config configs/tiny.toml --set name=tiny-retrained`, with
--resume after a stop. This part measures what came of it.
"""

import json
from pathlib import Path
from typing import Any

from quality import BARS, measure_table

from artv_core.checkpoint import load_checkpoint

from .programs import ROOT

MISSED = "tiny retrained: bars of the shipped model that it misses"
CHECKPOINT = ROOT / "runs/tiny-retrained/tiny-retrained.safetensors"


def measure(folder: Path, quick: bool) -> dict[str, Any]:
    """The table of `benchmarks/quality.py`, and beside it what the shipped checkpoint reached."""
    model = load_checkpoint(CHECKPOINT)
    found = {bar["name"]: bar for bar in measure_table(model, quick, 0, {})["bars"]}
    shipped = {
        bar["name"]: bar["value"] for bar in json.loads((ROOT / "benchmarks/results/quality.json").read_text())["bars"]
    }
    names = [name for name in BARS if name in found]
    return {
        "checkpoint": model.config.name,
        "measured": {name: found[name]["value"] for name in names},
        "shipped": {name: shipped[name] for name in names},
        "bars": {MISSED: sum(not found[name]["holds"] for name in names)},
    }
