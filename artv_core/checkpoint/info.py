"""What a checkpoint's header tells: the text of `artv info`, and the same as plain data for a page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config import ARTVConfig, NetworkConfig
from ..files.tensor_file import open_tensor_file
from .names import PARTS
from .public_files import with_usual_names
from .summary import CheckpointSummary, describe_checkpoint

_PUBLIC_PREFIX = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text": "cond_stage_model."}


def info_lines(summary: CheckpointSummary) -> Iterator[str]:
    """The text of `artv info`."""
    config = summary.config
    yield f"{summary.path}"
    yield f"  {config.name}, {summary.file_bytes / 1e6:.1f} MB, {', '.join(summary.dtypes)}"
    if summary.base:
        yield f"  trained on {summary.base}"
    yield "configuration"
    yield from _rows(_configuration(config))
    yield "recommended settings"
    yield from _rows({name.replace("_", " "): value for name, value in vars(config.sampling).items()})
    yield "parameters"
    counts = {PARTS[part]: f"{count:,}" for part, count in summary.parameters.items()}
    yield from _rows({**counts, "together": f"{sum(summary.parameters.values()):,}"})
    yield "missing" if summary.missing else "missing: nothing; text, images and latents in, video out"
    yield from _rows(summary.missing)
    if summary.metadata:
        yield "notes"
        yield from _rows({name: " ".join(text.split())[:300] for name, text in summary.metadata.items()})


def checkpoint_facts(summary: CheckpointSummary, base: str | Path | None = None) -> dict[str, Any]:
    """What `artv info` tells, as plain data without any path: what JSON can hold, and a page can put into words.

    `megabytes` are of 10^6 bytes, `size` is [width, height] in pixels, `parameters` counts by names in `PARTS`.
    `missing` lists those of `PARTS` that neither the file nor `base` (a path) holds; without "mask" frames are made all
    the same. `recommended` has the names of the nodes' own inputs; levels are time steps. Raises ValueError, one line,
    where `base` is no file that tensors can be read from.
    """
    config, sampling = summary.config, summary.config.sampling
    held = (*summary.parts, *(() if base is None else parts_in(base)))
    height, width = config.size
    return {
        "name": config.name,
        "megabytes": summary.file_bytes / 1e6,
        "dtypes": list(summary.dtypes),
        "size": [width, height],
        "fps": config.fps,
        "segment_frames": config.segment_frames,
        "parameters": dict(summary.parameters),
        "parameters_together": sum(summary.parameters.values()),
        "prediction": config.schedule.prediction,
        "timesteps": config.schedule.num_timesteps,
        "references": config.noise.adapter.num_references,
        "anchor_tokens": config.noise.anchor.num_tokens,
        "vocabulary": list(config.vocabulary),
        "trained_on": summary.base,
        "missing": [part for part in PARTS if part not in held],
        "recommended": {
            "steps": sampling.steps,
            "sampler_name": sampling.sampler,
            "cfg": sampling.guidance_text,
            "cfg_references": sampling.guidance_references,
            "cfg_anchor": sampling.guidance_anchor,
            "cfg_first_frame": sampling.first_frame_guidance,
            "reference_level": sampling.reference_noise_level,
            "anchor_level": sampling.anchor_noise_level,
        },
    }


def parts_in(path: str | Path) -> tuple[str, ...]:
    """The names (in `PARTS`) of what a base holds: an ARTV checkpoint, or a public Stable Diffusion file (LDM keys).
    Only its header is read. Raises ValueError, one line."""
    file = open_tensor_file(path)
    if "artv_config" in file.metadata:
        return describe_checkpoint(path).parts
    file = with_usual_names(file)
    return tuple(part for part, prefix in _PUBLIC_PREFIX.items() if any(key.startswith(prefix) for key in file.tensors))


def _configuration(config: ARTVConfig) -> dict[str, object]:
    schedule, vae, text = config.schedule, config.vae, config.text
    return {
        "trained on": f"{config.size[1]}x{config.size[0]} pixels, {config.fps:g} frames per second",
        "frames of a segment": config.segment_frames,
        "noise network": _network(config.noise),
        "mask network": "none" if config.mask is None else _network(config.mask),
        "prediction": f"{schedule.prediction}, {schedule.num_timesteps} time steps, "
        f"{schedule.betas} betas {schedule.beta_start:g} to {schedule.beta_end:g}"
        + (", zero terminal SNR" if schedule.zero_terminal_snr else ""),
        "VAE": f"{vae.kind}, {vae.latent_channels} channels, {vae.factor} pixels per cell, "
        f"scale {vae.scale:g}, shift {vae.shift:g}",
        "text encoder": f"width {text.width}, {text.layers} layers, {text.context_length} tokens, {text.layer} layer",
        "vocabulary": ", ".join(config.vocabulary) or "open",
    }


def _network(network: NetworkConfig) -> str:
    unet = network.unet
    channels = ", ".join(map(str, unet.level_channels))
    levels = ", ".join(map(str, unet.attention_levels))
    return (
        f"channels {channels}, {unet.num_res_blocks} blocks a level, attention at levels {levels}, "
        f"{network.adapter.num_references} references, {network.anchor.num_tokens} anchor tokens"
    )


def _rows(table: dict[str, Any]) -> Iterator[str]:
    width = max(map(len, table), default=0)
    for name, value in table.items():
        yield f"  {name:<{width}}  {value}"
