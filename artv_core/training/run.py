"""A run is its stages in order; each finds what the one before left in the run's folder.

With several processes (torchrun, accelerate launch) all train, and the main one writes.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file

from ..checkpoint import load_checkpoint, resolve_checkpoint, save_checkpoint
from ..models.artv import ARTV
from ..models.taesd import TAESD
from .config import TrainConfig
from .data import LatentClips, encode_clips, provenance, read_clips, read_rollouts, roll_out_clips
from .diffusion import DiffusionTraining, MaskedDiffusionLoss, initialise, with_networks
from .loop import run_stage
from .vae import AutoencoderLoss, DecoderTraining, VAETraining

STAGES = ("vae", "latents", "decoder", "rollouts", "diffusion", "export")


def run(config: TrainConfig, output: str, stages: Sequence[str], resume: bool) -> None:
    """Run `stages` of `config` in `output/<name>`. ValueError on an unknown stage or a run that is there already."""
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise ValueError(f"unknown stage {unknown[0]!r}; stages are {', '.join(STAGES)}")
    folder = Path(output) / config.name
    for stage in stages:
        if not resume and any((folder / stage).glob("state-*")):
            raise ValueError(
                f"{folder / stage} holds a run already; use --resume to go on, or --output for another folder"
            )
    if config.threads:
        torch.set_num_threads(config.threads)
    steps = {
        "vae": _vae,
        "latents": _latents,
        "decoder": _decoder,
        "rollouts": _rollouts,
        "diffusion": _diffusion,
        "export": _export,
    }
    for stage in STAGES:
        if stage in stages:
            started = time.monotonic()
            if stage in ("vae", "decoder", "diffusion") or PartialState().is_main_process:
                steps[stage](config, folder, resume)
            PartialState().wait_for_everyone()
            PartialState().print(f"stage {stage}: done in {(time.monotonic() - started) / 60:.1f} minutes")
    PartialState().destroy_process_group()


def _vae(config: TrainConfig, folder: Path, resume: bool) -> None:
    trained = run_stage(VAETraining(config), folder, resume)
    assert isinstance(trained, AutoencoderLoss)
    _save_part(trained.vae, folder / "vae.safetensors")


def _latents(config: TrainConfig, folder: Path, resume: bool) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae, made_of = _read_vae(config, folder, "vae"), provenance(config, folder / "vae.safetensors")
    encode_clips(config, vae, made_of, folder / "latents.safetensors", device)


def _decoder(config: TrainConfig, folder: Path, resume: bool) -> None:
    trained = run_stage(DecoderTraining(config, _read_vae(config, folder, "vae")), folder, resume)
    assert isinstance(trained, AutoencoderLoss)
    _save_part(trained.vae, folder / "decoder.safetensors")


def _rollouts(config: TrainConfig, folder: Path, resume: bool) -> None:
    if not config.diffusion.rollout_share:
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, clips = _start(config, config.diffusion.start_from), _read_latents(config, folder)
    roll_out_clips(config, model, clips, _rollouts_made_of(config, folder), folder / "rollouts.safetensors", device)


def _diffusion(config: TrainConfig, folder: Path, resume: bool) -> None:
    vae, clips = _read_vae(config, folder, "vae"), _read_latents(config, folder)
    if config.diffusion.rollout_share:
        rollouts = read_rollouts(_rollouts_made_of(config, folder), folder / "rollouts.safetensors")
        clips = replace(clips, rollouts=rollouts)
    torch.manual_seed(config.seed)
    model = ARTV(config.model)
    initialise(model, config.diffusion)
    if config.diffusion.start_from:
        model = _start(config, config.diffusion.start_from)
    model.vae = vae
    trained = run_stage(DiffusionTraining(config, model, clips), folder, resume)
    assert isinstance(trained, MaskedDiffusionLoss)
    _save_part(with_networks(model, trained), folder / "diffusion.safetensors")


def _read_latents(config: TrainConfig, folder: Path) -> LatentClips:
    return read_clips(config, provenance(config, folder / "vae.safetensors"), folder / "latents.safetensors")


def _rollouts_made_of(config: TrainConfig, folder: Path) -> dict[str, str]:
    checkpoint = resolve_checkpoint(config.diffusion.start_from)
    more = {"checkpoint": hashlib.sha256(checkpoint.read_bytes()).hexdigest(), "rollouts": str(config.rollouts)}
    return provenance(config, folder / "vae.safetensors") | more


def _start(config: TrainConfig, checkpoint: str) -> ARTV:
    """The model of a checkpoint, which must be built as this run's. ValueError, one line, where it is not."""
    path = resolve_checkpoint(checkpoint)
    model = load_checkpoint(path)
    for part in ("noise", "mask", "text", "schedule"):
        if getattr(model.config, part) != getattr(config.model, part):
            raise ValueError(
                f"{path} cannot start this run: its {part} is configured differently; leave out start_from"
            )
    return model.train()


def _export(config: TrainConfig, folder: Path, resume: bool) -> None:
    model = ARTV(config.exported_model)
    model.load_state_dict(_read_part(folder, "diffusion"))
    model.vae = _best_vae(config, folder)
    path = folder / f"{config.name}.safetensors"
    save_checkpoint(model.eval(), path)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def _best_vae(config: TrainConfig, folder: Path) -> TAESD:
    """With the decoder that went on alone, if that stage was run."""
    vae = _read_vae(config, folder, "vae")
    if not (folder / "decoder").exists():
        return vae
    better = _read_vae(config, folder, "decoder")
    pairs = zip(vae.taesd_encoder.parameters(), better.taesd_encoder.parameters(), strict=True)
    if not all(torch.equal(ours, theirs) for ours, theirs in pairs):
        raise ValueError(f"{folder / 'decoder.safetensors'} belongs to another encoder; run the stage decoder again")
    return better


def _save_part(module: torch.nn.Module, path: Path) -> None:
    if not PartialState().is_main_process:
        return
    partial = path.with_suffix(".partial")
    save_file({name: tensor.detach().contiguous() for name, tensor in module.state_dict().items()}, partial)
    partial.rename(path)


def _read_part(folder: Path, name: str) -> dict[str, torch.Tensor]:
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise ValueError(f"{path} is not there; run the stage {name} first")
    return load_file(path)


def _read_vae(config: TrainConfig, folder: Path, name: str) -> TAESD:
    vae = TAESD(latent_channels=config.model.vae.latent_channels)
    vae.load_state_dict(_read_part(folder, name))
    return vae.eval()
