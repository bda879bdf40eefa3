"""The node that makes a picture as large as the video."""

from typing import Any

import comfy.utils
from comfy_api.latest import io

from ..artv_core.method.image_size import MAX_SIDE, check_side
from . import bridge
from .automatic import Automatic
from .checks import verdict
from .images import to_channels_first
from .sampler_inputs import FACTOR
from .types import ARTVModel


def _side(name: str) -> Automatic:
    return Automatic(
        name,
        f"{name.capitalize()} of the picture in pixels, a multiple of {FACTOR}. auto: what the checkpoint recommends.",
        whole=True,
        most=MAX_SIDE,
        step=FACTOR,
        shows=name,
    )


WIDTH, HEIGHT = _side("width"), _side("height")


class ARTVFitImage(io.ComfyNode):
    """Scales and crops pictures to the size of the checkpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The host's description of the node."""
        return bridge.schema(
            node_id="ARTVFitImage",
            display_name="ARTV Fit Image",
            category="ARTV",
            description="Gives a picture the size of the checkpoint's videos: scales it, and cuts off what is too wide "
            "or too high. Put it between Load Image and VAE Encode.",
            search_aliases=["artv", "resize", "scale image", "crop", "upscale image", "image to video", "first frame"],
            inputs=[
                ARTVModel.Input("model", tooltip="The model of the video, from ARTV Loader or ARTV Adapt Model."),
                io.Image.Input("image", tooltip="The picture, or several as a batch."),
                WIDTH.input(),
                HEIGHT.input(),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="For VAE Encode.")],
        )

    @classmethod
    def validate_inputs(cls, width: Any = None, height: Any = None) -> bool | str:
        """Check what was typed into the boxes that can say "auto"."""
        for side, value in ((WIDTH, width), (HEIGHT, height)):
            told = verdict(_chosen, side, value)
            if told is not True:
                return told
        return True

    @classmethod
    def execute(cls, model: Any, image: Any, width: Any = None, height: Any = None) -> io.NodeOutput:
        """Scale images [B, H, W, C] until they cover the size, and crop them around their centre."""
        best_height, best_width = model.model.config.size
        size = _chosen(WIDTH, width) or best_width, _chosen(HEIGHT, height) or best_height
        if size == (image.shape[2], image.shape[1]):
            return io.NodeOutput(image)
        shrinks = image.shape[2] >= size[0] and image.shape[1] >= size[1]
        method = "area" if shrinks else "bicubic"
        scaled = comfy.utils.common_upscale(to_channels_first(image), *size, method, "center")
        return io.NodeOutput(scaled.clamp(0, 1).movedim(1, -1))


def _chosen(side: Automatic, value: Any) -> int | None:
    """The number of pixels, None for the checkpoint's. Raises ValueError if a video cannot have it."""
    side.check(value)
    number = side.whole_number(value)
    if number is not None:
        check_side(side.name, number, FACTOR)
    return number
