"""What a training run is made of: one TOML file, read strictly into frozen dataclasses."""

import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..config import ARTVConfig, from_dict, preset
from ..synthetic import vocabulary


@dataclass(frozen=True)
class LoopConfig:
    """What every stage has. `batch_size` is global: it is shared among the processes. Learning rate: linear warm-up,
    constant, then linear decay to 0 over the last `decay_steps`."""

    steps: int = 1000
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    decay_steps: int = 0
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    mixed_precision: str = "no"
    save_minutes: float = 5.0
    log_every: int = 20
    sheet_every: int = 500


@dataclass(frozen=True)
class VAEStage(LoopConfig):
    """Autoencoder. `latent_noise`: standard deviation of noise put on the latents before they are decoded."""

    latent_noise: float = 0.03
    edge_weight: float = 0.5
    moment_weight: float = 0.02


@dataclass(frozen=True)
class LatentsStage:
    """The clips that are rendered and encoded once, for the diffusion stage to draw from."""

    clips: int = 4096
    frames: int = 12
    batch_size: int = 8


@dataclass(frozen=True)
class DiffusionStage(LoopConfig):
    """Noise network, mask network and text encoder, end to end. `first_share` and `second_share` of the samples are
    first frames (no references) and second frames (both references equal). `weight_cap` bounds the loss's weight."""

    first_share: float = 0.25
    second_share: float = 0.3
    anchor_window: int = 10
    max_noise_level: int = 100
    drop_references: float = 0.1
    drop_anchor: float = 0.1
    drop_text: float = 0.1
    auxiliary_share: float = 0.25
    weight_cap: float = 5.0
    mask_bias: float = -1.5
    sheet_rows: int = 12
    sheet_columns: int = 12


@dataclass(frozen=True)
class TrainConfig:
    """A whole run. `name` is the shipped name and version, such as `tiny-v1`."""

    name: str = "tiny-v1"
    preset: str = "tiny"
    seed: int = 1
    threads: int = 0
    vae: VAEStage = field(default_factory=VAEStage)
    decoder: VAEStage = field(default_factory=VAEStage)
    latents: LatentsStage = field(default_factory=LatentsStage)
    diffusion: DiffusionStage = field(default_factory=DiffusionStage)

    @property
    def model(self) -> ARTVConfig:
        """The networks that are trained."""
        return preset(self.preset)

    @property
    def exported_model(self) -> ARTVConfig:
        """What the checkpoint's metadata says: the preset, this run's name, and the words of its captions."""
        return replace(self.model, name=self.name, vocabulary=vocabulary())


def read_config(path: str | Path) -> TrainConfig:
    """Read a TOML training configuration. ValueError, one line, on unknown names, wrong types and wrong values."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no training configuration at {path}; the shipped ones are in configs/")
    try:
        data = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    config = from_dict(TrainConfig, data, path.name)
    _check(config, path.name)
    return config


def _check(config: TrainConfig, path: str) -> None:
    if preset(config.preset).vae.kind != "taesd":
        raise ValueError(f"{path}: preset {config.preset!r} cannot be trained from nothing; only tiny can, as yet")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", config.name):
        raise ValueError(f"{path}.name: got {config.name!r}, accepted are letters, digits, and . - _")
    for name, stage in (("vae", config.vae), ("decoder", config.decoder), ("diffusion", config.diffusion)):
        _check_loop(stage, f"{path}.{name}")
    _at_least(1, f"{path}.latents", config.latents, "clips", "batch_size")
    _at_least(3, f"{path}.latents", config.latents, "frames")
    diffusion, last = config.diffusion, preset(config.preset).schedule.num_timesteps - 1
    _at_least(1, f"{path}.diffusion", diffusion, "anchor_window", "sheet_rows", "sheet_columns")
    if not 0 <= diffusion.max_noise_level <= last:
        raise ValueError(f"{path}.diffusion.max_noise_level: got {diffusion.max_noise_level}, accepted are 0 to {last}")
    for name in ("first_share", "second_share", "drop_references", "drop_anchor", "drop_text", "auxiliary_share"):
        if not 0 <= getattr(diffusion, name) <= 1:
            raise ValueError(f"{path}.diffusion.{name}: got {getattr(diffusion, name)}, accepted are 0 to 1")


def _check_loop(stage: LoopConfig, path: str) -> None:
    _at_least(1, path, stage, "steps", "batch_size", "log_every", "sheet_every")
    _at_least(0, path, stage, "warmup_steps", "decay_steps", "save_minutes", "weight_decay", "gradient_clip")
    if not 0 < stage.learning_rate < 10:
        raise ValueError(f"{path}.learning_rate: got {stage.learning_rate}, accepted are numbers above 0 and below 10")
    if not 0 <= stage.ema_decay < 1:
        raise ValueError(f"{path}.ema_decay: got {stage.ema_decay}, accepted are 0 up to (not with) 1")
    if stage.mixed_precision not in ("no", "bf16", "fp16"):
        raise ValueError(f"{path}.mixed_precision: got {stage.mixed_precision!r}, accepted: no, bf16, fp16")


def _at_least(least: int, path: str, stage: object, *names: str) -> None:
    for name in names:
        if not getattr(stage, name) >= least:
            raise ValueError(f"{path}.{name}: got {getattr(stage, name)}, at least {least} is needed")
