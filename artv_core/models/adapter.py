"""The reference adapter: turns previous frames, stacked along channels, into feature maps for the UNet's encoder."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import AdapterConfig, UNetConfig
from .attention import zeroed
from .pooling import halved


class ReferenceAdapter(nn.Module):
    """T2I-Adapter with `sk=True`, `use_conv=False` (as in the paper). It takes latents, so it has no pixel unshuffle.

    Each feature map ends with a zero-initialised 1x1 convolution, so that the UNet is unchanged before training. This
    is not in the paper.
    """

    def __init__(self, adapter: AdapterConfig, unet: UNetConfig, operations: Any = torch.nn):
        super().__init__()
        self.in_channels = adapter.num_references * unet.in_channels
        self.num_references = adapter.num_references
        self.blocks_per_level = adapter.num_blocks
        self.conv_in = operations.Conv2d(self.in_channels, unet.level_channels[0], 3, padding=1)
        self.body = nn.ModuleList()
        channels = unet.level_channels[0]
        for level, level_channels in enumerate(unet.level_channels):
            for index in range(adapter.num_blocks):
                down = level > 0 and index == 0
                self.body.append(AdapterBlock(channels, level_channels, down, operations))
                channels = level_channels
        self.zero_out = nn.ModuleList(
            zeroed(operations.Conv2d(level_channels, level_channels, 1)) for level_channels in unet.level_channels
        )

    def forward(self, reference_latents: Tensor) -> list[Tensor]:
        """Reference latents [B, R * C, h, w], oldest first, to one feature map per UNet level. The first has the size
        of the latents, each next one half the size of the one before, rounded up.

        Raises ValueError if the number of channels is not that of `num_references` latents.
        """
        if reference_latents.shape[1] != self.in_channels:
            raise ValueError(
                f"got reference latents of {reference_latents.shape[1]} channels, expected {self.in_channels}: "
                f"{self.num_references} references of {self.in_channels // self.num_references} channels"
            )
        x = self.conv_in(reference_latents)
        features = []
        for level, zero_out in enumerate(self.zero_out):
            for index in range(self.blocks_per_level):
                x = self.body[level * self.blocks_per_level + index](x)
            features.append(zero_out(x))
        return features


class AdapterBlock(nn.Module):
    """T2I-Adapter's residual block: average pooling if `down`, a 1x1 convolution if the channels change, then a 3x3
    convolution, ReLU and a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, down: bool, operations: Any = torch.nn):
        super().__init__()
        self.down = down
        same = in_channels == out_channels
        self.in_conv = nn.Identity() if same else operations.Conv2d(in_channels, out_channels, 1)
        self.block1 = operations.Conv2d(out_channels, out_channels, 3, padding=1)
        self.block2 = operations.Conv2d(out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, h, w] -> [B, out_channels, h, w]; with `down`, half that size, rounded up."""
        if self.down:
            x = halved(x)  # rounds as the UNet's strided convolution does
        x = self.in_conv(x)
        return x + self.block2(F.relu(self.block1(x)))
