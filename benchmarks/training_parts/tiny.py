"""The shipped model, trained again with this loop, against the bars that the shipped one is held to.

Training comes first: `python train.py --config configs/tiny.toml --set name=tiny-retrained` is all of it, from nothing,
in hours. With `--set vae.start_from=tiny --set vae.steps=0 --set decoder.steps=0 --set diffusion.steps=5200 --set
diffusion.decay_steps=2200` besides, networks and text encoder learn from nothing on the shipped autoencoder's latents,
in some 80 minutes of two cores; what is committed went on from there, with `--set diffusion.steps=6400 --set
diffusion.decay_steps=2000 --resume`, for 1,200 steps more. This part measures what came of it, and notes which.
"""

import json
from pathlib import Path
from typing import Any

import torch
from quality import BARS, measure_table
from safetensors import safe_open

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.models.artv import ARTV

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
        "trained": how_trained(model),
        "measured": {name: found[name]["value"] for name in names},
        "shipped": {name: shipped[name] for name in names},
        "bars": {MISSED: sum(not found[name]["holds"] for name in names)},
    }


def how_trained(model: ARTV) -> dict[str, Any]:
    """Steps and batch of the networks, and whose autoencoder it is."""
    with safe_open(CHECKPOINT, "pt") as file:
        stage = json.loads(file.metadata()["training"])
    shipped = load_checkpoint(resolve_checkpoint("tiny"), without=("mask", "text")).require_vae().state_dict()
    own = model.require_vae().state_dict()
    same = all(torch.equal(own[name], tensor) for name, tensor in shipped.items())
    kept = {name: stage[name] for name in ("steps", "batch_size", "start_from", "seed")}
    return kept | {"autoencoder": "the shipped one" if same else "its own"}
