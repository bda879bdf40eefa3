"""Settings of sampling that few people change: the noise of the steps, how copied parts are mixed in, cfg by frame."""

from dataclasses import dataclass, replace
from typing import Any

from comfy_api.latest import io

from ..artv_core.method.options import GenerateOptions, GuidanceScale
from ..artv_core.method.text_track import TextTrack
from ..artv_core.prompts.numbers import numbers_by_frame, numbers_by_prompt
from . import bridge
from .automatic import Automatic
from .checks import verdict
from .types import ARTVOptions

MIX_MODES = {"after guidance": "after_guidance", "every branch": "every_branch"}
"""The menu's entries and the matching values of `GenerateOptions.mix_mode`."""

ETA = Automatic(
    "eta",
    "How much fresh noise each step adds, for sampling methods that do so. 0: none, so frames look smoother; 1: the "
    "full amount. auto: what the checkpoint recommends (0 if you chose ddim).",
    zero=True,
    shows="eta",
)
FIRST_FRAME_STEPS = Automatic(
    "first_frame_steps",
    "Denoising steps for the first frame alone. It has no earlier frame to start from, so it needs more. auto: as many "
    "as the others if you typed steps into the sampler, else what the checkpoint recommends.",
    whole=True,
    most=1000,
)


@dataclass(frozen=True)
class SamplingOptions:
    """Settings of the node. None and empty: as the sampler has it. `cfg_by_prompt` has a scale for each prompt."""

    eta: float | None = None
    s_noise: float | None = None
    mix_mode: str | None = None
    cfg_by_frame: GuidanceScale | None = None
    cfg_by_prompt: tuple[float, ...] = ()
    first_frame_steps: int | None = None

    def applied(self, options: GenerateOptions) -> GenerateOptions:
        """The sampler's options with what was set here in their place."""
        return replace(
            options,
            eta=options.eta if self.eta is None else self.eta,
            s_noise=options.s_noise if self.s_noise is None else self.s_noise,
            mix_mode=self.mix_mode or options.mix_mode,
            guidance_text=options.guidance_text if self.cfg_by_frame is None else self.cfg_by_frame,
            first_frame_steps=self.first_frame_steps or options.first_frame_steps,
        )

    def for_prompts(self, options: GenerateOptions, texts: TextTrack) -> GenerateOptions:
        """The options with a scale for each prompt, if there are any. Raises ValueError if they are more or fewer than
        the prompts."""
        starts = sorted({segment.start for segment in texts.segments})
        if len(self.cfg_by_prompt) != len(starts):
            raise ValueError(
                f"cfg_by_frame has {len(self.cfg_by_prompt)} numbers without frames, and there are {len(starts)} "
                "prompts; give a number for each prompt, or say from which frame on each counts, as in '0: 3'"
            )
        return replace(options, guidance_text=tuple(zip(starts, self.cfg_by_prompt, strict=True)))


class ARTVSamplingOptions(io.ComfyNode):
    """More settings for the sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The host's description of the node."""
        return bridge.schema(
            node_id="ARTVSamplingOptions",
            display_name="ARTV Sampling Options",
            category="ARTV",
            description="More settings for the sampler: guidance that changes from prompt to prompt or from frame to "
            "frame, how much noise the steps add, how copied parts are mixed in, and more steps for the first frame.",
            search_aliases=["artv", "eta", "s_noise", "cfg schedule", "guidance schedule", "ancestral"],
            inputs=_inputs(),
            outputs=[ARTVOptions.Output(display_name="options", tooltip="For the sampler's options input.")],
        )

    @classmethod
    def validate_inputs(
        cls, eta: Any = None, cfg_by_frame: str | None = None, first_frame_steps: Any = None
    ) -> bool | str:
        """Check eta, the steps and the guidance by frame."""
        told = (
            verdict(ETA.check, eta),
            verdict(FIRST_FRAME_STEPS.check, first_frame_steps),
            verdict(_guidance, cfg_by_frame),
        )
        return next((one for one in told if one is not True), True)

    @classmethod
    def execute(
        cls, cfg_by_frame: str, eta: Any, s_noise: float, mix_mode: str, first_frame_steps: Any = None
    ) -> io.NodeOutput:
        """Collect the settings."""
        if mix_mode not in MIX_MODES:  # older hosts do not check menu values
            raise ValueError(f"there is no mix_mode {mix_mode!r}; there are: {', '.join(MIX_MODES)}")
        by_frame, by_prompt = _guidance(cfg_by_frame)
        first = FIRST_FRAME_STEPS.whole_number(first_frame_steps)
        return io.NodeOutput(SamplingOptions(ETA.read(eta), s_noise, MIX_MODES[mix_mode], by_frame, by_prompt, first))


def _inputs() -> list[io.Input]:
    return [
        io.String.Input(
            "cfg_by_frame",
            default="",
            multiline=True,
            dynamic_prompts=False,
            tooltip="How strongly frames follow the text, in place of the sampler's cfg. One number on each line, one "
            "for each prompt. Or name frames: '0: 3' and '24: 6' mean 3 from frame 0, 6 from frame 24 on. Empty: cfg.",
        ),
        ETA.input(),
        io.Float.Input(
            "s_noise",
            default=1.0,
            min=0.0,
            max=10.0,
            step=0.01,
            tooltip="Makes the noise that the steps add weaker or stronger. 1: as designed. Slightly more brings out "
            "details, less makes frames smoother.",
        ),
        io.Combo.Input(
            "mix_mode",
            options=list(MIX_MODES),
            default=next(iter(MIX_MODES)),
            tooltip="When copied parts are mixed in. Leave it at 'after guidance'. 'every branch' follows the paper's "
            "formulas exactly; you see a difference only if a cfg is not 1.",
        ),
        FIRST_FRAME_STEPS.input(optional=True),  # earlier releases did not have it
    ]


def _guidance(text: str) -> tuple[GuidanceScale | None, tuple[float, ...]]:
    """The scales by frame, and those by prompt. Raises ValueError if the text has neither."""
    if not text.strip():
        return None, ()
    by_prompt = numbers_by_prompt(text)
    return (None, by_prompt) if by_prompt else (numbers_by_frame(text, "cfg_by_frame"), ())
