"""`artv info`: describes a checkpoint, from its header."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..checkpoint import CheckpointSummary
    from ..config import ARTVConfig, NetworkConfig


def add_command(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "info",
        help="show what a checkpoint contains",
        description="Shows the configuration, the parameters of each network, and what is missing for which use.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "checkpoint",
        nargs="?",
        metavar="CHECKPOINT",
        help="a file, or a shipped checkpoint: small (default), small-fast, tiny or tiny-fast",
    )
    parser.set_defaults(run=run_info)


def run_info(args: argparse.Namespace) -> int:
    """Print what the file's header says. No weights are read."""
    from ..checkpoint import describe_checkpoint, resolve_checkpoint

    print("\n".join(info_lines(describe_checkpoint(resolve_checkpoint(args.checkpoint)))))
    return 0


def info_lines(summary: CheckpointSummary) -> Iterator[str]:
    """The lines that `artv info` prints."""
    from ..checkpoint import PARTS

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
    yield from _rows({use: _advice(summary)[use] for use in summary.missing})
    if summary.metadata:
        yield "notes"
        yield from _rows({name: " ".join(text.split())[:300] for name, text in summary.metadata.items()})


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
        "static noise": {"exact": "exact, (x_t - a x_ref) / s", "subtracted": "subtracted, x_t - x_ref"}[
            schedule.static_noise
        ],
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


def _advice(summary: CheckpointSummary) -> dict[str, str]:
    """What to do if the file alone cannot be used for something."""
    named = f"name its base with --base ({summary.base})" if summary.base else "name a base checkpoint with --base"
    return {
        "making frames": named,
        "copying from the previous frame": "it has no mask network; frames are made without one",
        "images in and out": f"it has no VAE; {named}, or give and take latents",
        "text prompts": f"it has no text encoder; {named}",
    }
