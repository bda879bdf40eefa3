"""What a training run is made of: one TOML file, read strictly into frozen dataclasses."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..checkpoint import resolve_checkpoint
from ..config import ARTVConfig, from_dict, preset, validate
from ..synthetic import vocabulary


@dataclass(frozen=True)
class LoopConfig:
    """What every stage has. `batch_size` is global: it is shared among the processes. Learning rates: linear warm-up,
    constant, then linear decay to 0 over the last `decay_steps`. With `optimizer = "muon"` the matrices and kernels
    inside the networks are updated by Muon at `muon_learning_rate`, all else by AdamW at `learning_rate`.
    `start_from`: a checkpoint, shipped name or path, whose weights training goes on from instead of from nothing."""

    start_from: str = ""
    steps: int = 1000
    batch_size: int = 16
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    muon_learning_rate: float = 3e-3
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
    """Autoencoder. `latent_noise`: standard deviation of noise put on the latents before they are decoded. Of all
    steps, `crop_share` see, instead of whole frames, as many times more crops of `crop` pixels as cost the same; those
    lie on the object, where nearly all of the error is. `still_weight`: how much it counts that latents change where
    the picture does not, seen on a second frame of each clip; it costs half as much again."""

    latent_noise: float = 0.03
    crop: int = 32
    crop_share: float = 0.0
    edge_weight: float = 0.5
    moment_weight: float = 0.02
    still_weight: float = 0.0


@dataclass(frozen=True)
class LatentsStage:
    """The clips that are rendered and encoded once, for the diffusion stage to draw from."""

    clips: int = 4096
    frames: int = 12
    batch_size: int = 8


@dataclass(frozen=True)
class RolloutsStage:
    """The first `clips` clips, gone on with from their first frames by the checkpoint that `[diffusion] start_from`
    names, at its recommended settings but with `steps` denoising steps (0: the recommended ones too)."""

    clips: int = 1024
    batch_size: int = 64
    steps: int = 0


@dataclass(frozen=True)
class DiffusionStage(LoopConfig):
    """Noise network, mask network and text encoder, end to end. `first_share` and `second_share` of the samples are
    first frames (no references) and second frames (both references equal). `weight_cap` bounds the loss's weight;
    cells unlike most of their frame weigh up to `1 + detail_weight` times as much. Time steps are drawn uniformly in
    `uniform_share` of the samples, else as a log-normal noise-to-signal ratio of median `ratio_median` (Karras et al.,
    2022) with a standard deviation of `ratio_spread` in the logarithm. In `rollout_share` of the samples references and
    anchor are frames that the model itself made (stage "rollouts"), the target is the true frame all the same."""

    first_share: float = 0.25
    second_share: float = 0.3
    anchor_window: int = 10
    max_noise_level: int = 100
    drop_references: float = 0.1
    drop_anchor: float = 0.1
    drop_text: float = 0.1
    auxiliary_share: float = 0.25
    weight_cap: float = 5.0
    detail_weight: float = 0.0
    uniform_share: float = 1.0
    ratio_median: float = 1.0
    ratio_spread: float = 1.2
    rollout_share: float = 0.0
    mask_bias: float = -1.5
    sheet_rows: int = 12
    sheet_columns: int = 12


@dataclass(frozen=True)
class TrainConfig:
    """A whole run. `name` is the shipped name and version, such as `tiny-v3`. `overrides`, in TOML a table such as
    `[overrides.noise.unet]`, changes single fields of the preset."""

    name: str = "untitled"
    preset: str = "tiny"
    overrides: dict[str, Any] = field(default_factory=dict)
    seed: int = 1
    threads: int = 0
    vae: VAEStage = field(default_factory=VAEStage)
    decoder: VAEStage = field(default_factory=VAEStage)
    latents: LatentsStage = field(default_factory=LatentsStage)
    rollouts: RolloutsStage = field(default_factory=RolloutsStage)
    diffusion: DiffusionStage = field(default_factory=DiffusionStage)

    @property
    def model(self) -> ARTVConfig:
        """The networks that are trained. Raises ValueError where the overrides fit no network."""
        return overridden(preset(self.preset), self.overrides)

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
    model = config.model  # first of all, for overrides may be wrong
    if model.vae.kind != "taesd":
        raise ValueError(f"{path}: preset {config.preset!r} cannot be trained from nothing; only tiny can, as yet")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", config.name):
        raise ValueError(f"{path}.name: got {config.name!r}, accepted are letters, digits, and . - _")
    for name, stage in (("vae", config.vae), ("decoder", config.decoder), ("diffusion", config.diffusion)):
        _check_loop(stage, f"{path}.{name}")
    _at_least(1, f"{path}.latents", config.latents, "clips", "batch_size")
    _at_least(3, f"{path}.latents", config.latents, "frames")
    _at_least(1, f"{path}.rollouts", config.rollouts, "clips", "batch_size")
    _at_least(0, f"{path}.rollouts", config.rollouts, "steps")
    for name, vae in (("vae", config.vae), ("decoder", config.decoder)):
        _check_crop(vae, model, f"{path}.{name}")
    _check_rollouts(config, path)
    diffusion, last = config.diffusion, model.schedule.num_timesteps - 1
    _at_least(1, f"{path}.diffusion", diffusion, "anchor_window", "sheet_rows", "sheet_columns")
    if not 0 <= diffusion.max_noise_level <= last:
        raise ValueError(f"{path}.diffusion.max_noise_level: got {diffusion.max_noise_level}, accepted are 0 to {last}")
    if not (diffusion.ratio_median > 0 and diffusion.ratio_spread >= 0):
        given = f"ratio_median: got {diffusion.ratio_median}, ratio_spread: got {diffusion.ratio_spread}"
        raise ValueError(f"{path}.diffusion.{given}; the first must be above 0, the second at least 0")
    for name in (
        "first_share",
        "second_share",
        "drop_references",
        "drop_anchor",
        "drop_text",
        "auxiliary_share",
        "uniform_share",
    ):
        if not 0 <= getattr(diffusion, name) <= 1:
            raise ValueError(f"{path}.diffusion.{name}: got {getattr(diffusion, name)}, accepted are 0 to 1")


def overridden(config: ARTVConfig, overrides: Mapping[str, Any]) -> ARTVConfig:
    """`config` with single fields replaced, given as nested tables. ValueError, one line, on unknown names and values
    from which no network can be built."""
    result: ARTVConfig = from_dict(ARTVConfig, _merged(asdict(config), overrides), "overrides")
    validate(result)
    return result


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for name, value in changes.items():
        inner = base.get(name)
        result[name] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return result


def _check_loop(stage: LoopConfig, path: str) -> None:
    _at_least(1, path, stage, "steps", "batch_size", "log_every", "sheet_every")
    _at_least(0, path, stage, "warmup_steps", "decay_steps", "save_minutes", "weight_decay", "gradient_clip")
    if not 0 < stage.learning_rate < 10:
        raise ValueError(f"{path}.learning_rate: got {stage.learning_rate}, accepted are numbers above 0 and below 10")
    if not 0 <= stage.ema_decay < 1:
        raise ValueError(f"{path}.ema_decay: got {stage.ema_decay}, accepted are 0 up to (not with) 1")
    if stage.start_from:
        resolve_checkpoint(stage.start_from)
    if stage.optimizer not in ("adamw", "muon"):
        raise ValueError(f"{path}.optimizer: got {stage.optimizer!r}, accepted: adamw, muon")
    if not 0 < stage.muon_learning_rate < 10:
        raise ValueError(
            f"{path}.muon_learning_rate: got {stage.muon_learning_rate}, accepted are numbers above 0 and below 10"
        )
    if stage.mixed_precision not in ("no", "bf16", "fp16"):
        raise ValueError(f"{path}.mixed_precision: got {stage.mixed_precision!r}, accepted: no, bf16, fp16")


def _check_rollouts(config: TrainConfig, path: str) -> None:
    if config.diffusion.rollout_share and not config.diffusion.start_from:
        raise ValueError(f"{path}.diffusion.rollout_share: rollouts are made by start_from's checkpoint; name one")


def _check_crop(stage: VAEStage, model: ARTVConfig, path: str) -> None:
    factor, side = model.vae.factor, min(model.size)
    if stage.crop % factor or not 0 < stage.crop <= side:
        raise ValueError(f"{path}.crop: got {stage.crop}, it must be a multiple of {factor} and at most {side}")
    if not 0 <= stage.crop_share <= 1:
        raise ValueError(f"{path}.crop_share: got {stage.crop_share}, accepted are 0 to 1")


def _at_least(least: int, path: str, stage: object, *names: str) -> None:
    for name in names:
        if not getattr(stage, name) >= least:
            raise ValueError(f"{path}.{name}: got {getattr(stage, name)}, at least {least} is needed")
