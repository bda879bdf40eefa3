"""The node for frames that are given anywhere in a video."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from . import bridge
from .checks import verdict
from .types import ARTVKeyframes as KeyframesType

_LONGEST = 50


class ARTVKeyframes(io.ComfyNode):
    """Frames that the sampler takes instead of making them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The host's description of the node."""
        return bridge.schema(
            node_id="ARTVKeyframes",
            display_name="ARTV Keyframes",
            category="ARTV",
            description="Places your own pictures in the video. The sampler takes each one as it is and goes on from "
            "it as from a first frame, so each begins a new shot.",
            search_aliases=["artv", "keyframe", "key frame", "storyboard", "scene", "shot", "image to video"],
            inputs=[
                io.Latent.Input(
                    "latent",
                    tooltip="The pictures, as one batch from VAE Encode. Scale them to the video's size with ARTV Fit "
                    "Image first.",
                ),
                io.String.Input(
                    "positions",
                    default="0, 16, 32",
                    tooltip="Which frame each picture is, in the order of the batch, counted from 0. Pictures at "
                    "neighbouring frames show the model a motion, as in '16, 17'.",
                ),
                KeyframesType.Input(
                    "keyframes",
                    optional=True,
                    tooltip="From another ARTV Keyframes: its pictures are added, so each picture can be loaded alone.",
                ),
            ],
            outputs=[KeyframesType.Output(display_name="keyframes", tooltip="For the sampler's keyframes input.")],
        )

    @classmethod
    def validate_inputs(cls, positions: str | None = None) -> bool | str:
        """Check that the positions are frames, each named once."""
        return verdict(parse_positions, positions)

    @classmethod
    def execute(cls, latent: dict, positions: str, keyframes: "Placed | None" = None) -> io.NodeOutput:
        """Give each picture its frame. Whether they fit the video is checked by the sampler."""
        frames, samples = parse_positions(positions), bridge.latent_samples(latent, "the keyframes' latent")
        if len(frames) != len(samples):
            raise ValueError(
                f"the number of pictures is {len(samples)}, the number of positions {len(frames)}; "
                "give one position for each picture of the batch"
            )
        placed = dict(keyframes or {})
        for frame, picture in zip(frames, samples.split(1), strict=True):
            if frame in placed:
                raise ValueError(f"frame {frame} has two keyframes; give each picture a frame of its own")
            placed[frame] = picture
        return io.NodeOutput(placed)


Placed = dict[int, Tensor]
"""What the node gives: a latent [1, C, h, w] in the host's scale for each frame."""


def parse_positions(text: str) -> list[int]:
    """Frames from text such as "0, 16, 32". Commas, spaces or new lines separate them. Raises ValueError on anything
    else, if there is none, and if one is named twice."""
    words: list[Any] = text.replace(",", " ").split()
    strange = [word for word in words if not (word.isascii() and word.isdecimal() and len(word) < 10)]
    if strange or not words:
        got = repr(strange[0][:_LONGEST]) if strange else "nothing"
        raise ValueError(f"positions contains {got}; give whole numbers of frames, as in '0, 16, 32'")
    frames = [int(word) for word in words]
    twice = [frame for place, frame in enumerate(frames) if frame in frames[:place]]
    if twice:
        raise ValueError(f"positions names frame {twice[0]} twice; give each picture a frame of its own")
    return frames
