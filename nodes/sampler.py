"""The sampler node: from text, and optionally frames to continue from, to the latents of a video."""

from typing import Any

from comfy_api.latest import io

from ..artv_core.config import ARTVConfig
from ..artv_core.method.denoiser import Shortcuts
from ..artv_core.method.image_size import check_side
from ..artv_core.method.options import GenerateOptions
from . import bridge
from .checks import faults_named, verdict
from .conditions import AnchorSettings, NoiseSettings
from .frame_request import KEY
from .journal import JournalSettings
from .keyframes import Placed
from .live import workflow_id
from .output_files import Naming, graph_metadata
from .sampler_inputs import AUTOMATIC, FACTOR, RECOMMENDED, sampler_inputs
from .sampling_options import SamplingOptions
from .steer import last_steered, note_steered
from .stream import Streams, StreamSettings


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
            inputs=sampler_inputs(),
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
        """Turn the settings into options and sample. `widgets` are the values set on the node itself."""
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
