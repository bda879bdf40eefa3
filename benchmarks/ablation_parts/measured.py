"""What is measured of videos from text: the quality table's rows, and how they change from frame to frame."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ablation_parts.runs import Variant, in_sampling
from artv_core.method.generate import GenerateOptions
from artv_core.models.artv import ARTV
from artv_core.run.recording import Recording
from artv_core.synthetic.quality import (
    Rollout,
    appearance,
    background_drift,
    direction,
    holding,
    object_drift,
    quality_clips,
    read_rollout,
    sharpness_kept,
    survival,
)
from artv_core.synthetic.shapes import Clip
from artv_core.training.sheets import rollout

PROMPTS = 32
CURVE = 4
"""Frames between two points of a curve."""


def from_text(
    model: ARTV,
    variant: Variant,
    prompts: int,
    frames: int,
    seed: int = 0,
    folder: Path | None = None,
    **options: Any,
) -> tuple[dict[str, Any], Tensor]:
    """Figures of videos from held-out prompts, and the videos [N, T, 3, H, W]. What neither the variant nor `options`
    say is as the model recommends. A call that was cut off goes on from what it left in `folder`."""
    clips = quality_clips(prompts)
    chosen = GenerateOptions(num_frames=frames, batch_size=prompts, seed=seed, **(variant.options | options))
    with in_sampling(variant), torch.no_grad():
        recording = None if folder is None else Recording(folder)
        videos = rollout(model, [clip.caption for clip in clips], chosen, recording=recording)
    found = figures(videos, clips)
    if folder is not None:
        shutil.rmtree(folder)
    return found, videos


def figures(videos: Tensor, clips: Sequence[Clip]) -> dict[str, Any]:
    """ "measured": what holds at the end; "curves": what changes on the way, frame numbers first."""
    read, last = read_rollout(videos), videos.shape[1] - 1
    table = appearance(read, clips) | {"direction from text": direction(read, clips, 0, 16)}
    table["object there at frame 15"] = survival(read, clips, 15)
    table |= holding(read, clips, last)
    table[f"object's colour, drift at frame {last}"] = object_drift(read, last)
    return {"measured": {name: rounded(value) for name, value in table.items()}, "curves": curves(read, clips)}


def curves(read: Rollout, clips: Sequence[Clip]) -> dict[str, list[Any]]:
    """Background drift of 255, sharpness over frame 1's, and the share of objects that are there."""
    last = len(read.readings[0]) - 1
    at = sorted({*range(0, last + 1, CURVE * max(1, last // 200)), last})
    return {
        "frame": at,
        "background drift": [rounded(background_drift(read, frame)) for frame in at],
        "sharpness": [rounded(sharpness_kept(read, frame)) for frame in at],
        "object there": [rounded(survival(read, clips, frame)) for frame in at],
    }


def rounded(value: float) -> float | None:
    """Four digits; None for what cannot be said."""
    return None if math.isnan(value) else round(value, 4)
