"""CLIP's text transformer, with the keys of Stable Diffusion 2 and the vocabulary of both 1 and 2 (open_clip's).

open_clip is imported where it is used: importing it takes seconds, and a checkpoint used inside a host never needs it.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TextConfig
from .prompt_weights import WeightedText

VOCABULARY_SIZE = 49408
_END = VOCABULARY_SIZE - 1


class TextEncoder(nn.Module):
    """Prompts to context tokens. State dict: `model.*`, named as under SD 2's `cond_stage_model.`.

    `config.layer` says which hidden state passes through the final norm: "last", or "penultimate", SD 2's choice,
    where the last block is kept for its keys but not computed.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _build_transformer(config)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Texts to `[B, L]` int64: start, words, end, zeros (more ends with `config.pad_with_end`). A text that is too
        long is cut and keeps its end token."""
        return tokenize(texts, self.config)

    def tokenize_weighted(self, parts: Sequence[WeightedText]) -> tuple[Tensor, Tensor]:
        """Parts of one text to its tokens `[1, L]`, as `tokenize`, and how much each of them counts, `[L]` float32."""
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
        for block in blocks[:-1] if self.config.layer == "penultimate" else blocks:
            hidden = block(hidden, attn_mask=mask)
        return self.model.ln_final(hidden).float()

    def lost_words(self, text: str) -> list[str]:
        """The words of `text` that lie, wholly or in part, beyond what the encoder reads. Empty: everything is read."""
        return lost_words(text, self.config)

    def unknown_words(self, text: str, vocabulary: Sequence[str]) -> list[str]:
        """The words of `text` that `vocabulary` lacks, each once and in order. An empty vocabulary knows all words."""
        if not vocabulary:
            return []
        known = {word.lower() for word in vocabulary}
        words = dict.fromkeys(re.findall(r"\w+", text.lower()))
        return [word for word in words if word not in known]


def tokenize(texts: Sequence[str], config: TextConfig) -> Tensor:
    """As `TextEncoder.tokenize`, for where there is no encoder."""
    tokens = _tokenizer()([texts] if isinstance(texts, str) else list(texts), config.context_length)
    if config.pad_with_end:
        tokens[(tokens == _END).cumsum(dim=1) > 0] = _END
    return tokens


def lost_words(text: str, config: TextConfig) -> list[str]:
    """As `TextEncoder.lost_words`, for where there is no encoder."""
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
    from open_clip.transformer import QuickGELU, TextTransformer

    if config.width % config.heads:
        raise ValueError(f"text encoder: width {config.width} is not a multiple of its {config.heads} heads")
    if config.layer == "penultimate" and config.layers < 2:
        raise ValueError('text encoder: layer "penultimate" needs at least two layers')
    model = TextTransformer(
        context_length=config.context_length,
        vocab_size=VOCABULARY_SIZE,
        width=config.width,
        heads=config.heads,
        layers=config.layers,
        output_dim=config.width,
        act_layer=QuickGELU if config.activation == "quick_gelu" else nn.GELU,
    )
    # Only the pooled output uses the projection; the mask is computed where it is used, so that the module can be
    # built on the meta device, where a buffer outside the state dict would be lost.
    model.text_projection = None
    model.attn_mask = None
    return model


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def _causal_mask(length: int, like: Tensor) -> Tensor:
    return torch.full((length, length), float("-inf"), dtype=like.dtype, device=like.device).triu(1)
