"""Stable Diffusion's image autoencoder (KL, f8), with the same keys. Images are in [0, 1], and inside in [-1, 1]."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .fused import norm_only, norm_silu


class AutoencoderKL(nn.Module):
    """Images to latents of an eighth of the size and back, in ComfyUI's latent scale (not multiplied by 0.18215).

    Module names and default sizes are Stable Diffusion's (LDM `first_stage_model`). `channels` times `channel_mult` is
    the width of each level. Every level but the last halves the size.
    """

    def __init__(
        self,
        latent_channels: int = 4,
        channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 4, 4),
        num_res_blocks: int = 2,
        norm_groups: int = 32,
        operations: Any = torch.nn,
    ):
        super().__init__()
        self.factor = 2 ** (len(channel_mult) - 1)
        widths = [channels * mult for mult in channel_mult]
        self.encoder = Encoder(2 * latent_channels, widths, num_res_blocks, norm_groups, operations)
        self.decoder = Decoder(latent_channels, widths, num_res_blocks, norm_groups, operations)
        self.quant_conv = operations.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant_conv = operations.Conv2d(latent_channels, latent_channels, 1)

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> the mean of their latents' distribution [B, latent_channels, H/8, W/8].

        Raises ValueError if a side is not a multiple of 8.
        """
        height, width = images.shape[2:]
        if height % self.factor or width % self.factor:
            fitting = " x ".join(str(max(side // self.factor, 1) * self.factor) for side in (height, width))
            raise ValueError(
                f"got images of {height} x {width} pixels, expected multiples of {self.factor}, e.g. {fitting}"
            )
        mean, _log_variance = self.quant_conv(self.encoder(images * 2 - 1)).chunk(2, dim=1)
        return mean

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, latent_channels, h, w] -> images [B, 3, 8h, 8w], clamped to [0, 1]."""
        return (self.decoder(self.post_quant_conv(latents)) / 2 + 0.5).clamp(0, 1)


class Encoder(nn.Module):
    """Image in [-1, 1] to mean and log-variance of a latent (LDM's encoder)."""

    def __init__(
        self, out_channels: int, widths: Sequence[int], num_res_blocks: int, norm_groups: int, operations: Any
    ):
        super().__init__()
        self.conv_in = operations.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        channels = widths[0]
        for level, width in enumerate(widths):
            last = level == len(widths) - 1
            self.down.append(EncoderStage(channels, width, num_res_blocks, not last, norm_groups, operations))
            channels = width
        self.mid = Middle(channels, norm_groups, operations)
        self.norm_out = operations.GroupNorm(norm_groups, channels, eps=1e-6)
        self.conv_out = operations.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, out_channels, H/8, W/8]."""
        x = self.conv_in(images)
        for stage in self.down:
            x = stage(x)
        return self.conv_out(norm_silu(self.norm_out, self.mid(x)))


class Decoder(nn.Module):
    """Latent to image in about [-1, 1] (LDM's decoder). `up.0` is the level of full size, so the levels run in reverse
    order."""

    def __init__(self, in_channels: int, widths: Sequence[int], num_res_blocks: int, norm_groups: int, operations: Any):
        super().__init__()
        channels = widths[-1]
        self.conv_in = operations.Conv2d(in_channels, channels, 3, padding=1)
        self.mid = Middle(channels, norm_groups, operations)
        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            stage = DecoderStage(channels, width, num_res_blocks + 1, level > 0, norm_groups, operations)
            self.up.insert(0, stage)
            channels = width
        self.norm_out = operations.GroupNorm(norm_groups, channels, eps=1e-6)
        self.conv_out = operations.Conv2d(channels, 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """[B, in_channels, h, w] -> [B, 3, 8h, 8w]."""
        x = self.mid(self.conv_in(latents))
        for stage in reversed(self.up):
            x = stage(x)
        return self.conv_out(norm_silu(self.norm_out, x))


class EncoderStage(nn.Module):
    """ResNet blocks of one size, then downsampling by 2 if `halve`."""

    def __init__(
        self, in_channels: int, out_channels: int, num_blocks: int, halve: bool, norm_groups: int, operations: Any
    ):
        super().__init__()
        self.block = _resnets(in_channels, out_channels, num_blocks, norm_groups, operations)
        self.downsample = Downsample(out_channels, operations) if halve else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, h, w] -> [B, out_channels, h, w] or half of that size."""
        return self.downsample(self.block(x))


class DecoderStage(nn.Module):
    """ResNet blocks of one size, then upsampling by 2 if `double`."""

    def __init__(
        self, in_channels: int, out_channels: int, num_blocks: int, double: bool, norm_groups: int, operations: Any
    ):
        super().__init__()
        self.block = _resnets(in_channels, out_channels, num_blocks, norm_groups, operations)
        self.upsample = Upsample(out_channels, operations) if double else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, h, w] -> [B, out_channels, h, w] or twice that size."""
        return self.upsample(self.block(x))


class Middle(nn.Module):
    """ResNet block, attention, ResNet block, at the smallest size."""

    def __init__(self, channels: int, norm_groups: int, operations: Any):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, norm_groups, operations)
        self.attn_1 = Attention(channels, norm_groups, operations)
        self.block_2 = ResnetBlock(channels, channels, norm_groups, operations)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the same shape."""
        return self.block_2(self.attn_1(self.block_1(x)))


class ResnetBlock(nn.Module):
    """Two convolutions with norms before them, residual."""

    def __init__(self, in_channels: int, out_channels: int, norm_groups: int, operations: Any):
        super().__init__()
        self.norm1 = operations.GroupNorm(norm_groups, in_channels, eps=1e-6)
        self.conv1 = operations.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = operations.GroupNorm(norm_groups, out_channels, eps=1e-6)
        self.conv2 = operations.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.nin_shortcut = nn.Identity() if same else operations.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, h, w] -> [B, out_channels, h, w]."""
        h = self.conv1(norm_silu(self.norm1, x))
        h = self.conv2(norm_silu(self.norm2, h))
        return self.nin_shortcut(x) + h


class Attention(nn.Module):
    """Residual self-attention over all cells, with one head and 1x1 convolutions as projections."""

    def __init__(self, channels: int, norm_groups: int, operations: Any):
        super().__init__()
        self.norm = operations.GroupNorm(norm_groups, channels, eps=1e-6)
        self.q = operations.Conv2d(channels, channels, 1)
        self.k = operations.Conv2d(channels, channels, 1)
        self.v = operations.Conv2d(channels, channels, 1)
        self.proj_out = operations.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the same shape."""
        normed = norm_only(self.norm, x)
        queries, keys, values = (
            rearrange(layer(normed), "b c h w -> b 1 (h w) c") for layer in (self.q, self.k, self.v)
        )
        attended = F.scaled_dot_product_attention(queries, keys, values)
        return x + self.proj_out(rearrange(attended, "b 1 (h w) c -> b c h w", h=x.shape[2]))


class Downsample(nn.Module):
    """Convolution with stride 2, padded only at the right and the bottom (LDM)."""

    def __init__(self, channels: int, operations: Any):
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h // 2, w // 2]."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by 2, then a convolution."""

    def __init__(self, channels: int, operations: Any):
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, 2h, 2w]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _resnets(in_channels: int, out_channels: int, count: int, norm_groups: int, operations: Any) -> nn.Sequential:
    return nn.Sequential(
        *(
            ResnetBlock(in_channels if index == 0 else out_channels, out_channels, norm_groups, operations)
            for index in range(count)
        )
    )
