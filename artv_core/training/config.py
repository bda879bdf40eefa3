"""The settings of a training run: one TOML file, checked strictly and read into frozen dataclasses."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..checkpoint import resolve_checkpoint
from ..config import ARTVConfig, from_dict, preset, validate
from ..models.artv import check_widths
from ..synthetic.pictures.names import MOTIONS
from .settings import (
    FITTING,
    DataConfig,
    DiffusionStage,
    DistillStage,
    LatentsStage,
    LoopConfig,
    VAEStage,
)
from .worlds import WORLDS, training_world

OPTIMIZERS = ("adamw", "adamw8bit", "muon")
PRECISIONS = ("no", "bf16", "fp16")
TRAINABLE = ("unet", "lora", "branches", "mask", "text")
"""The parts of a checkpoint that the stage "diffusion" can train."""


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run. `name` is the name and version of the checkpoint, such as `tiny-v3`. `overrides` changes
    single fields of the preset; in TOML it is a table such as `[overrides.noise.unet]`.

    Without `data.path` the run makes its own clips and trains an autoencoder first. `world` says which synthetic world
    they come from: "plain", coloured shapes; "detailed", the same shapes on fine textures, among small shapes that
    stand still; or "pictures", named things in detailed places. With `data.path`, autoencoder and text encoder come
    from `base`: a public SD 1.5 or 2.x checkpoint, or an ARTV checkpoint (shipped name or path). A Stable Diffusion
    file provides the UNet too.
    """

    name: str = "untitled"
    preset: str = "tiny"
    base: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)
    seed: int = 1
    threads: int = 0
    world: str = "plain"
    vae: VAEStage = field(default_factory=VAEStage)
    decoder: VAEStage = field(default_factory=VAEStage)
    latents: LatentsStage = field(default_factory=LatentsStage)
    data: DataConfig = field(default_factory=DataConfig)
    diffusion: DiffusionStage = field(default_factory=DiffusionStage)
    distill: DistillStage = field(default_factory=DistillStage)

    @property
    def as_student(self) -> "TrainConfig":
        """The same run with the settings of the stage "distill" in place of those of "diffusion"."""
        stage = self.distill
        return replace(self, diffusion=replace(stage, start_from=stage.start_from or stage.teacher))

    @property
    def model(self) -> ARTVConfig:
        """The configuration of the networks that are trained. Raises ValueError if the overrides do not make a valid
        network."""
        model = overridden(preset(self.preset), self.overrides)
        return replace(model, fps=self.data.fps) if self.data.path else model

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The words of the captions if the run trains on a synthetic world only; else empty."""
        return () if self.data.path else training_world(self.world).vocabulary()

    @property
    def exported_model(self) -> ARTVConfig:
        """The configuration written to the checkpoint's metadata: the preset, this run's name, and `vocabulary`."""
        return replace(self.model, name=self.name, vocabulary=self.vocabulary)

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of this run's stages, in order."""
        if self.distill.teacher:
            return ("distill", "export") if self.data.path else ("vae", "latents", "distill", "export")
        return ("diffusion", "export") if self.data.path else ("vae", "latents", "decoder", "diffusion", "export")


