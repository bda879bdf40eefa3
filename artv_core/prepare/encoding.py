"""Step 4: encodes the selected clips as latents and text embeddings, in shards of one frame size each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..data.buckets import make_buckets, nearest_bucket
from ..data.clips import BrokenClip
from ..data.decode import read_frames
from ..data.prepared import SHARDS, ReadyClip, ShardRecord, fingerprint, read_record, write_shard
from ..data.sources import Entry
from .options import BUCKET_MULTIPLE, SMALL_MULTIPLE, PrepareOptions
from .scoring import entry_line, read_entry
from .selecting import Selection, clip_entry
from .tasks import Task, write_tasks

if TYPE_CHECKING:
    from ..config import ARTVConfig
    from ..models.artv import ARTV

VERSION = 2
"""Version of how shards are made; raising it makes all of them again."""

DECODED_AT_ONCE = 64
ENCODED_AT_ONCE = 8
"""Frames that are decoded from a video together, and that go through the VAE together. The latter is the same
everywhere, because the last bits of a sum may depend on it."""


@dataclass(frozen=True)
class ModelFacts:
    """What must be known of the model whose VAE and text encoder are used, apart from its weights."""

    name: str
    config: ARTVConfig
    vae: str
    text: str
    null_context: np.ndarray

    def manifest(self) -> dict[str, Any]:
        """The facts as `dataset.json` stores them."""
        vae = self.config.vae
        scale = {"kind": vae.kind, "scale": vae.scale, "shift": vae.shift}
        return {
            "model": self.name,
            "vae": {"fingerprint": self.vae, "factor": vae.factor, "channels": vae.latent_channels, **scale},
            "text": {"fingerprint": self.text, "tokens": len(self.null_context), "width": self.config.text.width},
        }


def load_encoders(checkpoint: str | None, base: str | None, preset: str | None, device: str, dtype: str) -> ARTV:
    """A model with a VAE and a text encoder. Raises ValueError if one of them is missing."""
    from ..checkpoint import load_checkpoint, resolve_checkpoint

    if preset is not None:
        model = _from_stable_diffusion(preset, Path(base or ""))
    else:
        model = load_checkpoint(resolve_checkpoint(checkpoint or ""), base=base, without=("mask",))
    model.require_vae()
    if model.text is None:
        raise ValueError(f"{checkpoint} contains no text encoder; name a file that does with --base")
    model.noise = torch.nn.Identity()  # type: ignore[assignment]
    return model.to(torch.device(device), getattr(torch, dtype)).eval().requires_grad_(False)


def model_facts(options: PrepareOptions) -> ModelFacts:
    """Read the model once, on the CPU. Raises ValueError as `load_encoders`."""
    base = None if options.base is None else str(options.base)
    model = load_encoders(options.checkpoint, base, options.preset, "cpu", "float32")
    assert model.vae is not None
    assert model.text is not None
    name = Path(options.checkpoint or base or "").name
    null = model.null_context.numpy().astype(np.float16)
    return ModelFacts(name, model.config, fingerprint(model.vae), fingerprint(model.text), null)


def clip_buckets(options: PrepareOptions, config: ARTVConfig) -> tuple[tuple[int, int], ...]:
    """The sizes that clips are encoded at. Raises ValueError if a size does not suit the VAE."""
    size = options.size or config.size
    multiple = BUCKET_MULTIPLE if min(size) >= 4 * BUCKET_MULTIPLE else SMALL_MULTIPLE
    if any(side % config.vae.factor for side in size):
        raise ValueError(f"--size is {size[1]}x{size[0]}; both sides must be multiples of {config.vae.factor}")
    return make_buckets(size, multiple) if options.buckets else (size,)


def plan_shards(
    output: Path,
    settings: Mapping[str, Any],
    options: PrepareOptions,
    fps: float,
    buckets: Sequence[tuple[int, int]],
    selection: Selection,
    entries: Sequence[Entry],
    keys: np.ndarray,
    path: Path,
) -> tuple[list[tuple[Path, str]], list[Task]]:
    """All shards of the dataset as (path, key), and tasks for those that are missing; the lines of the tasks go to
    `path`."""
    clips = selection.clips
    shards: list[tuple[Path, str]] = []
    sizes = [(clips.height[clip], clips.width[clip]) for clip in selection.kept.tolist()]
    bucket_of = np.array([nearest_bucket(*size, buckets) for size in sizes], np.int64)

    def pieces() -> Iterator[tuple[str, list[dict[str, Any]]]]:
        for bucket, size in enumerate(buckets):
            members = selection.kept[bucket_of == bucket]
            for start in range(0, len(members), options.shard_clips):
                target = (output / SHARDS / f"clips-{len(shards):06d}.tar").absolute()
                lines = [
                    _line(selection, entries, clip, options, fps) for clip in members[start:][: options.shard_clips]
                ]
                sources = [int(keys[clips.entry[clip]]) for clip in members[start:][: options.shard_clips]]
                key = _shard_key(settings, size, lines, sources)
                shards.append((target, key))
                record = read_record(target, key)
                if record is None or record.passing:
                    lines[0]["shard"] = {"bucket": bucket, "size": size, "key": key}
                    yield str(target), lines

    tasks = write_tasks(path, pieces())
    return shards, tasks


class Encoder:
    """A `Worker` that makes a shard."""

    def __init__(
        self, checkpoint: str | None, base: str | None, preset: str | None, dtype: str, fps: float, device: str
    ) -> None:
        self.model = load_encoders(checkpoint, base, preset, device, dtype)
        self.fps = fps

    def make(self, lines: list[dict[str, Any]], target: Path) -> None:
        """Make one clip of each line. Clips that turn out to be broken are left out and noted."""
        shard = lines[0]["shard"]
        record = ShardRecord(target.name, shard["bucket"], shard["key"])
        write_shard(target, record, self._clips(lines, (shard["size"][0], shard["size"][1]), record))

    def _clips(self, lines: list[dict[str, Any]], size: tuple[int, int], record: ShardRecord) -> Iterator[ReadyClip]:
        for line in lines:
            entry = read_entry(line)
            try:
                latents = self._latents(entry, line["first"], line["frames"], size)
                context = self._context(entry.caption)
            except BrokenClip as error:
                record.left_out.append((entry.name, str(error).removeprefix(f"{entry.name}: ")))
                record.passing |= error.passing
                continue
            yield ReadyClip(latents, context, _facts(entry, line, self.fps))

    @torch.no_grad()
    def _latents(self, entry: Entry, first: int, count: int, size: tuple[int, int]) -> np.ndarray:
        times = [(first + number) / self.fps for number in range(count)]
        parts: list[Tensor] = []
        for start in range(0, count, DECODED_AT_ONCE):
            images = read_frames(entry, times[start : start + DECODED_AT_ONCE], size)
            parts += [self.model.encode_images(batch).cpu() for batch in images.split(ENCODED_AT_ONCE)]
        return _half(torch.cat(parts), f"{entry.name}: its latents")

    @torch.no_grad()
    def _context(self, caption: str) -> np.ndarray:
        return _half(self.model.encode_text([caption])[0].cpu(), f"{caption!r}: its embedding")


def _from_stable_diffusion(name: str, base: Path) -> ARTV:
    """The preset's model, without allocating memory for its UNet."""
    from ..checkpoint import initialise_from_stable_diffusion
    from ..config import preset
    from ..models.artv import ARTV
    from ..models.hollow import hollow

    config = preset(name)
    with hollow():
        model = ARTV(config, mask=False)
    for module in (model.vae, model.text):
        assert module is not None
        module.to_empty(device="cpu")
    model.null_context = torch.zeros(config.text.context_length, config.text.width)
    initialise_from_stable_diffusion(model, base, parts=("vae", "text"))
    return model


