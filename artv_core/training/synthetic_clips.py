"""The synthetic world's clips for the diffusion stage: rendered and encoded once, then drawn from."""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from ..data.clips import ClipIndex
from ..files.tensor_file import write_tensor_file
from ..models.taesd import TAESD
from .config import TrainConfig
from .stopping import TimeLimit, stop_on_signal
from .worlds import TrainingWorld, training_world

CLIP_SEED_OFFSET = 1_000_003
"""Added to the seed, so that the diffusion stage draws other clips than the VAE stage."""


ENCODED = "clips encoded"
"""Metadata key in an unfinished file of latents: the number of clips encoded so far."""


class LatentClips:
    """The synthetic world's clips as a source: `latents` [N, T, C, h, w] float16 in the core's scale, and a caption for
    each clip. They depend only on (seed, config, VAE). `coverage` [N, T, h, w] uint8: how much of each cell is covered
    by things, 0 to 255; None if the world does not know."""

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
        """A name with the clip's number."""
        return f"synthetic clip {clip}"

    def caption(self, clip: int) -> str:
        """The caption, which the world's rules make."""
        return self.captions[clip]

    def frames(self, clip: int, positions: Sequence[int]) -> Tensor:
        """Latents [n, C, h, w], float32."""
        return self.latents[clip, list(positions)].float()

    def context(self, clip: int) -> None:
        """None, because the text encoder is trained."""


class RandomOrder:
    """Clips drawn with repetition, each sample by its own key. For a small world whose clips are seen many times."""

    def __init__(self, num_clips: int, batch_size: int, seed: int) -> None:
        self.num_clips, self.batch_size, self.seed = num_clips, batch_size, seed

    def batch(self, step: int) -> np.ndarray:
        """Clip numbers [batch_size]."""
        keys = (f"{self.seed}/{step}/{index}/clip" for index in range(self.batch_size))
        return np.array([random.Random(key).randrange(self.num_clips) for key in keys])


def provenance(config: TrainConfig, vae: Path) -> dict[str, str]:
    """Everything that a file of latents depends on: the world and its seed, the clips, and the autoencoder's file."""
    stage, (height, width) = config.latents, config.model.size
    clips = f"seed {_seed(config)}, {stage.clips} clips of {stage.frames} frames, {width}x{height}"
    if config.world != "plain":
        clips += f", {config.world} world"
    if stage.motion_weights:
        clips += f", motion weights {sorted(stage.motion_weights.items())}"
    return {"clips": clips, "vae": hashlib.sha256(vae.read_bytes()).hexdigest()}


def _seed(config: TrainConfig) -> int:
    return config.seed if config.latents.seed is None else config.latents.seed


def encode_clips(
    config: TrainConfig,
    vae: TAESD,
    made_of: dict[str, str],
    path: Path,
    device: str,
    limit: TimeLimit | None = None,
) -> None:
    """Render and encode `config.latents.clips` clips to a safetensors file. An existing file is kept if it was made
    from the same (`provenance`), else replaced. Raises SystemExit(0) when the time is over and on SIGTERM or SIGINT;
    what is encoded by then is written beside it, and the next call continues from there."""
    if path.exists() and _metadata(path) == made_of:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    vae = vae.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    stage, world = config.latents, training_world(config.world, config.latents.motion_weights)
    partial = path.with_name(f"{path.stem}-unfinished{path.suffix}")
    tensors, done = _begun(config, made_of, partial)
    with stop_on_signal() as stop:
        for start in tqdm(range(done, stage.clips, stage.batch_size), desc="latents", mininterval=5):
            over = limit is not None and limit.left() < limit.kept()
            if over or stop():
                held = {name: tensor[:start] for name, tensor in tensors.items()}
                write_tensor_file(partial, held, made_of | {ENCODED: str(start)})
                _leave(start, stage.clips, "time is up, " if over else "")
            numbers = range(start, min(start + stage.batch_size, stage.clips))
            _encode(config, vae, world, numbers, tensors, device)
        write_tensor_file(path, tensors, made_of)
        partial.unlink(missing_ok=True)
        if stop():
            _leave(stage.clips, stage.clips)


def _leave(done: int, total: int, why: str = "") -> NoReturn:
    print(f"latents: {why}stopped after {done} of {total} clips; the same command with --resume continues from here")
    raise SystemExit(0)


def _begun(config: TrainConfig, made_of: dict[str, str], partial: Path) -> tuple[dict[str, Tensor], int]:
    """Tensors for all clips, with those that an earlier call encoded, and their number."""
    stage, model = config.latents, config.model
    height, width = (side // model.vae.factor for side in model.size)
    shape = (stage.clips, stage.frames, model.vae.latent_channels, height, width)
    tensors = {"latents": torch.empty(shape, dtype=torch.float16)}
    metadata = _metadata(partial) if partial.exists() else {}
    done = int(metadata.pop(ENCODED, 0))
    if metadata != made_of:
        return tensors, 0
    for name, held in load_file(partial).items():
        whole = tensors.setdefault(name, torch.empty(stage.clips, *held.shape[1:], dtype=held.dtype))
        whole[:done] = held
    return tensors, done


def _encode(
    config: TrainConfig, vae: TAESD, world: TrainingWorld, numbers: range, tensors: dict[str, Tensor], device: str
) -> None:
    """Render and encode the clips of these numbers into `tensors`."""
    factor, part = config.model.vae.factor, slice(numbers.start, numbers.stop)
    seed, size = _seed(config) + CLIP_SEED_OFFSET, config.model.size
    images, covered = world.clips(seed, numbers, config.latents.frames, size, device)
    tensors["latents"][part] = _encoded(vae, images, device)
    if covered is not None:
        shares = F.avg_pool2d(covered.flatten(0, 1), factor)[:, 0].unflatten(0, images.shape[:2])
        whole = tensors.setdefault("coverage", torch.empty(config.latents.clips, *shares.shape[1:], dtype=torch.uint8))
        whole[part] = (255 * shares).round().byte().cpu()


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
    """The clips that `encode_clips` wrote. Raises ValueError if the latents stage has not run, or ran with other
    settings."""
    if not path.is_file():
        raise ValueError(f"no encoded clips at {path}; run the stage latents before the stage diffusion")
    if _metadata(path) != made_of:
        raise ValueError(f"{path} was made with another configuration or autoencoder; run the stage latents again")
    with safe_open(path, "pt") as file:
        latents = file.get_tensor("latents")
        coverage = file.get_tensor("coverage") if "coverage" in file.keys() else None  # noqa: SIM118
    captions = training_world(config.world, config.latents.motion_weights).captions(
        _seed(config) + CLIP_SEED_OFFSET, latents.shape[0]
    )
    return LatentClips(latents, captions, config.model.fps, config.model.vae.factor, coverage)
