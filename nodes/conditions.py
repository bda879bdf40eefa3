"""What a frame depends on apart from the text: the anchor frame, and how much noise is added to references and
anchor."""

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..artv_core.method.frames import AnchorPolicy
from ..artv_core.method.options import MAX_REACH, NoiseLevel
from ..artv_core.prompts.numbers import whole_numbers_by_frame
from . import bridge
from .automatic import Automatic, advanced
from .checks import verdict
from .types import ARTVAnchor, ARTVNoise

PER_PROMPT = "given image per prompt"

POLICIES = {
    "previous segment": "segment",
    "first frame": "first",
    "given image": "given",
    "rolling window": "rolling",
    "none": "none",
    PER_PROMPT: "given",
}
"""The menu's entries and the matching values of `artv_core.method.frames.AnchorPolicy`."""


@dataclass(frozen=True)
class AnchorSettings:
    """Where the anchor comes from. `latent` [1, C, h, w] is in the host's scale, or [P, C, h, w] with `per_prompt`, one
    for each prompt; `strength` multiplies its cfg, and 0 leaves the anchor out; the last two are those of
    `GenerateOptions`, where None is the checkpoint's recommendation."""

    kind: str = "segment"
    window: int = 10
    latent: Tensor | None = None
    strength: float = 1.0
    per_prompt: bool = False
    adain_strength: float = 0.0
    return_to_anchor: float | None = None

    def policy(self) -> AnchorPolicy:
        """The core's policy, with latents in the host's scale."""
        if self.strength == 0:  # a scale of 0 alone would not do: the text's guidance and the mask still see the anchor
            return AnchorPolicy("none")
        if self.per_prompt and self.latent is not None:
            return AnchorPolicy(self.kind, self.window, by_segment=self.latent.split(1))
        return AnchorPolicy(self.kind, self.window, self.latent)


@dataclass(frozen=True)
class NoiseSettings:
    """Noise levels of references and anchor; None is the checkpoint's recommendation."""

    references: NoiseLevel | None = None
    anchor: NoiseLevel | None = None


RETURN = Automatic(
    "return_to_anchor",
    "Reduces drift of the background: where a still part looks nearly like the anchor, it takes the anchor's exact "
    "value again. The number says how much the two may differ. 0: off, as in the paper; 0.15 works well. auto: what "
    "the checkpoint recommends.",
    zero=True,
    most=MAX_REACH,
    shows="return_to_anchor",
)


class ARTVAnchorFrame(io.ComfyNode):
    """The anchor policy."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The host's description of the node."""
        return bridge.schema(
            node_id="ARTVAnchorFrame",
            display_name="ARTV Anchor Frame",
            category="ARTV",
            description="Chooses the anchor: one frame that every new frame looks at, so colours and objects stay "
            "consistent in a long video.",
            search_aliases=["artv", "anchor", "reference image", "drift"],
            inputs=_anchor_inputs(),
            outputs=[ARTVAnchor.Output(display_name="anchor", tooltip="For the sampler's anchor input.")],
        )

    @classmethod
    def execute(
        cls,
        policy: str,
        strength: float,
        window: int,
        latent: dict | None = None,
        adain_strength: float = 0.0,
        return_to_anchor: Any = None,
    ) -> io.NodeOutput:
        """Collect the settings. The sampler checks them, because it knows the model."""
        if policy not in POLICIES:  # older hosts do not check menu values
            raise ValueError(f"there is no anchor policy {policy!r}; there are: {', '.join(POLICIES)}")
        kind, per_prompt = POLICIES[policy], policy == PER_PROMPT
        samples = None
        if kind == "given":
            if latent is None:
                raise ValueError(f"the policy is {policy!r}, but no latent is connected; connect one from VAE Encode")
            read = bridge.latent_samples if per_prompt else bridge.one_latent
            samples = read(latent, "the anchor's latent")
        reach = RETURN.read(return_to_anchor)
        return io.NodeOutput(AnchorSettings(kind, window, samples, strength, per_prompt, adain_strength, reach))

    @classmethod
    def validate_inputs(cls, return_to_anchor: Any = None) -> bool | str:
        """Check what was typed."""
        return verdict(RETURN.check, return_to_anchor)