def _line(
    selection: Selection, entries: Sequence[Entry], clip: int, options: PrepareOptions, fps: float
) -> dict[str, Any]:
    """What the encoder is given for a clip. Only the middle of a clip that is too long is used, because the beginning
    often fades in or shows titles. Not in the paper."""
    clips = selection.clips
    count = min(clips.frames[clip], options.max_frames or clips.frames[clip])
    scores = {
        "motion": clips.motion[clip],
        "clip_score": None if clips.clip[clip] != clips.clip[clip] else clips.clip[clip],
    }
    first = (clips.frames[clip] - count) // 2
    return {**entry_line(clip_entry(clips, entries, clip)), "first": first, "frames": count, **scores}


def _shard_key(
    settings: Mapping[str, Any], size: tuple[int, int], lines: Sequence[Mapping[str, Any]], sources: Sequence[int]
) -> str:
    """A hash of everything that a shard depends on, except where the files are."""
    told = [{name: value for name, value in line.items() if name != "path"} for line in lines]
    return hashlib.sha256(json.dumps([settings, size, told, sources], sort_keys=True).encode()).hexdigest()[:16]


def _facts(entry: Entry, line: Mapping[str, Any], fps: float) -> dict[str, Any]:
    start = entry.start + line["first"] / fps
    seconds = {"start": round(start, 4), "end": round(start + line["frames"] / fps, 4)}
    scores = {"motion": line["motion"], "clip_score": line["clip_score"]}
    return {"name": entry.name, "caption": entry.caption, **seconds, "frames": line["frames"], **scores}


def _half(tensor: Tensor, name: str) -> np.ndarray:
    half = tensor.to(torch.float16)
    if not torch.isfinite(half).all():
        raise BrokenClip(f"{name} is too large for float16; try --dtype float32")
    return half.numpy()
