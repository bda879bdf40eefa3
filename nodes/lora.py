"""The LoRA node: applies Stable Diffusion LoRA files of the model's own family to the noise network, through the host's
own reader."""

import os
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import comfy.lora
import comfy.utils
from comfy_api.latest import io
from torch import Tensor

from ..artv_core.config import UNetConfig
from ..artv_core.models.network import FrameNetwork
from . import bridge, model_files
from .checks import verdict
from .lora_patches import fits, unused_keys, with_other_names
from .types import ARTVModel

_SHOWN = 8
_OF_CLIP = ("lora_te_", "lora_te1_", "text_encoder.", "text_encoders.", "text_model.", "base_model.model.text_model.")


class ARTVLoRA(io.ComfyNode):
    """Applies a LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The host's description of the node."""
        return bridge.schema(
            node_id="ARTVLoRA",
            display_name="ARTV LoRA",
            category="ARTV",
            description="Applies a Stable Diffusion LoRA to the model, and to CLIP if one is connected. It "
            "must be made for the model's own Stable Diffusion version, 1.x or 2.x; several of "
            "these nodes can be chained.",
            search_aliases=["artv", "lora", "load lora", "style"],
            inputs=[
                ARTVModel.Input("model", tooltip="The model, from ARTV Loader or ARTV Adapt Model."),
                io.Combo.Input("lora_name", options=_lora_names(), tooltip="The LoRA file, from models/loras."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How strongly to change the model. 0: not at all; may be negative.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="Connect the CLIP if the LoRA should change it too."),
                io.Float.Input(
                    "strength_clip",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How strongly to change CLIP. 0: not at all; may be negative.",
                ),
            ],
            outputs=[
                ARTVModel.Output(display_name="model", tooltip="The changed model."),
                io.Clip.Output(display_name="clip", tooltip="The changed CLIP, if one was connected."),
                io.String.Output(
                    display_name="report",
                    tooltip="How many weights changed, and which ones did not fit. Show it with Preview as Text.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, lora_name: str | None = None) -> bool | str:
        """Check that the file exists. The host itself would refuse names with another path separator than in its
        menu."""
        return verdict(_lora_path, lora_name)

    @classmethod
    def execute(
        cls, model: Any, lora_name: str, strength: float, strength_clip: float, clip: Any = None
    ) -> io.NodeOutput:
        """Prepare patches that the host applies when it loads the weights. The input model does not change."""
        tensors = comfy.utils.load_torch_file(_lora_path(lora_name), safe_load=True)
        names = _network_names(model.model.noise)
        if clip is not None:
            names |= comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
        patches = _patches(tensors, with_other_names(names), lora_name)
        model, clip = model.clone(), None if clip is None else clip.clone()
        applied = set(model.add_patches(_fitting(patches, model.model.state_dict()), strength))
        if clip is not None:
            applied |= set(clip.add_patches(_fitting(patches, clip.cond_stage_model.state_dict()), strength_clip))
        unused, misfits = unused_keys(tensors, patches), [str(key) for key in patches if key not in applied]
        if not applied:
            raise ValueError(_why_nothing_fits(lora_name, unused, misfits))
        return io.NodeOutput(model, clip, _report(len(applied), unused, misfits, clip is not None))

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None, **_: Any) -> int | None:
        """Makes the host read a file again that was replaced under the same name. A name that a wire provides is None
        here."""
        return None if lora_name is None else os.stat(_lora_path(lora_name)).st_mtime_ns


def _lora_names() -> list[str]:
    return model_files.names_in("loras")


def _lora_path(name: str) -> str:
    return model_files.path_in("loras", name, "LoRA")


def _network_names(network: FrameNetwork) -> dict[str, str]:
    """Every name that a LoRA file may use for a weight, and the weight's key in the ARTV model. The host derives the
    names from a Stable Diffusion model, so the network is presented as one."""
    posing = SimpleNamespace(
        state_dict=network.state_dict,
        model_config=SimpleNamespace(unet_config=_host_config(network.diffusion_model.config)),
    )
    return {name: f"noise.{key}" for name, key in comfy.lora.model_lora_keys_unet(posing, {}).items()}


def _host_config(config: UNetConfig) -> dict[str, Any]:
    levels, blocks = len(config.channel_mult), config.num_res_blocks
    depths = [config.transformer_depth if level in config.attention_levels else 0 for level in range(levels)]
    return {
        "num_res_blocks": [blocks] * levels,
        "channel_mult": list(config.channel_mult),
        "transformer_depth": [depth for depth in depths for _ in range(blocks)],
        "transformer_depth_output": [depth for depth in depths for _ in range(blocks + 1)],
        "transformer_depth_middle": config.transformer_depth,
    }


def _patches(tensors: Mapping[str, Tensor], names: Mapping[str, str], lora_name: str) -> dict[Any, Any]:
    """The host's patches, by the keys of their weights. Raises ValueError if a patch in the file is incomplete or
    cannot be read."""
    try:
        return comfy.lora.load_lora(tensors, names, log_missing=False)
    except KeyError as error:
        raise ValueError(f"{lora_name} is incomplete: it has no {error.args[0]}; download or export it again") from None
    except (RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{lora_name} cannot be read as a LoRA: {reason}; download or export it again") from None


def _fitting(patches: Mapping[Any, Any], weights: Mapping[str, Tensor]) -> dict[Any, Any]:
    """The patches whose weights exist and have the same size."""
    return {key: patch for key, patch in patches.items() if key in weights and fits(patch, weights[key].shape)}


def _report(applied: int, unused: Sequence[str], misfits: Sequence[str], has_clip: bool) -> str:
    of_clip = [] if has_clip else [key for key in unused if key.startswith(_OF_CLIP)]
    unknown = [key for key in unused if key not in set(of_clip)]
    lines = [f"{applied} weights changed"]
    lines += [f"{len(of_clip)} keys are for CLIP: connect clip to use them"] * bool(of_clip)
    lines += [_listed("unknown keys", unknown)] * bool(unknown) + [_listed("that do not fit", misfits)] * bool(misfits)
    return "\n".join(lines)


def _listed(what: str, keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{len(keys)} {what}: {', '.join(keys[:_SHOWN])}{more}"


def _why_nothing_fits(lora_name: str, unused: Sequence[str], misfits: Sequence[str]) -> str:
    """One line about why no patch fits. Wrong sizes and unknown names have different causes."""
    if misfits:
        return (
            f"nothing in {lora_name} fits this model: its {len(misfits)} patches are of another size, or of a "
            "kind that ComfyUI cannot apply; choose a LoRA made for the model's own Stable Diffusion family, 1.x or 2.x"
        )
    if unused and all(key.startswith(_OF_CLIP) for key in unused):
        return f"{lora_name} changes CLIP only; connect a CLIP of the same Stable Diffusion family to this node"
    some = f", such as {unused[0]}" if unused else ""
    return (
        f"nothing in {lora_name} fits this model: none of its {len(unused)} names is known{some}; accepted are "
        "LoRA, LoHa, LoKr, GLoRA, OFT and BOFT files of Stable Diffusion 1.x or 2.x, named as by kohya, diffusers, PEFT"
    )
