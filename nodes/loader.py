"""The loader node: one file to model, CLIP and VAE."""

import logging
import os
from typing import Any

from comfy_api.latest import io

from ..artv_core.checkpoint import describe_checkpoint
from ..artv_core.checkpoint.info import base_warning, checkpoint_facts
from . import bridge, loading, model_files, native_models
from .checks import faults_named, verdict
from .types import ARTVModel

logger = logging.getLogger(__name__)


UNTRAINED = "is untrained and ignores earlier frames; train it first (artv train)"


class ARTVLoader(io.ComfyNode):
    """Loads an ARTV checkpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The host's description of the node."""
        return bridge.schema(
            node_id="ARTVLoader",
            display_name="ARTV Loader",
            category="ARTV",
            description="Loads an ARTV checkpoint: the model for the sampler, and a CLIP and VAE that work with all "
            "other nodes.",
            search_aliases=["artv", "art-v", "load checkpoint", "video loader", "text to video", "video model"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=model_files.checkpoint_names(),
                    default=model_files.DEFAULT,
                    tooltip="The ARTV file: shipped with this pack, or from models/artv. 'small' draws named things in "
                    "places, 128x128; 'tiny' coloured shapes, 64x64. Each knows only its own words, listed below.",
                ),
                io.Combo.Input(
                    "base",
                    options=model_files.base_names(),
                    default=model_files.NO_BASE,
                    tooltip="The Stable Diffusion checkpoint that this one was trained on, from "
                    "models/checkpoints. Needed only if the ARTV file is not a complete model.",
                ),
                *speed_inputs(),
            ],
            outputs=[
                ARTVModel.Output(
                    display_name="model",
                    tooltip="For ARTV Masked Diffusion Sampler, ARTV LoRA, ARTV Fit Image and ARTV Step Masks.",
                ),
                io.Clip.Output(display_name="clip", tooltip="For CLIP Text Encode and the Multi-Prompt Scheduler."),
                io.Vae.Output(display_name="vae", tooltip="For VAE Encode, VAE Decode and ARTV Decode to Video."),
                io.String.Output(
                    display_name="about",
                    tooltip="The model's size, frame rate, recommended settings and the words it knows. Show "
                    "it with Preview as Text.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None, base: str | None = None) -> bool | str:
        """Check that the files exist. The host itself would refuse names with another path separator than in its
        menu."""
        for find, name in ((model_files.checkpoint_path, checkpoint), (model_files.base_path, base)):
            told = verdict(find, name)
            if told is not True:
                return told
        return True

    @classmethod
    @faults_named()
    def execute(cls, checkpoint: str, base: str, compile: bool = False, graph: bool = True) -> io.NodeOutput:
        """Read the file. Any error is a single line."""
        path, base_path = model_files.checkpoint_path(checkpoint), model_files.base_path(base)
        model = loading.load_model(path, base_path, compile, graph)
        config = model.model.config
        warning = base_warning(describe_checkpoint(path), base_path) if base_path else None
        if warning:
            logger.warning("%s", warning)
        clip = native_models.load_clip(path, base_path, config.text)
        vae = native_models.load_vae(path, base_path, config.vae)
        if not model.model.trained:
            logger.warning("%s %s", path, UNTRAINED)
        return io.NodeOutput(model, clip, vae, about(model.model))

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None, base: str | None, **_: Any) -> list[int]:
        """Makes the host load a file again that was replaced under the same name. Contains no path, because the host
        saves this and users share what it saves. A name that a wire provides is None here."""
        finders = ((model_files.checkpoint_path, checkpoint), (model_files.base_path, base))
        paths = [find(name) for find, name in finders if name is not None]
        return [os.stat(path).st_mtime_ns for path in paths if path]


def speed_inputs() -> list[io.Input]:
    """The inputs that choose how evaluations run."""
    return [
        io.Boolean.Input(
            "compile",
            default=False,
            optional=True,
            tooltip="Makes frames faster (torch.compile), but the first frames of each new size take "
            "minutes longer. Worth it for long videos and many runs.",
        ),
        io.Boolean.Input(
            "graph",
            display_name="CUDA graph",
            default=True,
            optional=True,
            tooltip="Makes frames much faster on NVIDIA cards (CUDA graphs); they differ by rounding at most. "
            "Has no effect if the whole model does not fit on the card.",
        ),
    ]


def about(model: Any) -> str:
    """A few lines for the user about an `ARTV` that `loading.load_model` loaded."""
    config = model.config
    (height, width), sampling = config.size, config.sampling
    first = f" ({sampling.first_frame_steps} for the first frame)" if sampling.first_frame_steps else ""
    lines = [
        f"{config.name}: {width}x{height} pixels, {config.fps:g} frames per second",
        f"recommended: {sampling.steps} steps of {sampling.sampler}{first}, cfg {sampling.guidance_text:g} "
        f"(first frame {sampling.first_frame_guidance:g}), noise levels {sampling.reference_noise_level} and "
        f"{sampling.anchor_noise_level}",
    ]
    if config.vocabulary:
        lines.append(f"knows these words only: {', '.join(config.vocabulary)}")
    if not model.trained:
        lines.append(f"{config.name} {UNTRAINED}")
    return "\n".join(lines)


def answer_checkpoint(question: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint is, from its header: for `{"checkpoint": NAME, "base": NAME}`, with names from the loader's
    menus, returns `artv_core.checkpoint.info.checkpoint_facts`. Raises ValueError; its text contains no path except
    that of a broken link."""
    names = {kind: question.get(kind, default) for kind, default in (("checkpoint", ""), ("base", model_files.NO_BASE))}
    for kind, name in names.items():
        if not isinstance(name, str):
            raise ValueError(f"{kind} is {type(name).__name__}, expected a name from the menu {kind!r}")
    path, base_path = model_files.checkpoint_path(names["checkpoint"]), model_files.base_path(names["base"])
    try:
        with faults_named():
            return checkpoint_facts(describe_checkpoint(path), base_path)
    except ValueError as error:
        message = str(error).replace(path, names["checkpoint"])
        raise ValueError(message.replace(base_path, names["base"]) if base_path else message) from None
