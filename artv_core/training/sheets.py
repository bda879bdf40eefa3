"""Sample sheets while training: held-out prompts rolled out, one row each, and what image analysis says of them."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import save_image

from ..conditioning import TextSegment, TextTrack
from ..evaluation.synthetic import score_clip, summarise
from ..generate import GenerateOptions, generate_frames
from ..models.artv import ARTV
from ..synthetic import VALIDATION_SEED, Clip, sample_clip


def rollout(model: ARTV, captions: list[str], options: GenerateOptions, given: Tensor | tuple = ()) -> Tensor:
    """Videos [N, T, 3, H, W] on the CPU, one for each caption, all in one batch. `given`: latents [t, N, C, h, w]."""
    track = TextTrack([TextSegment(0, model.encode_text(captions))])
    latents = [*given, *(frame.latent for frame in generate_frames(model, track, options, given=given))]
    return torch.stack([model.decode_latents(latent).cpu() for latent in latents], dim=1)


def held_out_clips(count: int) -> list[Clip]:
    """The first `count` clips of the held-out triples."""
    return [sample_clip(VALIDATION_SEED, index, held_out=True) for index in range(count)]


@torch.no_grad()
def rollout_sheet(model: ARTV, path: Path, rows: int, columns: int) -> dict[str, float]:
    """Roll out `rows` held-out prompts from text alone, draw them, return scores (shares in [0, 1], drift of 255)."""
    clips = held_out_clips(rows)
    options = GenerateOptions(num_frames=columns, batch_size=rows, seed=7)
    videos = rollout(model, [clip.caption for clip in clips], options)
    save_image(F.interpolate(videos.flatten(0, 1), scale_factor=1.5), path, nrow=columns, padding=1)
    scores = summarise([score_clip(video, clip) for video, clip in zip(videos, clips, strict=True)])
    print(f"\n{path.name}: " + ", ".join(f"{name} {value:.2f}" for name, value in scores.items()))
    return scores
