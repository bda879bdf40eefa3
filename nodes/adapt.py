"""The node that makes an ARTV model from a Stable Diffusion model of the graph."""

import logging
import os
from typing import Any

from comfy_api.latest import io

from . import bridge, model_files
from .adapting import adapt_model
from .checks import faults_named, verdict
from .loader import UNTRAINED, about, speed_inputs
from .types import ARTVModel

logger = logging.getLogger(__name__)


class ARTVAdaptModel(io.ComfyNode):
    """Makes an ARTV model from a model of the graph."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The host's description of the node."""
        return bridge.schema(
            node_id="ARTVAdaptModel",
            display_name="ARTV Adapt Model",
            category="ARTV",
            description="Turns a Stable Diffusion model of your graph, with its LoRAs, into a video model. Use it with "
            "the CLIP and VAE that you already have.",
            search_aliases=["artv", "art-v", "stable diffusion", "adapter", "text to video", "animate model"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A Stable Diffusion 1.x or 2.x model, from Load Checkpoint or Load LoRA. It must be of the "
                    "kind that the ARTV file was trained on.",
                ),
                io.Combo.Input(
                    "checkpoint",
                    options=model_files.adapter_names(),
                    tooltip="An ARTV file from models/artv that was trained on such a model. The shipped ones do not "
                    "fit. Only what it adds to Stable Diffusion is used.",
                ),
                *speed_inputs(),
            ],
            outputs=[
                ARTVModel.Output(
                    display_name="model",
                    tooltip="For ARTV Masked Diffusion Sampler, ARTV LoRA, ARTV Fit Image and ARTV Step Masks.",
                ),
                io.String.Output(
                    display_name="about",
                    tooltip="The model's size, frame rate and recommended settings, how many weights LoRAs change, and "
                    "what has no effect. Show it with Preview as Text.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None) -> bool | str:
        """Check that the file exists. The host itself would refuse names with another path separator than in its
        menu."""
        return verdict(model_files.checkpoint_path, checkpoint)

    @classmethod
    @faults_named()
    def execute(cls, model: Any, checkpoint: str, compile: bool = False, graph: bool = True) -> io.NodeOutput:
        """Read the file and join it with the model. Any error is a single line."""
        path = model_files.checkpoint_path(checkpoint)
        adapted = adapt_model(model, path, compile, graph)
        if not adapted.model.trained:
            logger.warning("%s %s", path, UNTRAINED)
        if adapted.model.left_out:
            logger.warning("ARTV Adapt Model: %s", adapted.model.left_out)
        return io.NodeOutput(adapted, about_adapted(adapted))

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None, **_: Any) -> list[int]:
        """Makes the host read a file again that was replaced under the same name. Contains no path, because the host
        saves this and users share what it saves. A name that a wire provides is None here."""
        return [] if checkpoint is None else [os.stat(model_files.checkpoint_path(checkpoint)).st_mtime_ns]


def about_adapted(patcher: Any) -> str:
    """A few lines for the user about a model that `adapt_model` made."""
    lines = [about(patcher.model)]
    lines += [f"{len(patcher.patches)} weights are changed by LoRAs or other patches"] * bool(patcher.patches)
    lines += [patcher.model.left_out] * bool(patcher.model.left_out)
    return "\n".join(lines)
