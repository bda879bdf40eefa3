"""The sampler node: from text, and optionally frames to continue from, to the latents of a video."""

from typing import Any

from comfy_api.latest import io

from ..artv_core.config import ARTVConfig, VAEConfig
from ..artv_core.method.denoiser import Shortcuts
from ..artv_core.method.image_size import MAX_SIDE, check_side
from ..artv_core.method.noise_schedule import SPACINGS
from ..artv_core.method.options import GenerateOptions
from ..artv_core.method.samplers import SAMPLERS
from . import bridge
from .automatic import Automatic, advanced
from .checks import faults_named, verdict
from .conditions import AnchorSettings, NoiseSettings
from .frame_request import KEY
from .journal import JournalSettings
from .keyframes import Placed
from .live import workflow_id
from .output_files import Naming, graph_metadata
from .sampling_options import SamplingOptions
from .steer import last_steered, note_steered
from .stream import Streams, StreamSettings
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


class ARTVMaskedDiffusionSampler(io.ComfyNode):
    """Masked diffusion, one frame after the other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The host's description of the node."""
        return bridge.schema(
            node_id="ARTVMaskedDiffusionSampler",
            display_name="ARTV Masked Diffusion Sampler",
            category="ARTV",
            description="Makes a video one frame at a time, each from the text, the two frames before it and "
            "an anchor frame. Parts that do not move are copied from the previous frame.",
            search_aliases=[
                "artv",
                "art-v",
                "text to video",
                "image to video",
                "t2v",
                "i2v",
                "video sampler",
                "animate image",
                "ksampler",
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[*_wires(), *_settings_wires(), *_size_and_seed(), *_sampling()],
            outputs=[
                io.Latent.Output(
                    display_name="latent",
                    is_output_list=True,
                    tooltip="The frames, starting with those you gave as references. One LATENT for each video.",
                ),
                io.Mask.Output(
                    display_name="copy_mask",
                    is_output_list=True,
                    tooltip="What was copied from the previous frame, as a small mask with one value for each cell "
                    "(8x8 pixels): 1 is copied, 0 is new. It is 0 for the first frame and for frames you gave.",
                ),
                io.String.Output(
                    display_name="drift",
                    is_output_list=True,
                    tooltip="How far the frames drift from the first one, as a table. Show it with Preview as Text.",
                ),
                io.String.Output(
                    display_name="journal",
                    tooltip="Which journal saves the frames, and how many it already had. Show it with Preview as "
                    "Text.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        width: Any = None,
        height: Any = None,
        steps: Any = None,
        cfg: Any = None,
        cfg_references: Any = None,
        cfg_anchor: Any = None,
        cfg_first_frame: Any = None,
    ) -> bool | str:
        """Check what was typed into the boxes that can say "auto"."""
        scales = {"cfg": cfg, "cfg_references": cfg_references, "cfg_anchor": cfg_anchor}
        typed = scales | {"width": width, "height": height, "steps": steps, "cfg_first_frame": cfg_first_frame}
        for name, value in typed.items():
            told = verdict(AUTOMATIC[name].check, value)
            if told is True and name in ("width", "height"):
                told = verdict(check_side, name, AUTOMATIC[name].whole_number(value), FACTOR)
            if told is not True:
                return told
        return True

    @classmethod
    def fingerprint_inputs(cls, **widgets: Any) -> int:
        """Changes when a run with these values was steered, so that queueing them again makes what they say."""
        return last_steered(widgets)

    @classmethod
    @faults_named()
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any = None,
        references: dict | None = None,
        anchor: AnchorSettings | None = None,
        noise_augment: NoiseSettings | None = None,
        vae: Any = None,
        journal: JournalSettings | None = None,
        stream: StreamSettings | None = None,
        shortcuts: Shortcuts | None = None,
        keyframes: Placed | None = None,
        options: SamplingOptions | None = None,
        **widgets: Any,
    ) -> io.NodeOutput:
        """Turn the settings into options and sample. `widgets` are the inputs of `_size_and_seed` and `_sampling`."""
        journal, anchor, more = journal or JournalSettings(), anchor or AnchorSettings(), options or SamplingOptions()
        chosen = _options(journal, anchor, noise_augment or NoiseSettings(), shortcuts or Shortcuts(), **widgets)
        chosen = more.applied(chosen)
        size = _frame_size(model.model.config, chosen, references, keyframes)
        naming = Naming(size, cls.hidden and cls.hidden.prompt)
        streams = None if stream is None else Streams(stream, chosen.batch_size, graph_metadata(cls.hidden), naming)
        made = bridge.sample(
            model,
            positive,
            chosen,
            for_prompts=more.for_prompts if more.cfg_by_prompt else None,
            negative=negative,
            references=references,
            keyframes=keyframes,
            anchor=anchor.policy(),
            anchor_strength=anchor.strength,
            vae=vae,
            journal=journal.folder(chosen),
            start_over=journal.start_over,
            streams=streams,
            workflow=workflow_id(cls.hidden and cls.hidden.extra_pnginfo),
        )
        if made.steered:
            note_steered(widgets)
        return io.NodeOutput(
            [{"samples": video.latents, KEY: video.request} for video in made.videos],
            [video.masks for video in made.videos],
            [video.drift for video in made.videos],
            made.journal,
            ui=streams and streams.shown(),
        )


def _options(
    journal: JournalSettings,
    anchor: AnchorSettings,
    noise: NoiseSettings,
    shortcuts: Shortcuts,
    *,
    frames: int,
    seed: int,
    videos: int,
    sampler_name: str,
    scheduler: str,
    use_mask: bool,
    **typed: Any,
) -> GenerateOptions:
    """The options from the widgets; None for what the checkpoint recommends. `typed` are the inputs in `AUTOMATIC`."""
    return GenerateOptions(
        num_frames=frames,
        seed=seed,
        batch_size=videos,
        width=AUTOMATIC["width"].whole_number(typed["width"]),
        height=AUTOMATIC["height"].whole_number(typed["height"]),
        steps=AUTOMATIC["steps"].whole_number(typed["steps"]),
        sampler=None if sampler_name == RECOMMENDED else sampler_name,
        spacing=scheduler,
        guidance_references=AUTOMATIC["cfg_references"].read(typed["cfg_references"]),
        guidance_anchor=AUTOMATIC["cfg_anchor"].read(typed["cfg_anchor"]),
        guidance_text=AUTOMATIC["cfg"].read(typed["cfg"]),
        first_frame_guidance=AUTOMATIC["cfg_first_frame"].read(typed["cfg_first_frame"]),
        reference_noise_level=noise.references,
        anchor_noise_level=noise.anchor,
        use_mask=use_mask,
        redo=journal.redo,
        adain_strength=anchor.adain_strength,
        return_to_anchor=anchor.return_to_anchor,
        reuse_every=shortcuts.reuse_every,
        reuse_blocks=shortcuts.reuse_blocks,
        guidance_interval=shortcuts.guidance_interval,
    )


def _frame_size(
    config: ARTVConfig, options: GenerateOptions, references: dict | None, keyframes: Placed | None
) -> tuple[int, int]:
    """Width and height of the video in pixels: as chosen, else those of the references or keyframes, else the
    checkpoint's."""
    height, width = config.size
    given = references["samples"] if references is not None else next(iter((keyframes or {}).values()), None)
    if given is not None:
        height, width = (side * config.vae.factor for side in given.shape[-2:])
    return options.width or width, options.height or height


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
