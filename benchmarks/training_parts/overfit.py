"""Four encoded clips learned by heart: the loss falls, and the rollout resembles the clip."""

from pathlib import Path
from typing import Any

import torch

from artv_core.checkpoint import load_checkpoint
from artv_core.data.decode import read_frames
from artv_core.data.sources import list_entries
from artv_core.media import contact_sheet
from artv_core.method.generate import GenerateOptions, generate_frames
from artv_core.method.text_track import TextSegment, TextTrack

from .programs import ROOT, logged, moving_clips, train, write_clips

CONFIG = """
name = "overfit"
preset = "tiny"
base = "tiny"
seed = 1
[overrides.sampling]
reference_noise_level = 20
anchor_noise_level = 20
[data]
path = "{clips}"
bucket_multiple = 0
held_out = 0
[diffusion]
steps = {steps}
batch_size = 64
optimizer = "muon"
muon_learning_rate = 4e-3
first_share = 0.05
second_share = 0.25
drop_references = 0.05
drop_anchor = 0.05
drop_text = 0.05
uniform_share = 0.3
detail_weight = 3.0
warmup_steps = 20
decay_steps = 150
mixed_precision = "bf16"
ema_decay = 0.98
log_every = 1
sheet_every = 100
sheet_rows = 4
sheet_columns = 9
"""
FRAME = 8


def measure(folder: Path, quick: bool) -> dict[str, Any]:
    """Of `tiny` networks from nothing, trained on 4 clips."""
    steps = 20 if quick else 300
    write_clips(folder / "clips", moving_clips(4))
    config = folder / "overfit.toml"
    config.write_text(CONFIG.format(clips=folder / "clips", steps=steps))
    train(config, folder)
    eps = list(logged(folder, "overfit", "eps").values())
    ours, held = rolled_out(folder)
    return {
        "eps": [sum(eps[at : at + 10]) / 10 for at in range(0, steps, 10)],
        "psnr of each clip": ours,
        "psnr of frame 0 held": held,
        "bars": {
            "4 clips learned by heart: eps error of the last 20 steps over that of the first": mean(eps[-20:]) / eps[0],
            f"4 clips learned by heart: least PSNR at frame {FRAME}": min(ours),
            f"4 clips learned by heart: least PSNR at frame {FRAME} above frame 0's": min(
                a - b for a, b in zip(ours, held, strict=True)
            ),
        },
    }


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@torch.no_grad()
def rolled_out(folder: Path) -> tuple[list[float], list[float]]:
    """PSNR at frame 8 of the exported model's videos from the first frame and caption, and of the first frame."""
    model = load_checkpoint(folder / "overfit" / "overfit.safetensors")
    ours, held, rows = [], [], []
    for entry in list_entries(folder / "clips")[0]:
        true = read_frames(entry, [k / 8 for k in range(FRAME + 1)], (64, 64))
        given = model.encode_images(true[:1])
        track = TextTrack([TextSegment(0, model.encode_text([entry.caption]))])
        frames = generate_frames(model, track, GenerateOptions(num_frames=FRAME + 1), given=[given])
        made = model.decode_latents(torch.cat([given, *(frame.latent for frame in frames)]))
        ours.append(psnr(made[FRAME], true[FRAME]))
        held.append(psnr(true[0], true[FRAME]))
        rows += [(entry.caption, true), ("model", made)]
    sheet = ROOT / "build/training"
    sheet.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows, columns=FRAME + 1).save(sheet / "overfit.png")
    return ours, held


def psnr(made: torch.Tensor, true: torch.Tensor) -> float:
    return float(-10 * (made - true).square().mean().log10())
