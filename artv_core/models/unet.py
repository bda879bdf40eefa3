"""Stable Diffusion's UNet, 1.x or 2.x, with the same keys, and with extra inputs for references and anchor."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import UNetConfig
from .attention import CrossAttention, KeysValues, SpatialTransformer, TokenProjections, zeroed
from .expansion import Expansion, matched
from .fused import norm_silu


class BlockInputs(NamedTuple):
    """Inputs of all blocks other than feature maps: time and noise level embedding [B, E], tokens, and expansion."""

    embedding: Tensor
    tokens: TokenProjections
    expansion: Expansion | None


class Reuse(NamedTuple):
    """Reuse deep features of an earlier evaluation (DeepCache, Ma et al. 2023, arXiv 2312.00858). With `features`, only
    the outermost `blocks` blocks of encoder and decoder run. Without them all blocks run. In both cases the network
    returns (output, features)."""

    blocks: int
    features: Any = None


class UNet(nn.Module):
    """Predicts noise (or v, or mask logits) from a noisy latent, its time step and tokens.

    Module names are Stable Diffusion's (LDM), so that its checkpoints load unchanged. With `anchor_width` there are
    extra modules: a cross-attention to anchor tokens in every block that attends to text, and one embedding each for
    the noise levels of references and anchor. They end with zero-initialised layers, which are not in the paper.

    With `gradient_checkpointing`, training keeps only the inputs and outputs of each block and recomputes the rest in
    the backward pass. This takes much less memory and about a third more time; outputs and gradients are the same.
    """

    gradient_checkpointing: bool = False

    def __init__(self, config: UNetConfig, anchor_width: int | None = None, operations: Any = torch.nn):
        super().__init__()
        self.config = config
        embedding_width = 4 * config.model_channels
        self.time_embed = _embedding_mlp(config.model_channels, embedding_width, operations)
        if anchor_width is not None:
            self.reference_level_embed = _embedding_mlp(config.model_channels, embedding_width, operations)
            self.anchor_level_embed = _embedding_mlp(config.model_channels, embedding_width, operations)
            zeroed(self.reference_level_embed[2])
            zeroed(self.anchor_level_embed[2])

        self._build_blocks(embedding_width, anchor_width, operations)

        self.has_anchor = anchor_width is not None
        self._cross_attentions = tuple(module for module in self.modules() if isinstance(module, CrossAttention))
        for index, attention in enumerate(self._cross_attentions):
            attention.index = index

    def _build_blocks(self, embedding_width: int, anchor_width: int | None, operations: Any) -> None:
        config = self.config
        last_level = len(config.channel_mult) - 1

        def resnet(in_channels: int, out_channels: int) -> ResBlock:
            return ResBlock(in_channels, out_channels, embedding_width, config.norm_groups, operations)

        def transformer(channels: int) -> SpatialTransformer:
            return SpatialTransformer(config, channels, anchor_width, operations)

        channels = config.model_channels
        self.input_blocks = nn.ModuleList([Block([operations.Conv2d(config.in_channels, channels, 3, padding=1)])])
        self.adapted_blocks: dict[int, int] = {}  # input block -> level whose adapter features are added to it
        skip_channels = [channels]
        for level, level_channels in enumerate(config.level_channels):
            for _ in range(config.num_res_blocks):
                block = Block([resnet(channels, level_channels)])
                if level in config.attention_levels:
                    block.append(transformer(level_channels))
                self.input_blocks.append(block)
                channels = level_channels
                skip_channels.append(channels)
            self.adapted_blocks[len(self.input_blocks) - 1] = level
            if level != last_level:
                self.input_blocks.append(Block([Downsample(channels, operations)]))
                skip_channels.append(channels)

        self.middle_block = Block([resnet(channels, channels), transformer(channels), resnet(channels, channels)])

        self.output_blocks = nn.ModuleList()
        for level, level_channels in reversed(list(enumerate(config.level_channels))):
            for index in range(config.num_res_blocks + 1):
                block = Block([resnet(channels + skip_channels.pop(), level_channels)])
                channels = level_channels
                if level in config.attention_levels:
                    block.append(transformer(channels))
                if level > 0 and index == config.num_res_blocks:
                    block.append(Upsample(channels, operations))
                self.output_blocks.append(block)

        self.out = nn.Sequential(
            operations.GroupNorm(config.norm_groups, channels, eps=1e-5),
            nn.SiLU(),
            zeroed(operations.Conv2d(channels, config.out_channels, 3, padding=1)),
        )

    def project_tokens(self, context: Tensor, anchor_tokens: Tensor | None = None) -> TokenProjections:
        """Keys and values of all cross-attentions. They do not depend on the time step, so they are computed once per
        frame. Not in the paper.

        `context` [B, L, context_dim] are text tokens, `anchor_tokens` [B, N, anchor_width] those of the anchor. Without
        anchor tokens, the anchor attention is left out. Raises ValueError if this UNet has no anchor attention.
        """
        return TokenProjections(
            self.project_text(context), None if anchor_tokens is None else self.project_anchor(anchor_tokens)
        )

    def project_text(self, context: Tensor) -> list[KeysValues]:
        """Keys and values of text tokens [B, L, context_dim], one pair for each cross-attention."""
        return [attention.project_text(context) for attention in self._cross_attentions]

    def project_anchor(self, anchor_tokens: Tensor) -> list[KeysValues]:
        """Keys and values of anchor tokens [B, N, anchor_width], one pair for each cross-attention. Raises ValueError
        if this UNet has no anchor attention."""
        self._require_anchor("anchor tokens")
        return [attention.project_anchor(anchor_tokens) for attention in self._cross_attentions]

    def embed_levels(self, reference_level: Tensor, anchor_level: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Noise levels (integer time steps, [B] each) of references and anchor -> embedding [B, 4 * model_channels].

        The paper adds the level to the time-step embedding. It does not describe a separate embedding for each of the
        two. `dtype` is the dtype of the computation. Raises ValueError if this UNet has no level embeddings.
        """
        self._require_anchor("noise levels")
        reference = timestep_embedding(reference_level, self.config.model_channels).to(dtype)
        anchor = timestep_embedding(anchor_level, self.config.model_channels).to(dtype)
        return self.reference_level_embed(reference) + self.anchor_level_embed(anchor)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        tokens: TokenProjections,
        adapter_features: Sequence[Tensor] | None = None,
        level_embedding: Tensor | None = None,
        expansion: Expansion | None = None,
        reuse: Reuse | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Noisy latents [B, C, h, w] of any size at `timesteps` [B] (float, 0 to 999) -> [B, out_channels, h, w]. With
        `reuse`, returns (output, features).

        `adapter_features` has one map for each level. It is added to the level's last output in the encoder, before
        this output goes to the decoder (T2I-Adapter). Raises ValueError if the number of maps is wrong.

        With an `expansion`, latents have batch B (videos), `level_embedding` has E * B (pairs of noise levels), and
        `tokens`, `adapter_features` and the output have K * B (branches).
        """
        levels = len(self.config.channel_mult)
        if adapter_features is not None and len(adapter_features) != levels:
            raise ValueError(f"got {len(adapter_features)} adapter feature maps, expected {levels}, one for each level")

        embedding = self.time_embed(timestep_embedding(timesteps, self.config.model_channels).to(x.dtype))
        if level_embedding is not None:
            embedding, level_embedding = matched(embedding, level_embedding, expansion)
            embedding = embedding + level_embedding
        given = BlockInputs(embedding, tokens, expansion)

        encoder, decoder = list(self.input_blocks), list(self.output_blocks)
        features, inner = None, 0  # the decoder's first `inner` blocks compute the features
        if reuse is not None:
            features, inner = reuse.features, max(0, len(decoder) - reuse.blocks)
        if features is not None:
            encoder = encoder[: len(decoder) - inner]
        x, skips = self._encode(encoder, x, given, adapter_features)
        if features is None:
            features = self._decode(decoder[:inner], self._run(self.middle_block, x, given), given, skips)
        output = self.out[2](norm_silu(self.out[0], self._decode(decoder[inner:], features, given, skips)))
        return output if reuse is None else (output, features)

    def _encode(
        self, blocks: Sequence[nn.Module], x: Tensor, given: BlockInputs, adapter_features: Sequence[Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for index, block in enumerate(blocks):
            x = self._run(block, x, given)
            if adapter_features is not None and index in self.adapted_blocks:
                x, features = matched(x, adapter_features[self.adapted_blocks[index]], given.expansion)
                x = x + features
            skips.append(x)
        return x, skips

    def _decode(self, blocks: Sequence[nn.Module], x: Tensor, given: BlockInputs, skips: list[Tensor]) -> Tensor:
        """Run decoder blocks. Each takes its skip from the end of `skips`."""
        for block in blocks:
            x = torch.cat(matched(x, skips.pop(), given.expansion), dim=1)
            x = self._run(block, x, given, skips[-1].shape[2:] if skips else None)
        return x

    def _run(self, block: nn.Module, *inputs: Any) -> Tensor:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            # Blocks draw no random numbers, so there is no need to save the generator's state.
            return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
        return block(*inputs)

    def _require_anchor(self, what: str) -> None:
        if not self.has_anchor:
            raise ValueError(f"got {what}, but this UNet was built without anchor_width and cannot take them")


class Block(nn.ModuleList):
    """Layers that run one after another. Each layer gets the inputs for its type."""

    def forward(self, x: Tensor, given: BlockInputs, upsampled_size: Sequence[int] | None = None) -> Tensor:
        """Run the layers on x. `upsampled_size` is the output height and width for an `Upsample` in this block."""
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, given.embedding, given.expansion)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, given.tokens, given.expansion)
            elif isinstance(layer, Upsample):
                x = layer(x, upsampled_size)
            else:
                x = layer(x)
        return x


class ResBlock(nn.Module):
    """Two convolutions with the time embedding added between them, residual (SD)."""

    def __init__(
        self, in_channels: int, out_channels: int, embedding_width: int, norm_groups: int, operations: Any = torch.nn
    ):
        super().__init__()
        self.in_layers = nn.Sequential(
            operations.GroupNorm(norm_groups, in_channels, eps=1e-5),
            nn.SiLU(),
            operations.Conv2d(in_channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), operations.Linear(embedding_width, out_channels))
        # Index 2 is Stable Diffusion's dropout (rate 0). It stays so that the convolution keeps its key.
        self.out_layers = nn.Sequential(
            operations.GroupNorm(norm_groups, out_channels, eps=1e-5),
            nn.SiLU(),
            nn.Identity(),
            zeroed(operations.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else operations.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor, expansion: Expansion | None = None) -> Tensor:
        """[B, in_channels, h, w] and [B, embedding_width] -> [B, out_channels, h, w]. If the two batches differ, the
        output has the larger one."""
        h = self.in_layers[2](norm_silu(self.in_layers[0], x))
        h, shift = matched(h, self.emb_layers(embedding)[:, :, None, None], expansion)
        changes = self.out_layers[3](norm_silu(self.out_layers[0], h + shift))
        skip, changes = matched(self.skip_connection(x), changes, expansion)
        return skip + changes


class Downsample(nn.Module):
    """Convolution with stride 2 (SD). Half of an odd size is rounded up."""

    def __init__(self, channels: int, operations: Any = torch.nn):
        super().__init__()
        self.op = operations.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, ceil(h / 2), ceil(w / 2)]."""
        return self.op(x)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling, then a convolution (SD)."""

    def __init__(self, channels: int, operations: Any = torch.nn):
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """[B, C, h, w] -> [B, C, *size]. The size is the encoder's: if that is odd, doubling would give another."""
        return self.conv(F.interpolate(x, size=tuple(size), mode="nearest"))


def timestep_embedding(timesteps: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding of time steps [B] -> float32 [B, width]: cosines, then sines, with periods from 2 pi to
    nearly 20000 pi (SD)."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=timesteps.device) * (-math.log(10000.0) / half))
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _embedding_mlp(in_width: int, out_width: int, operations: Any) -> nn.Sequential:
    return nn.Sequential(operations.Linear(in_width, out_width), nn.SiLU(), operations.Linear(out_width, out_width))
