"""The settings of a training run: one TOML file, checked strictly and read into frozen dataclasses."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..checkpoint import resolve_checkpoint
from ..config import ARTVConfig, from_dict, preset, validate
from ..synthetic.pictures.names import MOTIONS
from .worlds import WORLDS, training_world

OPTIMIZERS = ("adamw", "adamw8bit", "muon")
PRECISIONS = ("no", "bf16", "fp16")
FITTING = -1
"""As `data.held_out`: choose how many clips to hold out from the number of clips."""

TRAINABLE = ("unet", "branches", "mask", "text")
"""The parts of a checkpoint that the stage "diffusion" can train."""


@dataclass(frozen=True)
class LoopConfig:
    """Settings that every stage has.

    `batch_size` is the total over all processes. Each process takes its share `micro_batch` samples at a time (0: all
    at once) and accumulates gradients. The learning rate warms up linearly, stays constant, then decays linearly to 0
    over the last `decay_steps`. `optimizer` is "adamw", "adamw8bit" (its state takes a quarter of the memory) or
    "muon". Muon updates the matrices and kernels inside the networks at `muon_learning_rate`, and AdamW updates the
    rest at `learning_rate`.

    `ema_decay` 0 keeps no averaged weights; `ema_device` "cpu" keeps them in main memory. `graph`: on one CUDA device,
    capture the forward and backward pass as CUDA graphs, one for each shape of micro-batch. `log_every`: steps between
    two entries in the log, each with means of the loss and other scalars. `workers`: processes that read ahead, for
    each training process. `start_from`: a checkpoint (shipped name or path) to start training from; empty starts from
    new weights. `wandb_project`: also log to Weights & Biases, which must be installed.
    """

    start_from: str = ""
    steps: int = 1000
    batch_size: int = 16
    micro_batch: int = 0
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    muon_learning_rate: float = 3e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    decay_steps: int = 0
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    ema_device: str = "model"
    mixed_precision: str = "no"
    graph: bool = True
    workers: int = 0
    save_minutes: float = 5.0
    log_every: int = 20
    sheet_every: int = 500
    wandb_project: str = ""


@dataclass(frozen=True)
class VAEStage(LoopConfig):
    """The autoencoder's settings. `latent_noise`: standard deviation of the noise added to the latents before they are
    decoded. `crop_share`: share of the steps that see crops of `crop` pixels around the object instead of whole frames,
    as many as cost the same; nearly all of the error is there. `still_weight`: weight of the loss on latents that
    change where the picture does not. It needs a second frame of each clip, which makes a step 1.5 times as expensive.

    `steps` 0 uses the autoencoder of `start_from` as it is; in the stage "decoder" it leaves the decoder as it is.
    """

    latent_noise: float = 0.03
    crop: int = 32
    crop_share: float = 0.0
    edge_weight: float = 0.5
    moment_weight: float = 0.02
    still_weight: float = 0.0


@dataclass(frozen=True)
class LatentsStage:
    """The clips that are rendered and encoded once, for the diffusion stage to draw from. `seed` is the world's seed;
    None uses the run's. Set it so that runs with different seeds see the same clips. `motion_weights`, for the world of
    pictures only, is a TOML table of how many times as often as usual clips show a motion (`"spinning fast" = 3.0`);
    motions that are not named count 1."""

    clips: int = 4096
    frames: int = 12
    batch_size: int = 8
    seed: int | None = None
    motion_weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DataConfig:
    """The user's own clips, for runs that do not train on a synthetic world.

    `path`: a folder of videos with a caption beside each, a CSV or JSONL list, WebDataset shards, or a folder written
    by `artv prepare`. `bucket_multiple`: videos roughly keep their aspect ratio, in sizes of about the training size's
    area whose sides are multiples of this; 0 crops all videos to the training size. `held_out`: number of clips that
    are never trained on, used for held-out losses and sample sheets; -1 takes a quarter of all clips, up to 8.
    `window`: number of groups (shards or files) whose clips are shuffled together.
    """

    path: str = ""
    fps: float = 8.0
    bucket_multiple: int = 64
    min_frames: int = 3
    held_out: int = FITTING
    window: int = 16


@dataclass(frozen=True)
class DiffusionStage(LoopConfig):
    """Settings for training the noise network and the mask network, and the text encoder if there is none to start
    from.

    `train` names the parts that learn: "unet" (Stable Diffusion's own weights), "branches" (what ARTV adds to it: the
    reference adapter and the branches for the anchor and the noise levels), "mask", "text". The other parts stay as
    they are, in half precision if training uses it.

    `first_share` of the samples are first frames (no references), `second_share` are second frames (both references
    equal). `auxiliary_share` of the loss is the noise network's own error, the rest is the masked error; the paper
    trains on the masked error alone (0). `weight_cap` bounds the loss's weight (0: no bound, which is the plain error
    of eps or v); `min_snr_gamma` above 0 uses min-SNR weighting instead (Hang et al. 2023, arXiv 2303.09556). Cells
    that differ from most of their frame weigh up to `1 + detail_weight` times as much. Cells that cannot be copied from
    the last frame weigh up to `1 + change_weight` times as much as others, while each frame keeps its share of the
    loss. `uniform_share` of the samples draw their time step uniformly; the others draw a log-normal noise-to-signal
    ratio (Karras et al., 2022) with median `ratio_median` and standard deviation `ratio_spread` in the logarithm. A
    first frame can be any frame of its clip; in `beginning_share` of the cases it is the clip's first.

    Not in the paper: in `rollout_share` of the samples the references are frames made by the networks in their current
    state, `rollout_frames` of them with `rollout_steps` denoising steps each. The target is still the true frame. In
    `error_share` of the samples one of the last `error_bank` errors of the networks is added to the references, and in
    as many another one to the anchor (`ErrorBank`).

    `resident`: if the run makes its own clips, keep their latents in the device's memory and draw a whole step's
    samples there. On one CUDA device the whole step, with optimiser and average, becomes one CUDA graph. The samples of
    a step then differ from those drawn on the host, but have the same distribution. If this is not possible, the run
    says why and continues without it.

    Every `evaluate_every` steps (0: never) the loss on held-out clips is measured with `evaluate_samples` samples for
    each of `evaluate_bands` bands of time steps, and for each of three noise levels of references and anchor.
    """

    train: tuple[str, ...] = ("unet", "branches", "mask", "text")
    resident: bool = False
    gradient_checkpointing: bool = False
    first_share: float = 0.25
    second_share: float = 0.3
    anchor_window: int = 10
    max_noise_level: int = 100
    drop_references: float = 0.1
    drop_anchor: float = 0.1
    drop_text: float = 0.1
    auxiliary_share: float = 0.25
    weight_cap: float = 5.0
    min_snr_gamma: float = 0.0
    detail_weight: float = 0.0
    change_weight: float = 0.0
    beginning_share: float = 0.0
    uniform_share: float = 1.0
    ratio_median: float = 1.0
    ratio_spread: float = 1.2
    rollout_share: float = 0.0
    rollout_frames: int = 2
    rollout_steps: int = 4
    error_share: float = 0.0
    error_bank: int = 512
    mask_bias: float = -1.5
    sheet_rows: int = 12
    sheet_columns: int = 12
    sheet_steps: int = 0
    evaluate_every: int = 0
    evaluate_samples: int = 16
    evaluate_bands: int = 4


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
        return f"{name}{equals}{_as_string(value)}"
    return change


def _as_string(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _check(config: TrainConfig, path: str) -> None:
    model = config.model  # checked first, because overrides may be wrong
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", config.name):
        raise ValueError(f"{path}.name: got {config.name!r}, accepted are letters, digits, and . - _")
    if config.world not in WORLDS:
        raise ValueError(f"{path}.world: got {config.world!r}, accepted: {', '.join(WORLDS)}")
    for name, stage in (("vae", config.vae), ("decoder", config.decoder), ("diffusion", config.diffusion)):
        _check_loop(stage, f"{path}.{name}")
    _at_least(1, f"{path}.diffusion", config.diffusion, "steps")
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
        if config.world == "pictures" and model.size[0] != model.size[1]:
            got = f"{model.size[1]}x{model.size[0]}"
            raise ValueError(f"{path}: the training size is {got}, but frames of the world of pictures must be square")
        for name, vae in (("vae", config.vae), ("decoder", config.decoder)):
            _check_crop(vae, model, f"{path}.{name}")
    _check_diffusion(config.diffusion, model, f"{path}.diffusion")


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
    for side in config.model.size:
        if side % (multiple or factor):
            raise ValueError(f"{path}: the training size has a side of {side}, not a multiple of {multiple or factor}")


SHARES = (
    *("first_share", "second_share", "beginning_share", "uniform_share", "auxiliary_share"),
    *("drop_references", "drop_anchor", "drop_text", "rollout_share", "error_share"),
)


def _check_diffusion(stage: DiffusionStage, model: ARTVConfig, path: str) -> None:
    last = model.schedule.num_timesteps - 1
    _at_least(1, path, stage, "anchor_window", "sheet_rows", "sheet_columns", "rollout_frames", "rollout_steps")
    _at_least(0, path, stage, "weight_cap", "min_snr_gamma", "detail_weight", "change_weight")
    _at_least(0, path, stage, "sheet_steps", "evaluate_every")
    _at_least(1, path, stage, "evaluate_samples", "evaluate_bands", "error_bank")
    for name in stage.train or ("",):
        if name not in TRAINABLE:
            raise ValueError(f"{path}.train: got {name!r}, accepted are one or more of {', '.join(TRAINABLE)}")
    if not 0 <= stage.max_noise_level <= last:
        raise ValueError(f"{path}.max_noise_level: got {stage.max_noise_level}, accepted are 0 to {last}")
    if not (stage.ratio_median > 0 and stage.ratio_spread >= 0):
        given = f"ratio_median: got {stage.ratio_median}, ratio_spread: got {stage.ratio_spread}"
        raise ValueError(f"{path}.{given}; the first must be above 0, the second at least 0")
    for name in SHARES:
        if not 0 <= getattr(stage, name) <= 1:
            raise ValueError(f"{path}.{name}: got {getattr(stage, name)}, accepted are 0 to 1")


def overridden(config: ARTVConfig, overrides: Mapping[str, Any]) -> ARTVConfig:
    """`config` with single fields replaced, given as nested tables. Raises ValueError on unknown names, and on values
    that do not make a valid network."""
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
