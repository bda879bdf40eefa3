"""What a GPU replays as CUDA graphs, on a CPU with a stand-in that calls the same function: counted, not timed."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.method import transfer
from artv_core.method.denoiser import evaluate
from artv_core.method.generate import GenerateOptions, generate_frames
from artv_core.models.artv import ARTV
from artv_core.speed.graphs import Captured

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.device_waits import DeviceWaits
from tests.test_captured import CPU, Tape, two_texts

CASES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "96x64": {"height": 64, "width": 96},
    "a batch of 2": {"batch_size": 2},
    "four branches": {"guidance_references": 1.3, "guidance_anchor": 1.6, "guidance_text": 3.0},
    "reuse 2": {"reuse_every": 2},
    "guidance 0.3 to 0.8": {"guidance_interval": (0.3, 0.8), "guidance_text": 3.0},
    "2S": {"sampler": "dpmpp_2s_ancestral"},
}


def measure(quick: bool) -> dict[str, Any]:
    """`tiny`, 16 frames of each case with two texts; then the same with a changed weight."""
    model = load_checkpoint(resolve_checkpoint("tiny"))
    cases = dict(list(CASES.items())[:2]) if quick else CASES
    rows = {name: compared(model, case) for name, case in cases.items()}
    with torch.no_grad():
        model.noise.diffusion_model.middle_block[0].in_layers[2].weight.mul_(1.1)  # type: ignore[union-attr,index]
    rows["a patched weight"] = compared(model, {})
    with DeviceWaits(model) as waits, patch.object(transfer, "queues_work", lambda device: True):
        made = list(generate_frames(model, two_texts(model), GenerateOptions(num_frames=4, steps=3)))
    prefix = "captured evaluations, on a CPU with a stand-in"
    return {
        "rows": rows,
        "waits": waits.where,
        "bars": {
            f"{prefix}: frames that differ from the plain way's": sum(row["differing"] for row in rows.values()),
            f"{prefix}: replays per evaluation": max(row["replays"] / row["evaluations"] for row in rows.values()),
            "frame loop: waits for the device per frame": waits.count / len(made),
        },
    }


def compared(model: ARTV, case: dict[str, Any]) -> dict[str, int]:
    """Frames that differ, and counts."""
    tape = Tape()
    captured, evaluations = Captured(CPU, graphs=tape), 0

    def counting(*arguments: Any) -> Any:
        nonlocal evaluations
        evaluations += 1
        return captured(*arguments)

    options, text = replace(GenerateOptions(num_frames=16, steps=4, seed=5), **case), two_texts(model)
    plain = list(generate_frames(model, text, options, evaluate=evaluate))
    replayed = list(generate_frames(model, text, options, evaluate=counting))
    differing = sum(not torch.equal(a.latent, b.latent) for a, b in zip(plain, replayed, strict=True))
    return {
        "differing": differing,
        "evaluations": evaluations,
        "replays": captured.replays,
        "graphs": tape.captures,
    }
