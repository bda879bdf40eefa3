"""The configuration of a checkpoint: frozen dataclasses, their strict JSON form, and presets.

The JSON form is in the checkpoint's metadata (`artv_config`). So a file says how to build its networks, which noise
schedule they were trained with, and which sampling settings it recommends.
"""

import dataclasses
import json
from dataclasses import dataclass, field, replace

from .files.plain_data import from_dict, later, plain, refuse_constant, shown

MAX_JSON_CHARACTERS = 500_000
MAX_VALUES = 10_000
"""Limit for the length of a list."""
MAX_CHARACTERS = 200
"""Limit for a name or a word."""
MAX_BLOCKS = 64
"""Limit for one UNet's residual and transformer blocks together. SD 2.1 has 22 and 16."""


@dataclass(frozen=True)
class UNetConfig:
    """The sizes of a Stable Diffusion UNet. The defaults are SD 2.1's.

    `num_heads` is the number of heads of every attention (SD 1.5: 8). With 0, an attention has its channels divided by
    `head_channels` as its number of heads. `linear_projections` says whether the layers before and after a feature
    map's transformer blocks are linear (SD 2.x) or 1x1 convolutions (SD 1.x).
    """

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = (0, 1, 2)
    head_channels: int = 64
    transformer_depth: int = 1
    context_dim: int = 1024
    norm_groups: int = 32
    num_heads: int = later(0)
    linear_projections: bool = later(True)

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each level, starting with the finest."""
        return tuple(self.model_channels * mult for mult in self.channel_mult)

    def heads(self, channels: int) -> int:
        """Number of heads of an attention with this number of channels."""
        return self.num_heads or channels // self.head_channels


@dataclass(frozen=True)
class AdapterConfig:
    """Reference adapter (T2I-Adapter, `sk=True`, `use_conv=False`). One feature map for each UNet level."""

    num_references: int = 2
    num_blocks: int = 2


@dataclass(frozen=True)
class AnchorConfig:
    """Anchor encoder: latent patches of `patch_size` cells, pooled to a `grid` x `grid` map, and one more token for the
    whole latent. Not in the paper."""

    patch_size: int = 4
    grid: int = 16
    width: int = 512

    @property
    def num_tokens(self) -> int:
        """Number of anchor tokens."""
        return self.grid * self.grid + 1


@dataclass(frozen=True)
class NetworkConfig:
    """A UNet and the modules that condition it. The noise network and the mask network each have one of these."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    anchor: AnchorConfig = field(default_factory=AnchorConfig)


@dataclass(frozen=True)
class VAEConfig:
    """`kind` is "kl" (SD's AutoencoderKL) or "taesd". `scale` and `shift` convert ComfyUI's latents to the core's:
    core = (comfyui - shift) * scale."""

    kind: str = "kl"
    latent_channels: int = 4
    scale: float = 0.18215
    shift: float = 0.0

    @property
    def factor(self) -> int:
        """Pixels per latent cell along one side. Both kinds halve the size three times."""
        return 8


@dataclass(frozen=True)
class TextConfig:
    """CLIP text transformer with open_clip's BPE vocabulary. `layer` is the layer whose output is used: "penultimate"
    (SD 2) or "last"; both are followed by the final norm. `activation` is "gelu" or "quick_gelu" (SD 1.x). Short texts
    are padded with zeros, or with end tokens if `pad_with_end` (SD 1.x)."""

    width: int = 1024
    layers: int = 24
    heads: int = 16
    context_length: int = 77
    layer: str = "penultimate"
    activation: str = later("gelu")
    pad_with_end: bool = later(False)


@dataclass(frozen=True)
class ScheduleConfig:
    """`betas` is "scaled_linear" (linear in sqrt(beta), as in SD) or "linear". `prediction` is "eps" or "v".

    `zero_terminal_snr` rescales the betas so that the last time step is almost pure noise. It needs prediction "v": at
    this step, predicting the noise teaches a network nothing about the frame. `static_noise` is the form of Eq. 6 that
    the mask network was trained with: "exact" or "subtracted" (`noise_schedule.static_x0`).
    """

    num_timesteps: int = 1000
    betas: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction: str = "eps"
    zero_terminal_snr: bool = later(False)
    static_noise: str = later("exact")