def read_config(path: str | Path, changes: Sequence[str] = ()) -> TrainConfig:
    """Read a TOML training configuration. Each of `changes` is a line of TOML, such as `diffusion.steps=100`, that
    overrides the file. Raises ValueError on unknown names, wrong types and wrong values."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no training configuration at {path}; the shipped ones are in configs/")
    data = _parsed(path.read_bytes(), str(path))
    for change in changes:
        data = _merged(data, _parsed(_quoted(change).encode(), f"--set {change}"))
    config = from_dict(TrainConfig, data, path.name)
    _check(config, path.name)
    return config


def _parsed(text: bytes, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{source} is not valid TOML: {error}") from None


def _quoted(change: str) -> str:
    """If the value is not valid TOML, such as a bare path, read it as a string."""
    name, equals, value = change.partition("=")
    try:
        tomllib.loads(change)
    except tomllib.TOMLDecodeError:
        return f"{name}{equals}{as_string(value)}"
    return change


def as_string(value: str) -> str:
    """TOML's string of this value, whatever else it could be read as, such as a date or a number."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _check(config: TrainConfig, path: str) -> None:
    model = config.model  # checked first, because overrides may be wrong
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", config.name):
        raise ValueError(f"{path}.name: got {config.name!r}, accepted are letters, digits, and . - _")
    if config.world not in WORLDS:
        raise ValueError(f"{path}.world: got {config.world!r}, accepted: {', '.join(WORLDS)}")
    _at_least(0, path, config, "threads")
    for name, stage in (("vae", config.vae), ("decoder", config.decoder), ("diffusion", config.diffusion)):
        _check_loop(stage, f"{path}.{name}")
    _at_least(1, f"{path}.diffusion", config.diffusion, "steps")
    _check_decoder(config.decoder, f"{path}.decoder")
    if not config.vae.steps and not config.vae.start_from:
        raise ValueError(
            f"{path}.vae.steps: got 0, at least 1 is needed, or a start_from whose autoencoder is used as it is"
        )
    _at_least(1, f"{path}.latents", config.latents, "clips", "batch_size")
    _at_least(3, f"{path}.latents", config.latents, "frames")
    _check_motion_weights(config, f"{path}.latents.motion_weights")
    if config.data.path:
        _check_data(config, path)
    elif model.vae.kind != "taesd":
        raise ValueError(
            f"{path}: preset {config.preset!r} trains on your own clips; name them with data.path or --data"
        )
    else:
        _check_sides(model, model.vae.factor, path)
        if config.world == "pictures" and model.size[0] != model.size[1]:
            got = f"{model.size[1]}x{model.size[0]}"
            raise ValueError(f"{path}: the training size is {got}, but frames of the world of pictures must be square")
        for name, vae in (("vae", config.vae), ("decoder", config.decoder)):
            _check_crop(vae, model, f"{path}.{name}")
    _check_diffusion(config.diffusion, model, f"{path}.diffusion")
    if config.distill.teacher:
        _check_distill(config, model, f"{path}.distill")
    elif not config.data.path and "unet" not in config.diffusion.train:
        _check_kept_unet(config, path)


def _check_decoder(stage: VAEStage, path: str) -> None:
    """The stage "decoder" goes on from the stage "vae", with its encoder as it is."""
    if stage.start_from:
        raise ValueError(f"{path}.start_from: got {stage.start_from!r}, only '' is accepted; set vae.start_from")
    if stage.still_weight:
        raise ValueError(
            f"{path}.still_weight: got {stage.still_weight}, only 0 is accepted: the encoder, which it is for, is not "
            "trained there; set vae.still_weight"
        )


def _check_motion_weights(config: TrainConfig, path: str) -> None:
    weights = config.latents.motion_weights
    if weights and config.world != "pictures":
        raise ValueError(f'{path}: only the world of pictures has these; set world = "pictures", or leave them out')
    for motion, weight in weights.items():
        if motion not in MOTIONS:
            raise ValueError(f"{path}: got {motion!r}, accepted are {', '.join(MOTIONS)}")
        if type(weight) not in (int, float) or not 0 < weight <= 100:
            raise ValueError(f"{path}.{motion}: got {weight!r}, accepted are numbers above 0 and up to 100")


def _check_data(config: TrainConfig, path: str) -> None:
    if not config.base:
        raise ValueError(
            f"{path}.base: name the checkpoint that VAE and text encoder come from, e.g. --base sd21.safetensors"
        )
    resolve_checkpoint(config.base)
    data, multiple = config.data, config.data.bucket_multiple
    _at_least(3, f"{path}.data", data, "min_frames")
    _at_least(FITTING, f"{path}.data", data, "held_out")
    _at_least(1, f"{path}.data", data, "window")
    if not 0 < data.fps <= 240:
        raise ValueError(f"{path}.data.fps: got {data.fps}, accepted are numbers above 0 and up to 240")
    factor = config.model.vae.factor
    if multiple < 0 or multiple % factor:
        raise ValueError(f"{path}.data.bucket_multiple: got {multiple}, it must be a multiple of {factor}, or 0")
    _check_sides(config.model, multiple or factor, path)


def _check_sides(model: ARTVConfig, multiple: int, path: str) -> None:
    for side in model.size:
        if side % multiple:
            raise ValueError(f"{path}: the training size has a side of {side}, not a multiple of {multiple}")


def _check_kept_unet(config: TrainConfig, path: str) -> None:
    """A checkpoint without the UNet has no autoencoder either: both are those of the checkpoint that training started
    from, or of the base that completes it."""
    start, vae = config.diffusion.start_from, config.vae
    sources = [resolve_checkpoint(name) for name in (start, config.base) if name]
    kept = bool(vae.start_from) and resolve_checkpoint(vae.start_from) in sources
    if not start or not kept or vae.steps or config.decoder.steps:
        raise ValueError(
            f"{path}.diffusion.train: without unet, the UNet and the autoencoder stay as they are; set "
            "diffusion.start_from and vae.start_from to one checkpoint, and vae.steps and decoder.steps to 0"
        )


SHARES = (
    *("first_share", "second_share", "beginning_share", "uniform_share", "auxiliary_share"),
    *("drop_references", "drop_anchor", "drop_text", "rollout_share", "error_share"),
)


