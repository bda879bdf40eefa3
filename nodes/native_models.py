"""A checkpoint's VAE and text encoder as the host's own VAE and CLIP objects."""

import inspect
from collections.abc import Mapping
from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy import sd1_clip
from torch import Tensor

from ..artv_core.checkpoint import PUBLIC_SD_EXTRAS, read_part
from ..artv_core.config import TextConfig, VAEConfig
from ..artv_core.models.text import VOCABULARY_SIZE

_TEXT_PREFIX = "cond_stage_model.model."
_KL_PREFIX = "first_stage_model."
_START, _END = VOCABULARY_SIZE - 2, VOCABULARY_SIZE - 1


def load_vae(path: str, base: str | None, config: VAEConfig) -> Any:
    """The host's VAE. Where neither file has one it is the host's empty VAE, which says so when it is used."""
    tensors = read_part(path, "vae", base=base)
    if config.kind == "kl":
        tensors = {key.removeprefix(_KL_PREFIX): tensor for key, tensor in tensors.items()}
    return comfy.sd.VAE(sd=tensors)


def load_clip(path: str, base: str | None, config: TextConfig) -> Any:
    """The host's CLIP, or None where neither file has a text encoder; CLIP Text Encode then says so.

    Raises ValueError, one line, where the tensors are not those that `config` describes.
    """
    tensors = read_part(path, "text", base=base)
    if not tensors:
        return None
    tensors = {key: tensor for key, tensor in tensors.items() if not _is_extra(key)}
    prefix = f"clip_{_clip_name(config)}.transformer."
    tensors = comfy.utils.clip_text_transformers_convert(tensors, _TEXT_PREFIX, prefix)
    # Only the pooled output, which this model does not read, passes through the projection; the file has none.
    tensors[f"{prefix}text_projection.weight"] = torch.eye(config.width)
    return _fill(_new_clip, tensors, config, path)


def _clip_name(config: TextConfig) -> str:
    """The host's name for SD 1.x's text encoder, "l", or SD 2.x's; LoRA files and embeddings are looked up by it."""
    return "l" if config.activation == "quick_gelu" else "h"


def _fill(new_clip: Any, tensors: dict[str, Tensor], config: TextConfig, path: str) -> Any:
    clip = new_clip(config, tensors)
    try:
        missing, unexpected = clip.load_sd(tensors, full_model=True)
    except RuntimeError as error:
        raise ValueError(f"{path}: its text encoder does not fit: {' '.join(str(error).split())[:300]}") from None
    wrong = [key for key in missing if not key.endswith("logit_scale")] + list(unexpected)
    if wrong:
        raise ValueError(f"{path}: its text encoder does not fit: {len(wrong)} keys differ, such as {wrong[0]}")
    return clip


def _new_clip(config: TextConfig, tensors: Mapping[str, Tensor]) -> Any:
    target = SimpleNamespace(clip=_clip_model(config), tokenizer=_tokenizer(config), params={})
    options: dict[str, Any] = {"parameters": comfy.utils.calculate_parameters(tensors)}
    if "state_dict" in inspect.signature(comfy.sd.CLIP.__init__).parameters:
        options["state_dict"] = tensors  # newer hosts may put the weights on the device while building
    return comfy.sd.CLIP(target, embedding_directory=folder_paths.get_folder_paths("embeddings"), **options)


def _clip_model(config: TextConfig) -> type:
    """The host's class of text encoders, of this size. A class, since the host makes the object."""
    description = {
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "intermediate_size": 4 * config.width,
        "hidden_act": config.activation,
        "max_position_embeddings": config.context_length,
        "eos_token_id": _END,
    }
    layer = {"layer": "last"} if config.layer == "last" else {"layer": "hidden", "layer_idx": -2}

    class TextModel(sd1_clip.SDClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(
                device=device,
                dtype=dtype,
                max_length=config.context_length,
                textmodel_json_config=dict(description),
                special_tokens={"start": _START, "end": _END, "pad": _END if config.pad_with_end else 0},
                model_options=model_options or {},
                **layer,
            )

    class ClipModel(sd1_clip.SD1ClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            options = model_options or {}
            name = _clip_name(config)
            super().__init__(device=device, dtype=dtype, model_options=options, clip_name=name, clip_model=TextModel)

    return ClipModel


def _tokenizer(config: TextConfig) -> type:
    class WordTokenizer(sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            super().__init__(
                max_length=config.context_length,
                pad_with_end=config.pad_with_end,
                embedding_directory=embedding_directory,
                embedding_size=config.width,
                embedding_key=f"clip_{_clip_name(config)}",
                tokenizer_data=tokenizer_data or {},
            )

    class Tokenizer(sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            super().__init__(
                embedding_directory=embedding_directory,
                tokenizer_data=tokenizer_data or {},
                clip_name=_clip_name(config),
                tokenizer=WordTokenizer,
            )

    return Tokenizer


def _is_extra(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in PUBLIC_SD_EXTRAS)