@dataclass(frozen=True)
class SamplingConfig:
    """Recommended settings, used as defaults by the nodes and the command line; see `GenerateOptions`. Noise levels are
    integer time steps. `first_frame_guidance` (text scale) and `first_frame_steps` (0: `steps`) are for a frame without
    references."""

    sampler: str = "dpmpp_2s_ancestral"
    steps: int = 25
    eta: float = 1.0
    guidance_references: float = 1.0
    guidance_anchor: float = 1.0
    guidance_text: float = 7.5
    first_frame_guidance: float = 7.5
    reference_noise_level: int = 200
    anchor_noise_level: int = 200
    first_frame_steps: int = later(0)
    return_to_anchor: float = later(0.0)


@dataclass(frozen=True)
class ARTVConfig:
    """Everything a checkpoint needs in addition to its tensors.

    `size` is the training size in pixels (height, width), `fps` the frame rate of the training clips. `vocabulary`
    lists the words of the training captions if there are only a few; empty means an open vocabulary.
    """

    name: str = "untrained"
    noise: NetworkConfig = field(default_factory=NetworkConfig)
    mask: NetworkConfig | None = None
    vae: VAEConfig = field(default_factory=VAEConfig)
    text: TextConfig = field(default_factory=TextConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    size: tuple[int, int] = (512, 512)
    fps: float = 8.0
    segment_frames: int = 16
    vocabulary: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The JSON form, for `from_json`."""
        return json.dumps(plain(self))

    @staticmethod
    def from_json(text: str) -> "ARTVConfig":
        """Read the JSON form. Raises ValueError, which names the field, on any other structure and on values out of
        range."""
        if len(text) > MAX_JSON_CHARACTERS:
            raise ValueError(f"artv_config has {len(text)} characters; accepted are up to {MAX_JSON_CHARACTERS}")
        try:
            data = json.loads(text, parse_constant=refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"artv_config is not valid JSON: {error}") from None
        config = from_dict(ARTVConfig, data, "artv_config")
        validate(config)
        return config


def validate(config: ARTVConfig) -> None:
    """Raises ValueError on values from which no network can be built, so that a hostile file costs no time or
    memory."""
    _validate_values("artv_config", config)
    choices = {
        "vae.kind": (config.vae.kind, ("kl", "taesd")),
        "text.layer": (config.text.layer, ("penultimate", "last")),
        "text.activation": (config.text.activation, ("gelu", "quick_gelu")),
        "schedule.betas": (config.schedule.betas, ("scaled_linear", "linear")),
        "schedule.prediction": (config.schedule.prediction, ("eps", "v")),
        "schedule.static_noise": (config.schedule.static_noise, ("exact", "subtracted")),
    }
    for name, (value, accepted) in choices.items():
        if value not in accepted:
            raise ValueError(f"artv_config.{name}: got {value!r}, accepted are {', '.join(accepted)}")
    for name, network in (("noise", config.noise), ("mask", config.mask)):
        if network is not None:
            _validate_network(network, f"artv_config.{name}")
    text, schedule = config.text, config.schedule
    _in_range("artv_config.text.width", text.width, 8, 4096)
    _in_range("artv_config.text.layers", text.layers, 1, 64)
    _in_range("artv_config.text.heads", text.heads, 1, 64)
    _in_range("artv_config.text.context_length", text.context_length, 4, 1024)
    _multiple("artv_config.text.width", text.width, "heads", text.heads)
    _in_range("artv_config.vae.latent_channels", config.vae.latent_channels, 1, 64)
    _in_range("artv_config.schedule.num_timesteps", schedule.num_timesteps, 10, 100_000)
    if not 0 < schedule.beta_start <= schedule.beta_end < 1:
        raise ValueError(
            f"artv_config.schedule: got betas {schedule.beta_start} to {schedule.beta_end}, they must ascend and lie "
            "between 0 and 1"
        )
    if schedule.zero_terminal_snr and schedule.prediction != "v":
        raise ValueError(f"artv_config.schedule.prediction: got {schedule.prediction!r}, zero_terminal_snr needs 'v'")
    if config.vae.scale == 0:
        raise ValueError("artv_config.vae.scale: got 0, accepted are all other numbers")
    for side in config.size:
        _in_range("artv_config.size", side, config.vae.factor, 16_384)
    _in_range("artv_config.fps", config.fps, 0.01, 1000)
    _in_range("artv_config.segment_frames", config.segment_frames, 1, 1_000_000)
    _equal("artv_config.noise.unet.out_channels", config.noise.unet.out_channels, config.vae.latent_channels)
    if config.mask is not None:
        _equal("artv_config.mask.unet.out_channels", config.mask.unet.out_channels, 1)
        references = config.noise.adapter.num_references
        _equal("artv_config.mask.adapter.num_references", config.mask.adapter.num_references, references)


def _validate_values(path: str, value: object) -> None:
    """Raises ValueError on numbers that are not finite, on values so large that they cost time or memory, and on text
    that cannot be printed."""
    if dataclasses.is_dataclass(value):
        for name, inner in vars(value).items():
            _validate_values(f"{path}.{name}", inner)
    elif isinstance(value, tuple):
        _in_range(f"{path} (length)", len(value), 0, MAX_VALUES)
        for inner in value:
            _validate_values(path, inner)
    elif isinstance(value, str):
        if len(value) > MAX_CHARACTERS or not value.isprintable():
            raise ValueError(f"{path}: got {shown(value)}, accepted are up to {MAX_CHARACTERS} printable characters")
    elif isinstance(value, (int, float)) and not abs(value) < 2**63:
        raise ValueError(f"{path}: got {shown(value)}, which is not a usable number")


def _validate_network(network: NetworkConfig, path: str) -> None:
    unet = network.unet
    _in_range(f"{path}.unet.in_channels", unet.in_channels, 1, 64)
    _in_range(f"{path}.unet.out_channels", unet.out_channels, 1, 64)
    _in_range(f"{path}.unet.model_channels", unet.model_channels, 8, 2048)
    _in_range(f"{path}.unet.num_res_blocks", unet.num_res_blocks, 1, 8)
    _in_range(f"{path}.unet.head_channels", unet.head_channels, 1, 1024)
    _in_range(f"{path}.unet.num_heads", unet.num_heads, 0, 1024)
    _in_range(f"{path}.unet.transformer_depth", unet.transformer_depth, 1, 16)
    _in_range(f"{path}.unet.context_dim", unet.context_dim, 8, 4096)
    _in_range(f"{path}.unet.norm_groups", unet.norm_groups, 1, 1024)
    _in_range(f"{path}.unet.channel_mult (levels)", len(unet.channel_mult), 1, 8)
    _in_range(f"{path}.adapter.num_references", network.adapter.num_references, 1, 16)
    _in_range(f"{path}.adapter.num_blocks", network.adapter.num_blocks, 1, 8)
    _in_range(f"{path}.anchor.grid", network.anchor.grid, 1, 64)
    _in_range(f"{path}.anchor.patch_size", network.anchor.patch_size, 1, 64)
    _in_range(f"{path}.anchor.width", network.anchor.width, 1, 4096)
    _in_range(f"{path}.unet.attention_levels (length)", len(unet.attention_levels), 0, len(unet.channel_mult))
    for level in unet.attention_levels:
        _in_range(f"{path}.unet.attention_levels", level, 0, len(unet.channel_mult) - 1)
    for channels in unet.level_channels:
        _in_range(f"{path}.unet (channels of a level)", channels, 8, 16_384)
        _multiple(f"{path}.unet (channels of a level)", channels, "norm_groups", unet.norm_groups)
        divisor = "num_heads" if unet.num_heads else "head_channels"
        _multiple(f"{path}.unet (channels of a level)", channels, divisor, getattr(unet, divisor))
    of_a_level = 2 * unet.num_res_blocks + 1
    residual = len(unet.channel_mult) * of_a_level + 2
    transformers = (len(unet.attention_levels) * of_a_level + 1) * unet.transformer_depth
    _in_range(f"{path}.unet (number of blocks)", residual + transformers, 1, MAX_BLOCKS)


def _multiple(path: str, value: int, name: str, factor: int) -> None:
    if value % factor:
        raise ValueError(f"{path}: {value} is not a multiple of {name} {factor}")


def _equal(path: str, value: int, wanted: int) -> None:
    if value != wanted:
        raise ValueError(f"{path}: got {value}, the rest of the configuration needs {wanted}")


def _in_range(path: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{path}: got {value}, accepted are {low} to {high}")


def _tiny() -> ARTVConfig:
    """For the synthetic worlds of shapes, 64x64 pixels."""

    def unet(channels: int, mult: tuple[int, ...], blocks: int, out_channels: int) -> UNetConfig:
        return UNetConfig(
            out_channels=out_channels,
            model_channels=channels,
            channel_mult=mult,
            num_res_blocks=blocks,
            attention_levels=tuple(range(len(mult))),
            head_channels=channels // 2,
            context_dim=48,
            norm_groups=8,
        )

    anchor = AnchorConfig(patch_size=2, grid=4, width=96)
    return ARTVConfig(
        name="tiny",
        noise=NetworkConfig(unet(128, (1,), 2, 4), AdapterConfig(num_blocks=1), anchor),
        mask=NetworkConfig(
            unet(16, (1, 2), 1, 1), AdapterConfig(num_blocks=1), AnchorConfig(patch_size=2, grid=4, width=48)
        ),
        vae=VAEConfig(kind="taesd", scale=1.0),
        text=TextConfig(width=48, layers=2, heads=2, context_length=32, layer="last"),
        schedule=ScheduleConfig(betas="linear", beta_start=1e-4, beta_end=0.02, prediction="v"),
        sampling=SamplingConfig(
            sampler="dpmpp_2m",
            steps=4,
            first_frame_steps=12,
            guidance_text=1.0,
            first_frame_guidance=3.0,
            reference_noise_level=50,
            anchor_noise_level=50,
        ),
        size=(64, 64),
    )


def _small() -> ARTVConfig:
    """For the synthetic world of pictures, 128x128 pixels: eight latent channels, two levels."""

    def network(channels: int, blocks: int, heads: int, out_channels: int, anchor: int) -> NetworkConfig:
        unet = UNetConfig(
            in_channels=8,
            out_channels=out_channels,
            model_channels=channels,
            channel_mult=(1, 2),
            num_res_blocks=blocks,
            attention_levels=(0, 1),
            head_channels=heads,
            context_dim=64,
            norm_groups=8,
        )
        return NetworkConfig(unet, AdapterConfig(num_blocks=1), AnchorConfig(patch_size=2, grid=8, width=anchor))

    tiny = _tiny()
    return replace(
        tiny,
        name="small",
        noise=network(channels=96, blocks=2, heads=32, out_channels=8, anchor=96),
        mask=network(channels=32, blocks=1, heads=16, out_channels=1, anchor=48),
        vae=VAEConfig(kind="taesd", latent_channels=8, scale=1.0),
        text=TextConfig(width=64, layers=3, heads=4, context_length=32, layer="last"),
        sampling=replace(tiny.sampling, reference_noise_level=30, anchor_noise_level=30, return_to_anchor=0.15),
        size=(128, 128),
    )


def _sd21() -> ARTVConfig:
    """The noise network is SD 2.1. The mask network has half its channels (not in the paper: its table is missing)."""
    mask_unet = UNetConfig(model_channels=160, out_channels=1, head_channels=32)
    return ARTVConfig(
        name="sd21",
        mask=NetworkConfig(unet=mask_unet, anchor=AnchorConfig(width=256)),
    )


def _sd15() -> ARTVConfig:
    """The noise network is SD 1.5. The mask network is that of `sd21`, with the text encoder's width of SD 1.5. Not in
    the paper."""
    unet = UNetConfig(context_dim=768, num_heads=8, linear_projections=False)
    mask_unet = UNetConfig(model_channels=160, out_channels=1, head_channels=32, context_dim=768)
    text = TextConfig(width=768, layers=12, heads=12, layer="last", activation="quick_gelu", pad_with_end=True)
    return ARTVConfig(
        name="sd15",
        noise=NetworkConfig(unet),
        mask=NetworkConfig(unet=mask_unet, anchor=AnchorConfig(width=256)),
        text=text,
    )


PRESETS = {"tiny": _tiny, "small": _small, "sd21": _sd21, "sd15": _sd15}


def preset(name: str) -> ARTVConfig:
    """A named configuration. Raises ValueError, which lists the names, on an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; known presets: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]()
