"""The synthetic world's clips for the diffusion stage: rendered and encoded once, then drawn from."""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from ..data.clips import ClipIndex
from ..models.taesd import TAESD
from ..tensor_file import write_tensor_file
from .config import TrainConfig
from .worlds import training_world

CLIP_SEED_OFFSET = 1_000_003
"""The diffusion stage draws other clips than the VAE stage did."""


class LatentClips:
    """The synthetic world's clips as a source: `latents` [N, T, C, h, w] float16, core scale, and a caption each. They
    follow from (seed, config, VAE) alone. `coverage` [N, T, h, w] uint8: how much of each cell things cover, up to 255;
    None where the world does not know."""

    holds_latents = True

    def __init__(
        self,
        latents: Tensor,
        captions: Sequence[str],
        fps: float = 8.0,
        factor: int = 8,
        coverage: Tensor | None = None,
    ) -> None:
        self.latents, self.captions, self.fps, self.coverage = latents, tuple(captions), fps, coverage
        count, frames, _, height, width = latents.shape
        self.index = ClipIndex(
            num_frames=np.full(count, frames, np.int32),
            bucket=np.zeros(count, np.int16),
            group=np.zeros(count, np.int32),
            buckets=((height * factor, width * factor),),
        )

    def name(self, clip: int) -> str:
        """Its number."""
        return f"synthetic clip {clip}"

    def caption(self, clip: int) -> str:
        """What is to be seen, by rule."""
        return self.captions[clip]

    def frames(self, clip: int, positions: Sequence[int]) -> Tensor:
        """Latents [n, C, h, w], float32."""
        return self.latents[clip, list(positions)].float()

    def context(self, clip: int) -> None:
        """None: the text encoder is trained."""


class RandomOrder:
    """Clips drawn with repetition, each sample by its own key: for a small world that is seen many times."""

    def __init__(self, num_clips: int, batch_size: int, seed: int) -> None:
        self.num_clips, self.batch_size, self.seed = num_clips, batch_size, seed

    def batch(self, step: int) -> np.ndarray:
        """Clip numbers [batch_size]."""
        keys = (f"{self.seed}/{step}/{index}/clip" for index in range(self.batch_size))
        return np.array([random.Random(key).randrange(self.num_clips) for key in keys])


def provenance(config: TrainConfig, vae: Path) -> dict[str, str]:
    """What a file of latents depends on: the world and its seed, the clips, and the autoencoder's file."""
    stage, (height, width) = config.latents, config.model.size
    clips = f"seed {_seed(config)}, {stage.clips} clips of {stage.frames} frames, {width}x{height}"
    if config.world != "plain":
        clips += f", {config.world} world"
    return {"clips": clips, "vae": hashlib.sha256(vae.read_bytes()).hexdigest()}


def _seed(config: TrainConfig) -> int:
    return config.seed if config.latents.seed is None else config.latents.seed


def encode_clips(config: TrainConfig, vae: TAESD, made_of: dict[str, str], path: Path, device: str) -> None:
    """Render and encode `config.latents.clips` clips to a safetensors file; one that is there is kept if it is made of
    the same (`provenance`), else replaced."""
    if path.exists() and _metadata(path) == made_of:
        return
    height, width = config.model.size
    vae = vae.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    stage, world, factor = config.latents, training_world(config.world), config.model.vae.factor
    cells = (stage.clips, stage.frames, height // factor, width // factor)
    latents = torch.empty(*cells[:2], config.model.vae.latent_channels, *cells[2:], dtype=torch.float16)
    coverage = None
    for start in tqdm(range(0, stage.clips, stage.batch_size), desc="latents", mininterval=5):
        numbers = range(start, min(start + stage.batch_size, stage.clips))
        part = slice(numbers.start, numbers.stop)
        seed = _seed(config) + CLIP_SEED_OFFSET
        images, covered = world.clips(seed, numbers, stage.frames, (height, width), device)
        latents[part] = _encoded(vae, images, device)
        if covered is not None:
            coverage = torch.empty(cells, dtype=torch.uint8) if coverage is None else coverage
            shares = F.avg_pool2d(covered.flatten(0, 1), factor).view(images.shape[0], *cells[1:])
            coverage[part] = (255 * shares).round().byte().cpu()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensor_file(path, {"latents": latents} | ({} if coverage is None else {"coverage": coverage}), made_of)


def _encoded(vae: TAESD, images: Tensor, device: str) -> Tensor:
    """Latents [N, T, C, h, w] float16 on the CPU, of images [N, T, 3, H, W]."""
    frames = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast(device, dtype=torch.bfloat16):
        latents = vae.encode(frames)
    return latents.unflatten(0, images.shape[:2]).to("cpu", torch.float16)


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def read_clips(config: TrainConfig, made_of: dict[str, str], path: Path) -> LatentClips:
    """What `encode_clips` wrote. ValueError where the latents stage has not run, or ran on something else."""
    if not path.is_file():
        raise ValueError(f"no encoded clips at {path}; run the stage latents before the stage diffusion")
    if _metadata(path) != made_of:
        raise ValueError(f"{path} was made with another configuration or autoencoder; run the stage latents again")
    with safe_open(path, "pt") as file:
        latents = file.get_tensor("latents")
        coverage = file.get_tensor("coverage") if "coverage" in file.keys() else None  # noqa: SIM118
    captions = training_world(config.world).captions(_seed(config) + CLIP_SEED_OFFSET, latents.shape[0])
    return LatentClips(latents, captions, config.model.fps, config.model.vae.factor, coverage)
