"""The whole model: noise network, mask network, VAE, text encoder, and the configuration they were built from."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ARTVConfig, VAEConfig
from ..files.user_errors import Remedy, UserError
from .autoencoder_kl import AutoencoderKL
from .network import FrameNetwork
from .prompt_weights import read_weights
from .taesd import TAESD
from .text import TextEncoder


class ARTV(nn.Module):
    """What a checkpoint holds. `mask`, `vae` and `text` may be absent (None); what needs them then says so.

    `null_context` `[L, D]` stands for the text where there is none: the encoding of the empty prompt.
    """

    noise: FrameNetwork
    mask: FrameNetwork | None
    vae: TAESD | AutoencoderKL | None
    text: TextEncoder | None
    null_context: Tensor

    def __init__(
        self,
        config: ARTVConfig,
        *,
        mask: bool = True,
        vae: bool = True,
        text: bool = True,
        operations: Any = torch.nn,
    ) -> None:
        """`mask`, `vae` and `text` choose the parts to build; a mask network needs `config.mask` besides.

        Raises ValueError where text encoder and networks do not fit together.
        """
        super().__init__()
        _check_widths(config)
        self.config = config
        self.noise = FrameNetwork(config.noise, operations)
        self.mask = FrameNetwork(config.mask, operations) if mask and config.mask is not None else None
        self.vae = build_vae(config.vae, operations) if vae else None
        self.text = TextEncoder(config.text) if text else None
        self.register_buffer("null_context", torch.zeros(config.text.context_length, config.text.width))

    def encode_images(self, images: Tensor) -> Tensor:
        """Images `[T, 3, H, W]` in [0, 1] to core-scale latents `[T, C, H/8, W/8]`, float32.

        Raises ValueError without a VAE, and where H or W is not a multiple of 8.
        """
        vae = self.require_vae()
        _check_image_size(images, self.config.vae.factor)
        latents = vae.encode(_like_weights(images, vae)).float()
        if isinstance(vae, TAESD):
            return latents
        return (latents - self.config.vae.shift) * self.config.vae.scale

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Core-scale latents `[T, C, h, w]` to images `[T, 3, 8h, 8w]` in [0, 1], float32. ValueError without a VAE."""
        vae = self.require_vae()
        if not isinstance(vae, TAESD):
            latents = latents / self.config.vae.scale + self.config.vae.shift
        return vae.decode(_like_weights(latents, vae)).float()

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """B texts to context `[B, L, D]`, float32. Raises ValueError without a text encoder."""
        text = self.require_text()
        return text(text.tokenize(texts))

    def encode_weighted(self, prompt: str) -> Tensor:
        """A prompt with weights, as `prompt_weights.read_weights`, to context `[L, D]`, float32.

        As in ComfyUI, a token's weight w moves its encoding away from the one that the empty prompt has there, e:
        (encoding - e) * w + e. Raises ValueError as `encode_text` and `read_weights`.
        """
        text, parts = self.require_text(), read_weights(prompt)
        tokens, weights = text.tokenize_weighted(parts)
        context = text(tokens)[0]
        if bool((weights == 1).all()):
            return context
        empty = text(text.tokenize([""]))[0]
        weight = weights.to(context.device)[:, None]
        return torch.where(weight == 1, context, (context - empty) * weight + empty)

    @torch.no_grad()
    def update_null_context(self) -> None:
        """Set `null_context` to the encoding of the empty prompt, as in Stable Diffusion. Raises as `encode_text`."""
        self.null_context.copy_(self.encode_text([""])[0])

    def require_text(self) -> TextEncoder:
        """The text encoder. Raises ValueError where there is none."""
        if self.text is None:
            raise UserError("this checkpoint holds no text encoder", Remedy.BASE, after=", or give a context")
        return self.text

    def require_vae(self) -> TAESD | AutoencoderKL:
        """The VAE. Raises ValueError where there is none."""
        if self.vae is None:
            raise UserError("this checkpoint holds no VAE", Remedy.BASE, after=", or give and take latents")
        return self.vae


def build_vae(config: VAEConfig, operations: Any = torch.nn) -> TAESD | AutoencoderKL:
    """The VAE that `config.kind` names, untrained."""
    if config.kind == "taesd":
        return TAESD(operations, latent_channels=config.latent_channels)
    return AutoencoderKL(latent_channels=config.latent_channels, operations=operations)


def _check_widths(config: ARTVConfig) -> None:
    for name, network in (("noise", config.noise), ("mask", config.mask)):
        if network is None:
            continue
        if network.unet.context_dim != config.text.width:
            raise ValueError(
                f"artv_config: text.width {config.text.width} differs from "
                f"{name}.unet.context_dim {network.unet.context_dim}"
            )
        if network.unet.in_channels != config.vae.latent_channels:
            raise ValueError(
                f"artv_config: vae.latent_channels {config.vae.latent_channels} differs from "
                f"{name}.unet.in_channels {network.unet.in_channels}"
            )


def _check_image_size(images: Tensor, factor: int) -> None:
    height, width = images.shape[-2:]
    if height % factor or width % factor or not height or not width:
        fit = f"{max(factor, width // factor * factor)}x{max(factor, height // factor * factor)}"
        raise ValueError(f"got images of {width}x{height}, expected multiples of {factor} along both sides, e.g. {fit}")


def _like_weights(tensor: Tensor, module: nn.Module) -> Tensor:
    weight = next(module.parameters())
    return tensor.to(weight.device, weight.dtype)
