"""CLIP's text transformer, with the keys of Stable Diffusion 2 and the vocabulary of both 1 and 2 (open_clip's).

Of open_clip, two modules are imported, and only where they are used: inside a host they may not be needed at all.
"""

import importlib.util
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TextConfig
from .prompt_weights import WeightedText

VOCABULARY_SIZE = 49408
_END = VOCABULARY_SIZE - 1


class TextEncoder(nn.Module):
    """Prompts to context tokens. The state dict has the names `model.*` as in SD 2 under `cond_stage_model.`.

    `config.layer` says which hidden state goes through the final norm: "last", or "penultimate" as in SD 2. With
    "penultimate" the last block exists only for its keys and does not run.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _build_transformer(config)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """B texts to tokens `[B, L]` int64: start, words, end, then padding with zeros, or with end tokens if
        `config.pad_with_end`. A text that is too long is cut, but keeps its end token."""
        return tokenize(texts, self.config)

    def tokenize_weighted(self, parts: Sequence[WeightedText]) -> tuple[Tensor, Tensor]:
        """The weighted parts of one text to tokens `[1, L]`, as in `tokenize`, and their weights `[L]` float32."""
        pairs = [(token, part.weight) for part in parts for token in _tokenizer().encode(part.text)]
        pairs = pairs[: self.config.context_length - 2]
        tokens, weights = self.tokenize([""]), torch.ones(self.config.context_length)
        for place, (token, weight) in enumerate(pairs, start=1):
            tokens[0, place], weights[place] = token, weight
        tokens[0, len(pairs) + 1] = _END
        return tokens, weights

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens `[B, L]` to context `[B, L, width]`, float32."""
        weight = self.model.token_embedding.weight
        hidden = (
            self.model.token_embedding(tokens.to(weight.device)) + self.model.positional_embedding[: tokens.shape[1]]
        )
        mask = _causal_mask(tokens.shape[1], hidden)
        blocks = self.model.transformer.resblocks
        for block in blocks[: len(blocks) - len(self.unused_blocks())]:
            hidden = block(hidden, attn_mask=mask)
        return self.model.ln_final(hidden).float()

    def unused_blocks(self) -> nn.ModuleList:
        """The blocks that do not run: the last one with layer "penultimate", else none."""
        blocks = self.model.transformer.resblocks
        return blocks[-1:] if self.config.layer == "penultimate" else blocks[:0]

    def lost_words(self, text: str) -> list[str]:
        """The words of `text` that are cut, in whole or in part, because the text is too long for the encoder."""
        return lost_words(text, self.config)


def tokenize(texts: Sequence[str], config: TextConfig) -> Tensor:
    """Like `TextEncoder.tokenize`, but needs only a configuration."""
    tokens = _tokenizer()([texts] if isinstance(texts, str) else list(texts), config.context_length)
    if config.pad_with_end:
        tokens[(tokens == _END).cumsum(dim=1) > 0] = _END
    return tokens


def lost_words(text: str, config: TextConfig) -> list[str]:
    """Like `TextEncoder.lost_words`, but needs only a configuration."""
    room = config.context_length - 2
    words = text.split()
    for index, word in enumerate(words):
        room -= _count_tokens(word)
        if room < 0:
            return words[index:]
    return []


@lru_cache(maxsize=1 << 18)
def _count_tokens(word: str) -> int:
    return len(_tokenizer().encode(word))


def _build_transformer(config: TextConfig) -> Any:
    if config.width % config.heads:
        raise ValueError(f"text encoder: width {config.width} is not a multiple of its {config.heads} heads")
    if config.layer == "penultimate" and config.layers < 2:
        raise ValueError('text encoder: layer "penultimate" needs at least two layers')
    transformer = _open_clip("transformer")
    model = transformer.TextTransformer(
        context_length=config.context_length,
        vocab_size=VOCABULARY_SIZE,
        width=config.width,
        heads=config.heads,
        layers=config.layers,
        output_dim=config.width,
        act_layer=transformer.QuickGELU if config.activation == "quick_gelu" else nn.GELU,
    )
    # Only the pooled output uses the projection. The mask is computed on use, so that the module can be built on the
    # meta device: a buffer outside the state dict would be lost there.
    model.text_projection = None
    model.attn_mask = None
    return model


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    return _open_clip("tokenizer").SimpleTokenizer()


def _open_clip(module: str) -> ModuleType:
    """`open_clip.<module>` without the package around it, which would import timm, transformers and more: seconds."""
    package = "artv_open_clip"
    if (found := importlib.util.find_spec("open_clip")) is None:
        raise ModuleNotFoundError("open_clip is missing; install the package open_clip_torch", name="open_clip")
    if package not in sys.modules:
        spec = ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = found.submodule_search_locations
        sys.modules[package] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{package}.{module}")


def _causal_mask(length: int, like: Tensor) -> Tensor:
    return torch.full((length, length), float("-inf"), dtype=like.dtype, device=like.device).triu(1)