def _anchor_inputs() -> list[io.Input]:
    """The inputs of the node Anchor Frame."""
    return [
        io.Combo.Input(
            "policy",
            options=list(POLICIES),
            default="previous segment",
            tooltip="Which frame is the anchor. 'previous segment': the last frame of the previous "
            "prompt, or frame 0; 'rolling window': the frame 'window' frames back; 'given image per prompt': "
            "one of your own pictures for each prompt.",
        ),
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=10.0,
            step=0.05,
            tooltip="How strongly the anchor acts: multiplies the sampler's cfg_anchor. 0: no anchor, as with the "
            "policy 'none'.",
        ),
        io.Int.Input(
            "window",
            default=10,
            min=1,
            max=1000,
            tooltip="For 'rolling window': how many frames back the anchor is. The paper trains with 10.",
        ),
        io.Latent.Input(
            "latent",
            optional=True,
            tooltip="For 'given image': the latent of one image, from VAE Encode. For 'given image per prompt': "
            "a batch, in the order of the prompts. It must have the size of the video: use ARTV Fit Image first.",
        ),
        io.Float.Input(
            "adain_strength",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip="Reduces colour drift: pulls the colours and contrast of each frame toward the "
            "anchor's. 0: off, as in the paper; 1: all the way.",
        ),
        advanced(RETURN.input(optional=True)),
    ]


class ARTVNoiseAugment(io.ComfyNode):
    """Noise levels for references and anchor."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The host's description of the node."""
        return bridge.schema(
            node_id="ARTVNoiseAugment",
            display_name="ARTV Noise Augment",
            category="ARTV",
            description="Sets how much noise is added to the previous frames and the anchor before the network sees "
            "them. More noise keeps small errors from building up, but lets details change.",
            search_aliases=["artv", "noise augmentation", "noise level", "drift"],
            inputs=[
                LEVELS["reference_level"].input(),
                LEVELS["anchor_level"].input(),
                io.String.Input(
                    "reference_levels",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Levels that change over the video, one per line: '0: 20' and '24: 60' mean 20 "
                    "from frame 0 and 60 from frame 24 on. Empty: reference_level for all frames.",
                ),
                io.String.Input(
                    "anchor_levels",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="The same for the anchor frame. Empty: anchor_level for all frames.",
                ),
            ],
            outputs=[ARTVNoise.Output(display_name="noise", tooltip="For the sampler's noise_augment input.")],
        )

    @classmethod
    def validate_inputs(
        cls, reference_level: Any = None, anchor_level: Any = None, reference_levels: str = "", anchor_levels: str = ""
    ) -> bool | str:
        """Check the levels. Whether each is one of the model's time steps is checked when the model is loaded."""
        for name, constant, by_frame in (
            ("reference_level", reference_level, reference_levels),
            ("anchor_level", anchor_level, anchor_levels),
        ):
            for told in (verdict(LEVELS[name].check, constant), verdict(_levels, name, "auto", by_frame)):
                if told is not True:
                    return told
        return True

    @classmethod
    def execute(
        cls, reference_level: Any, anchor_level: Any, reference_levels: str = "", anchor_levels: str = ""
    ) -> io.NodeOutput:
        """Collect the settings."""
        references = _levels("reference_level", reference_level, reference_levels)
        return io.NodeOutput(NoiseSettings(references, _levels("anchor_level", anchor_level, anchor_levels)))


def _levels(name: str, constant: Any, by_frame: str) -> NoiseLevel | None:
    """Read `by_frame`, in the syntax of prompt schedules. Raises ValueError if a level is not a whole number."""
    if not by_frame.strip():
        return LEVELS[name].whole_number(constant)
    return whole_numbers_by_frame(by_frame, f"{name}s")


def _level(name: str, tooltip: str) -> Automatic:
    return Automatic(name, tooltip, whole=True, zero=True, most=99_999, shows=name)


LEVELS = {
    one.name: one
    for one in (
        _level(
            "reference_level",
            "How much noise to add to the previous frames: 0 is none, 999 the most, 20 to 100 is usual. More noise "
            "keeps small errors from building up, but lets details change. auto: what the checkpoint recommends.",
        ),
        _level("anchor_level", "The same for the anchor frame. 0: none. auto: what the checkpoint recommends."),
    )
}
"""The levels for all frames, by name."""
