"""A tiny convolutional autoencoder with the layout and keys of TAESD (github.com/madebyollin/taesd).

The size is halved three times; there are four latent channels by default. With `width=64`, ComfyUI can load the state
dict (`taesd_encoder.*`, `taesd_decoder.*`) as a VAE, so it can use a checkpoint's VAE without a conversion.
"""

from typing import Any

import torch
from torch import Tensor, nn

LATENT_LIMIT = 3.0


class SoftClamp(nn.Module):
    """Limits latents smoothly to -3..3, the range in which the decoder was trained."""

    def forward(self, latents: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return LATENT_LIMIT * torch.tanh(latents / LATENT_LIMIT)


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions of equal width, plus the input, then ReLU."""

    def __init__(self, width: int, operations: Any = torch.nn) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(width, width, operations),
            nn.ReLU(),
            _conv(width, width, operations),
            nn.ReLU(),
            _conv(width, width, operations),
        )

    def forward(self, features: Tensor) -> Tensor:
        """`[B, width, h, w]` -> the same shape."""
        return torch.relu(self.conv(features) + features)


class TAESD(nn.Module):
    """Encoder and decoder. The latents are in the model's own scale; `VAEConfig` converts to ComfyUI's scale."""

    def __init__(self, operations: Any = torch.nn, latent_channels: int = 4, width: int = 64) -> None:
        super().__init__()
        self.taesd_encoder = _encoder(latent_channels, width, operations)
        self.taesd_decoder = _decoder(latent_channels, width, operations)

    def encode(self, images: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` in [0, 1], H and W multiples of 8, to latents `[B, C, H/8, W/8]` in the model's
        scale."""
        return self.taesd_encoder(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents `[B, C, h, w]` in the model's scale to images `[B, 3, 8h, 8w]`, clamped to [0, 1]."""
        return self.decode_raw(latents).clamp(0, 1)

    def decode_raw(self, latents: Tensor) -> Tensor:
        """Like `decode`, but not clamped, so that training has a gradient outside [0, 1] too."""
        return self.taesd_decoder(latents)


def _encoder(latent_channels: int, width: int, operations: Any) -> nn.Sequential:
    layers = [_conv(3, width, operations), ResidualBlock(width, operations)]
    for _ in range(3):
        layers.append(_conv(width, width, operations, stride=2, bias=False))
        layers.extend(ResidualBlock(width, operations) for _ in range(3))
    return nn.Sequential(*layers, _conv(width, latent_channels, operations))


def _decoder(latent_channels: int, width: int, operations: Any) -> nn.Sequential:
    layers: list[nn.Module] = [SoftClamp(), _conv(latent_channels, width, operations), nn.ReLU()]
    for _ in range(3):
        layers.extend(ResidualBlock(width, operations) for _ in range(3))
        layers += [nn.Upsample(scale_factor=2), _conv(width, width, operations, bias=False)]
    return nn.Sequential(*layers, ResidualBlock(width, operations), _conv(width, 3, operations))


def _conv(inputs: int, outputs: int, operations: Any, stride: int = 1, bias: bool = True) -> nn.Module:
    return operations.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)
