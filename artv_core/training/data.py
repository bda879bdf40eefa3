"""Latent clips for the diffusion stage: rendered and encoded once, then drawn from by (seed, step, sample)."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ..conditioning import TextSegment, TextTrack
from ..generate import GenerateOptions, generate_frames
from ..models.artv import ARTV
from ..models.taesd import TAESD
from ..synthetic import render, sample_clip
from .config import TrainConfig

CLIP_SEED_OFFSET = 1_000_003
"""The diffusion stage draws other clips than the VAE stage did."""


@dataclass(frozen=True)
class LatentClips:
    """`latents` [N, T, C, h, w] float16, core scale, and a caption each. They follow from (seed, config, VAE) alone.

    `rollouts` [M, T, C, h, w] are the first M clips as a model went on with them from their first frames.
    """

    latents: Tensor
    captions: tuple[str, ...]
    rollouts: Tensor | None = None


def provenance(config: TrainConfig, vae: Path) -> dict[str, str]:
    """What a file of latents depends on: the world's seed, the clips, and the autoencoder's file."""
    stage, (height, width) = config.latents, config.model.size
    clips = f"seed {config.seed}, {stage.clips} clips of {stage.frames} frames, {width}x{height}"
    return {"clips": clips, "vae": hashlib.sha256(vae.read_bytes()).hexdigest()}


def encode_clips(config: TrainConfig, vae: TAESD, made_of: dict[str, str], path: Path, device: str) -> None:
    """Render and encode `config.latents.clips` clips to a safetensors file; one that is there is kept if it is made of
    the same (`provenance`), else replaced."""
    if path.exists() and _metadata(path) == made_of:
        return
    height, width = config.model.size
    vae = vae.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    parts, stage = [], config.latents
    for start in tqdm(range(0, stage.clips, stage.batch_size), desc="latents", mininterval=5):
        clips = [
            sample_clip(config.seed + CLIP_SEED_OFFSET, index)
            for index in range(start, min(start + stage.batch_size, stage.clips))
        ]
        images = render(clips, stage.frames, height, width, device).flatten(0, 1)
        with torch.inference_mode(), torch.autocast(device, dtype=torch.bfloat16):
            latents = vae.encode(images.contiguous(memory_format=torch.channels_last))
        parts.append(latents.unflatten(0, (len(clips), stage.frames)).to("cpu", torch.float16).contiguous())
    _save(path, torch.cat(parts), made_of)


def roll_out_clips(
    config: TrainConfig, model: ARTV, clips: LatentClips, made_of: dict[str, str], path: Path, device: str
) -> None:
    """Have `model` go on with the first clips from as many true frames as it takes references, and write what it makes
    as `encode_clips` does. Motions here are regular, so those are much the true frames, with the model's own flaws."""
    if path.exists() and _metadata(path) == made_of:
        return
    stage, (count, frames) = config.rollouts, clips.latents.shape[:2]
    num_given, parts = model.config.noise.adapter.num_references, []
    model = model.to(device).eval()
    for start in tqdm(range(0, min(stage.clips, count), stage.batch_size), desc="rollouts", mininterval=5):
        true = clips.latents[start : min(start + stage.batch_size, stage.clips, count)].float()
        captions = clips.captions[start : start + len(true)]
        options = GenerateOptions(
            num_frames=frames, batch_size=len(true), seed=config.seed + start, steps=stage.steps or None
        )
        given = true[:, :num_given].transpose(0, 1).to(device)
        with torch.no_grad():
            track = TextTrack([TextSegment(0, model.encode_text(captions))])
            made = [frame.latent.cpu() for frame in generate_frames(model, track, options, given=given)]
        parts.append(torch.cat([true[:, :num_given], torch.stack(made, dim=1)], dim=1).half())
    _save(path, torch.cat(parts), made_of)


def _save(path: Path, latents: Tensor, made_of: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({"latents": latents.contiguous()}, partial, made_of)
    partial.rename(path)


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def read_clips(config: TrainConfig, made_of: dict[str, str], path: Path) -> LatentClips:
    """What `encode_clips` wrote. ValueError where the latents stage has not run, or ran on something else."""
    if not path.is_file():
        raise ValueError(f"no encoded clips at {path}; run the stage latents before the stage diffusion")
    if _metadata(path) != made_of:
        raise ValueError(f"{path} was made with another configuration or autoencoder; run the stage latents again")
    latents = _read(path)
    captions = tuple(sample_clip(config.seed + CLIP_SEED_OFFSET, index).caption for index in range(latents.shape[0]))
    return LatentClips(latents, captions)


def read_rollouts(made_of: dict[str, str], path: Path) -> Tensor:
    """What `roll_out_clips` wrote. ValueError where the rollouts stage has not run, or ran on something else."""
    if not path.is_file():
        raise ValueError(f"no rollouts at {path}; run the stage rollouts before the stage diffusion")
    if _metadata(path) != made_of:
        raise ValueError(f"{path} was made with another configuration or checkpoint; run the stage rollouts again")
    return _read(path)


def _read(path: Path) -> Tensor:
    with safe_open(path, "pt") as file:
        return file.get_tensor("latents")
