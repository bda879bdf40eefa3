"""The inputs of the sampler node."""

from comfy_api.latest import io

from ..artv_core.config import VAEConfig
from ..artv_core.method.image_size import MAX_SIDE
from ..artv_core.method.noise_schedule import SPACINGS
from ..artv_core.method.samplers import SAMPLERS
from .automatic import Automatic, advanced
from .types import (
    ARTVAnchor,
    ARTVJournal,
    ARTVKeyframes,
    ARTVModel,
    ARTVNoise,
    ARTVOptions,
    ARTVShortcuts,
    ARTVStream,
)

RECOMMENDED = "recommended"
"""The menu entry for the checkpoint's own choice."""

FACTOR = VAEConfig().factor
"""Width and height are multiples of this many pixels, for every checkpoint."""


def sampler_inputs() -> list[io.Input]:
    """All of them, in the order of the node."""
    return [*_wires(), *_settings_wires(), *_size_and_seed(), *_sampling()]


def _wires() -> list[io.Input]:
    return [
        ARTVModel.Input("model", tooltip="The model, from ARTV Loader or ARTV Adapt Model."),
        io.Conditioning.Input(
            "positive",
            tooltip="What to show: from CLIP Text Encode (one prompt for all frames) or Multi-Prompt "
            "Scheduler (several).",
        ),
        io.Conditioning.Input(
            "negative",
            optional=True,
            tooltip="What not to show. Best left unconnected: the model was trained that way.",
        ),
        io.Latent.Input(
            "references",
            optional=True,
            tooltip="Frames you already have, from VAE Encode: one image is animated, two or more frames "
            "are continued. Scale them with ARTV Fit Image first. Unconnected: the first frame is made from the text.",
        ),
    ]


def _settings_wires() -> list[io.Input]:
    """Inputs for the settings from other nodes of the pack."""
    return [
        ARTVAnchor.Input(
            "anchor",
            optional=True,
            tooltip="From ARTV Anchor Frame: the frame that keeps the scene consistent. Unconnected: the last "
            "frame of the previous prompt, or the first frame.",
        ),
        ARTVNoise.Input(
            "noise_augment",
            optional=True,
            tooltip="From ARTV Noise Augment. Unconnected: what the checkpoint recommends.",
        ),
        io.Vae.Input(
            "vae",
            optional=True,
            tooltip="Connect the VAE to see finished frames while sampling. Does not change the result.",
        ),
        ARTVJournal.Input(
            "journal",
            optional=True,
            tooltip="From ARTV Journal. Unconnected: videos of more than 32 frames are saved while they are "
            "made, and continue when you queue them again after a stop.",
        ),
        ARTVStream.Input(
            "stream",
            optional=True,
            tooltip="From ARTV Stream to Video: writes a video file while sampling. Unconnected: no file is written.",
        ),
        ARTVShortcuts.Input(
            "shortcuts",
            optional=True,
            tooltip="From ARTV Shortcuts: faster frames that cost some quality. Unconnected: full quality.",
        ),
        ARTVKeyframes.Input(
            "keyframes",
            optional=True,
            tooltip="From ARTV Keyframes: your own pictures at chosen frames. The video goes on from each. "
            "Unconnected: all frames are made.",
        ),
        ARTVOptions.Input(
            "options",
            optional=True,
            tooltip="From ARTV Sampling Options: cfg by prompt or by frame, noise of the steps, more steps for the "
            "first frame. Unconnected: the settings of this node.",
        ),
    ]


def _size_and_seed() -> list[io.Input]:
    return [
        io.Int.Input(
            "frames",
            default=16,
            min=1,
            max=1_000_000,
            tooltip="Length of the whole video in frames, with those connected to references. Long videos need hardly "
            "more memory.",
        ),
        AUTOMATIC["width"].input(),
        AUTOMATIC["height"].input(),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**64 - 1,
            control_after_generate=True,
            tooltip="The same seed and settings give the same video on one machine, and a longer video "
            "starts the same way. Details may differ on another machine.",
        ),
        advanced(
            io.Int.Input(
                "videos",
                default=1,
                min=1,
                max=64,
                tooltip="How many videos to make at once, with seed, seed + 1 and so on. Each is a LATENT of its own.",
            )
        ),
    ]


def _sampling() -> list[io.Input]:
    return [
        advanced(AUTOMATIC["steps"].input()),
        AUTOMATIC["cfg"].input(),
        advanced(AUTOMATIC["cfg_references"].input()),
        advanced(AUTOMATIC["cfg_anchor"].input()),
        advanced(AUTOMATIC["cfg_first_frame"].input()),
        advanced(
            io.Combo.Input(
                "sampler_name",
                options=[RECOMMENDED, *SAMPLERS],
                default=RECOMMENDED,
                tooltip="The sampling method; 'recommended' is the checkpoint's own choice. The paper uses "
                "dpmpp_2s_ancestral.",
            )
        ),
        advanced(
            io.Combo.Input(
                "scheduler",
                options=list(SPACINGS),
                default=SPACINGS[0],
                tooltip="How the steps are spaced: 'uniform' evenly, 'karras' with more steps near the end.",
            )
        ),
        advanced(
            io.Boolean.Input(
                "use_mask",
                default=True,
                tooltip="Copies the parts that do not move from the previous frame. Off: every frame is drawn "
                "as a whole.",
            )
        ),
    ]


def _side(name: str) -> Automatic:
    return Automatic(
        name,
        f"{name.capitalize()} of the video in pixels, a multiple of {FACTOR}. auto: the {name} of the references or, "
        "without them, of the keyframes; else what the checkpoint recommends.",
        whole=True,
        most=MAX_SIDE,
        step=FACTOR,
        shows=name,
    )


def _cfg(name: str, tooltip: str) -> Automatic:
    return Automatic(name, f"{tooltip} auto: what the checkpoint recommends.", zero=True, shows=name)


AUTOMATIC = {
    one.name: one
    for one in (
        _side("width"),
        _side("height"),
        Automatic(
            "steps",
            "Denoising steps for each frame; more take longer. auto: what the checkpoint recommends, often with more "
            "steps for the first frame. If you type a number, the first frame gets that number too; ARTV Sampling "
            "Options can give it more.",
            whole=True,
            most=1000,
            shows="steps",
        ),
        _cfg("cfg", "How strongly frames follow the text. 1: as trained, and fastest; 0: not at all."),
        _cfg("cfg_references", "How strongly frames follow the previous frames. 1: as trained; 0: mostly by copying."),
        _cfg("cfg_anchor", "How strongly frames follow the anchor. 1: as trained; 0: a little; policy 'none': never."),
        _cfg("cfg_first_frame", "cfg for a first frame that is made from text alone; it needs more than later frames."),
    )
}
"""The inputs that can be left to the checkpoint, by name."""
