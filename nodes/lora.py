"""The LoRA node: Stable Diffusion LoRA files, of the model's own family, on the noise network, through the host's own
reader."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import comfy.lora
import comfy.utils
from comfy_api.latest import io
from torch import Tensor

from ..artv_core.config import UNetConfig
from ..artv_core.models.network import FrameNetwork
from . import bridge, model_files
from .types import ARTVModel

_SHOWN = 8


class ARTVLoRA(io.ComfyNode):
    """Applies a LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return bridge.schema(
            node_id="ARTVLoRA",
            display_name="ARTV LoRA",
            category="ARTV",
            description="Applies a Stable Diffusion LoRA, 1.x or 2.x as the model is, to the model that draws the "
            "frames (not to the one that masks), and to CLIP where one is wired. Several can follow one another.",
            search_aliases=["artv", "lora", "load lora", "style"],
            inputs=[
                ARTVModel.Input("model", tooltip="The model, from ARTV Loader."),
                io.Combo.Input(
                    "lora_name", options=_lora_names(), tooltip="The LoRA file, a safetensors in models/loras."
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How strongly to change the model. 0: not at all; may be negative.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="The CLIP, if the LoRA is to change it too."),
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
                io.Clip.Output(display_name="clip", tooltip="The changed CLIP, where one was wired."),
                io.String.Output(
                    display_name="report", tooltip="How much of the file fits, and the names of what does not."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, lora_name: str, strength: float, strength_clip: float, clip: Any = None
    ) -> io.NodeOutput:
        """Patches for the host to apply when it loads the weights; the model itself stays as it is."""
        tensors = comfy.utils.load_torch_file(_lora_path(lora_name), safe_load=True)
        names = _network_names(model.model.noise)
        names |= {} if clip is None else comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
        patches = comfy.lora.load_lora(tensors, names, log_missing=False)
        model, clip = model.clone(), None if clip is None else clip.clone()
        applied = set(model.add_patches(_fitting(patches, model.model.state_dict()), strength))
        if clip is not None:
            applied |= set(clip.add_patches(_fitting(patches, clip.cond_stage_model.state_dict()), strength_clip))
        if not applied:
            raise ValueError(f"nothing in {lora_name} fits this model; it is no LoRA of its Stable Diffusion family")
        return io.NodeOutput(model, clip, _report(tensors, names, applied, patches))


def _lora_names() -> list[str]:
    return model_files.names_in("loras")


def _lora_path(name: str) -> str:
    return model_files.path_in("loras", name, "LoRA")


def _network_names(network: FrameNetwork) -> dict[str, str]:
    """Every name a LoRA file may call a weight by, and the weight's key in our model. The host knows the names from a
    Stable Diffusion model, as which the network poses."""
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


def _fitting(patches: Mapping[Any, Any], weights: Mapping[str, Tensor]) -> dict[Any, Any]:
    """Patches of weights that are there and of the same size; the host would notice the others only while sampling."""
    return {key: patch for key, patch in patches.items() if key in weights and _fits(patch, weights[key])}


def _fits(patch: Any, weight: Tensor) -> bool:
    if isinstance(patch, tuple):  # ("diff", (tensor,))
        return patch[1][0].numel() == weight.numel()
    parts = getattr(patch, "weights", ())
    if getattr(patch, "name", "") != "lora" or len(parts) < 2:
        return True
    return parts[0].shape[0] * parts[1][0].numel() == weight.numel()


def _report(tensors: Mapping[str, Tensor], names: Mapping[str, str], applied: set[Any], patches: Mapping) -> str:
    strange = [key for key in tensors if not _is_named(key, names)]
    misfits = [str(key) for key in patches if key not in applied]
    lines = [f"{len(applied)} weights changed"]
    for count, what, keys in ((len(strange), "unknown keys", strange), (len(misfits), "of another size", misfits)):
        if count:
            more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
            lines.append(f"{count} {what}: {', '.join(keys[:_SHOWN])}{more}")
    return "\n".join(lines)


def _is_named(key: str, names: Mapping[str, str]) -> bool:
    """Whether some name, or a name and `_lora`, begins the key up to a dot."""
    parts = key.split(".")
    heads = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return any(head in names or head.removesuffix("_lora") in names for head in heads)