def _check_diffusion(stage: DiffusionStage, model: ARTVConfig, path: str) -> None:
    last = model.schedule.num_timesteps - 1
    _at_least(1, path, stage, "anchor_window", "sheet_rows", "sheet_columns", "rollout_frames", "rollout_steps")
    _at_least(0, path, stage, "weight_cap", "min_snr_gamma", "detail_weight", "change_weight")
    _at_least(0, path, stage, "sheet_steps", "evaluate_every")
    _at_least(1, path, stage, "evaluate_samples", "error_bank", "lora_rank")
    _at_least(0 if isinstance(stage, DistillStage) else 1, path, stage, "evaluate_bands")
    for name in stage.train or ("",):
        if name not in TRAINABLE:
            raise ValueError(f"{path}.train: got {name!r}, accepted are one or more of {', '.join(TRAINABLE)}")
    if {"unet", "lora"} <= set(stage.train):
        raise ValueError(
            f"{path}.train: got both unet and lora, accepted is one of them; lora changes a UNet that stays"
        )
    if not 0 <= stage.max_noise_level <= last:
        raise ValueError(f"{path}.max_noise_level: got {stage.max_noise_level}, accepted are 0 to {last}")
    if not (stage.ratio_median > 0 and stage.ratio_spread >= 0):
        given = f"ratio_median: got {stage.ratio_median}, ratio_spread: got {stage.ratio_spread}"
        raise ValueError(f"{path}.{given}; the first must be above 0, the second at least 0")
    for name in SHARES:
        if not 0 <= getattr(stage, name) <= 1:
            raise ValueError(f"{path}.{name}: got {getattr(stage, name)}, accepted are 0 to 1")


def _check_distill(config: TrainConfig, model: ARTVConfig, path: str) -> None:
    stage, last = config.distill, model.schedule.num_timesteps
    resolve_checkpoint(stage.teacher)
    _check_loop(stage, path)
    _check_diffusion(stage, model, path)
    _at_least(1, path, stage, "steps", "evaluations", "substeps")
    if stage.evaluations * stage.substeps > last:
        got = f"{stage.evaluations} evaluations of {stage.substeps} substeps"
        raise ValueError(f"{path}: got {got}; together they can be at most {last}, the schedule's number of time steps")
    if not stage.error_floor > 0:
        raise ValueError(f"{path}.error_floor: got {stage.error_floor}, accepted are numbers above 0")
    if "text" in stage.train:
        raise ValueError(
            f"{path}.train: got text, accepted are unet, lora, branches, mask; the teacher's text encoder is kept"
        )
    if stage.rollout_share:
        raise ValueError(f"{path}.rollout_share: got {stage.rollout_share}, only 0 is accepted; use error_share")
    own = (config.vae.start_from, config.vae.steps) != (stage.teacher, 0)
    if not config.data.path and own:
        raise ValueError(
            f"{path}: a student has the autoencoder of its teacher; set vae.start_from to {stage.teacher!r} "
            "and vae.steps to 0"
        )


def overridden(config: ARTVConfig, overrides: Mapping[str, Any]) -> ARTVConfig:
    """`config` with single fields replaced, given as nested tables. Raises ValueError on unknown names, and on values
    that do not make a valid network."""
    result: ARTVConfig = from_dict(ARTVConfig, _merged(asdict(config), overrides), "overrides")
    validate(result)
    check_widths(result)
    return result


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for name, value in changes.items():
        inner = base.get(name)
        result[name] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return result


def _check_loop(stage: LoopConfig, path: str) -> None:
    _at_least(1, path, stage, "batch_size", "log_every", "sheet_every")
    _at_least(0, path, stage, "steps", "warmup_steps", "decay_steps", "save_minutes", "weight_decay", "gradient_clip")
    _at_least(0, path, stage, "micro_batch", "workers")
    if not 0 <= stage.ema_decay < 1:
        raise ValueError(f"{path}.ema_decay: got {stage.ema_decay}, accepted are 0 to below 1")
    if stage.start_from:
        resolve_checkpoint(stage.start_from)
    for name, accepted in (
        ("optimizer", OPTIMIZERS),
        ("mixed_precision", PRECISIONS),
        ("ema_device", ("model", "cpu")),
    ):
        if getattr(stage, name) not in accepted:
            raise ValueError(f"{path}.{name}: got {getattr(stage, name)!r}, accepted: {', '.join(accepted)}")
    for name in ("learning_rate", "muon_learning_rate"):
        if not 0 < getattr(stage, name) < 10:
            raise ValueError(f"{path}.{name}: got {getattr(stage, name)}, accepted are numbers above 0 and below 10")


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
