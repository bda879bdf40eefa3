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
from comfy.clip_model import CLIPTextModel
from torch import Tensor

from ..artv_core.checkpoint import PUBLIC_SD_EXTRAS, read_part
from ..artv_core.config import TextConfig, VAEConfig
from ..artv_core.models.text import VOCABULARY_SIZE
from .loading import can_be_made_again
from .prompt_track import TEXT_KEY

_TEXT_PREFIX = "cond_stage_model.model."
_KL_PREFIX = "first_stage_model."
_START, _END = VOCABULARY_SIZE - 2, VOCABULARY_SIZE - 1


def load_vae(path: str, base: str | None, config: VAEConfig) -> Any:
    """The host's VAE. If neither file has one, it is the host's empty VAE, which reports that when it is used. Raises
    ValueError if the tensors do not match `config`."""
    tensors = _read(path, "vae", base)
    if config.kind == "kl":
        tensors = {key.removeprefix(_KL_PREFIX): tensor for key, tensor in tensors.items()}
    vae = comfy.sd.VAE(sd=tensors)
    can_be_made_again(getattr(vae, "patcher", None), _vae_patcher, path, base, config)
    return vae


def load_clip(path: str, base: str | None, config: TextConfig, disable_dynamic: bool = False) -> Any:
    """The host's CLIP, or None if neither file has a text encoder, which CLIP Text Encode then reports.
    `disable_dynamic` is as in `loading.load_model`.

    Raises ValueError if the tensors do not match `config`.
    """
    tensors = _read(path, "text", base)
    if not tensors:
        return None
    tensors = {key: tensor for key, tensor in tensors.items() if not _is_extra(key)}
    prefix = f"clip_{_clip_name(config)}.transformer."
    tensors = comfy.utils.clip_text_transformers_convert(tensors, _TEXT_PREFIX, prefix)
    # Only the pooled output passes through the projection. This model does not read it, so the file contains no
    # projection.
    tensors[f"{prefix}text_projection.weight"] = torch.eye(config.width)
    _check(tensors, prefix, config, path)
    clip = _new_clip(config, tensors, disable_dynamic)
    can_be_made_again(clip.patcher, _clip_patcher, path, base, config)
    return clip


def _read(path: str, part: str, base: str | None) -> dict[str, Tensor]:
    """Read the tensors with the host's own reader. They may stay in the file's memory map until the host loads them."""
    return read_part(path, part, base=base, reader=comfy.utils.load_torch_file)


def _vae_patcher(path: str, base: str | None, config: VAEConfig, disable_dynamic: bool = False) -> Any:
    """The VAE's patcher, as from the host's `load_vae_patcher`, which ignores `disable_dynamic` too."""
    return load_vae(path, base, config).patcher


def _clip_patcher(path: str, base: str | None, config: TextConfig, disable_dynamic: bool = False) -> Any:
    return load_clip(path, base, config, disable_dynamic).patcher


def _check(tensors: Mapping[str, Tensor], prefix: str, config: TextConfig, path: str) -> None:
    """Raises ValueError if these are not the host's weights for such a text encoder. The expected shapes come from
    plain layers, because a host's layers may have no weights yet, and would then accept any shape."""
    plain = CLIPTextModel(_description(config), torch.float32, "meta", torch.nn)
    expected = {prefix + key: tuple(tensor.shape) for key, tensor in plain.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if wrong:
        got, wanted = (list(shapes[wrong[0]]) if wrong[0] in shapes else "none" for shapes in (found, expected))
        raise ValueError(
            f"{path}: its text encoder does not fit: {len(wrong)} tensors differ, such as {wrong[0]} "
            f"(got {got}, expected {wanted})"
        )


def _clip_name(config: TextConfig) -> str:
    """The host's name for the text encoder of SD 1.x ("l") or SD 2.x, by which it finds LoRA files and embeddings."""
    return "l" if config.activation == "quick_gelu" else "h"


def _new_clip(config: TextConfig, tensors: dict[str, Tensor], disable_dynamic: bool) -> Any:
    """The host's CLIP, filled once. Newer hosts fill it while they build it, and may put it on the device then."""
    target = SimpleNamespace(clip=_clip_model(config), tokenizer=_tokenizer(config), params={})
    options: dict[str, Any] = {"parameters": comfy.utils.calculate_parameters(tensors)}
    known = inspect.signature(comfy.sd.CLIP.__init__).parameters
    if "disable_dynamic" in known:
        options["disable_dynamic"] = disable_dynamic
    if "state_dict" in known:
        options["state_dict"] = tensors
    clip = comfy.sd.CLIP(target, embedding_directory=folder_paths.get_folder_paths("embeddings"), **options)
    if "state_dict" not in known:
        clip.load_sd(tensors, full_model=True)
    return clip


def _description(config: TextConfig) -> dict[str, Any]:
    """The configuration in the format of Hugging Face's files, which the host reads."""
    return {
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "intermediate_size": 4 * config.width,
        "hidden_act": config.activation,
        "max_position_embeddings": config.context_length,
        "eos_token_id": _END,
    }


def _clip_model(config: TextConfig) -> type:
    """The host's class of text encoders, set to this size. It must be a class, because the host creates the object."""
    layer = {"layer": "last"} if config.layer == "last" else {"layer": "hidden", "layer_idx": -2}

    class TextModel(sd1_clip.SDClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(
                device=device,
                dtype=dtype,
                max_length=config.context_length,
                textmodel_json_config=_description(config),
                special_tokens={"start": _START, "end": _END, "pad": _END if config.pad_with_end else 0},
                model_options=model_options or {},
                **layer,
            )

    class ClipModel(sd1_clip.SD1ClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            options = model_options or {}
            name = _clip_name(config)
            super().__init__(device=device, dtype=dtype, model_options=options, clip_name=name, clip_model=TextModel)

        def encode_token_weights(self, token_weight_pairs: dict[str, Any]) -> tuple[Any, ...]:
            encoded = super().encode_token_weights(token_weight_pairs)
            if not isinstance(token_weight_pairs, _Tokens):
                return encoded
            context, pooled, *more = encoded
            return context, pooled, {**(more[0] if more else {}), TEXT_KEY: token_weight_pairs.text}

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

        def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options: Any) -> _Tokens:
            return _Tokens(super().tokenize_with_weights(text, return_word_ids, **options), text)

    return Tokenizer


class _Tokens(dict[str, Any]):
    """The host's tokens of a text, by the name of the text encoder, with the text itself. The text goes along into the
    CONDITIONING, so that the sampler can name words that its model does not know."""

    def __init__(self, tokens: dict[str, Any], text: str) -> None:
        super().__init__(tokens)
        self.text = text


def _is_extra(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in PUBLIC_SD_EXTRAS)
