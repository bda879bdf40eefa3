"""A UNet with the modules that condition it on frames. The noise network and the mask network are two of
them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..config import NetworkConfig
from .adapter import ReferenceAdapter
from .anchor import AnchorEncoder
from .attention import TokenProjections
from .expansion import Expansion
from .unet import Reuse, UNet


@dataclass(frozen=True)
class FrameConditions:
    """What a frame's denoising steps share: computed once per frame, then read at every step. Not in the paper.

    With an `expansion`, these are the conditions of several guidance branches. The network then takes latents of the B
    videos and returns an output for every branch.
    """

    tokens: TokenProjections
    adapter_features: list[Tensor]  # one map [B, C, h, w] for each UNet level
    level_embedding: Tensor  # [B, E]
    expansion: Expansion | None = None


class FrameNetwork(nn.Module):
    """Denoises one frame given text, the frames before it and an anchor frame (the paper's conditions).

    `compute_device` and `compute_dtype` are the device and dtype of the computation. None means those of the weights.
    A host sets them if its layers move and cast weights on use.
    """

    compute_device: torch.device | None = None
    compute_dtype: torch.dtype | None = None

    def __init__(self, config: NetworkConfig, operations: Any = torch.nn):
        super().__init__()
        self.diffusion_model = UNet(config.unet, config.anchor.width, operations)
        self.reference_adapter = ReferenceAdapter(config.adapter, config.unet, operations)
        self.anchor_encoder = AnchorEncoder(config.anchor, config.unet.in_channels, operations)

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether training recomputes the UNet's blocks in the backward pass, to save memory. Can be set."""
        return self.diffusion_model.gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        self.diffusion_model.gradient_checkpointing = value

    @property
    def is_fused(self) -> bool:
        """Whether layers may run in fused kernels (`fused.fuse`), which changes results by rounding."""
        return getattr(self.diffusion_model.out[0], "may_fuse", False)

    @property
    def device(self) -> torch.device:
        """The device for inputs."""
        return self.compute_device or next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype for inputs."""
        return self.compute_dtype or next(self.parameters()).dtype

    def condition(
        self,
        context: Tensor,
        reference_latents: Tensor,
        anchor_latent: Tensor,
        reference_level: Tensor,
        anchor_level: Tensor,
    ) -> FrameConditions:
        """Compute the conditions of a frame before its first step.

        `context` [B, L, context_dim] are text tokens. `reference_latents` [B, R * C, h, w] (oldest to newest) and
        `anchor_latent` [B, C, h', w'] already have noise up to `reference_level` and `anchor_level` ([B], integer time
        steps). A blank reference or anchor is a zero latent at level 0. Raises ValueError on a wrong number of
        reference channels.
        """
        return FrameConditions(
            tokens=self.diffusion_model.project_tokens(context, self.anchor_encoder(anchor_latent)),
            adapter_features=self.reference_adapter(reference_latents),
            level_embedding=self.diffusion_model.embed_levels(reference_level, anchor_level, reference_latents.dtype),
        )

    def forward(
        self, x: Tensor, timesteps: Tensor, conditions: FrameConditions, reuse: Reuse | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Noisy latents [B, C, h, w] at `timesteps` [B] (float) -> raw output [B, out_channels, h, w]. With an
        expansion in the conditions, the output has batch K * B. With `reuse`, returns (output, features); see
        `Reuse`."""
        return self.diffusion_model(
            x,
            timesteps,
            conditions.tokens,
            conditions.adapter_features,
            conditions.level_embedding,
            conditions.expansion,
            reuse,
        )
