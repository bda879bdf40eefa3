"""The whole model: noise network, mask network, VAE, text encoder, and their configuration."""

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
    """The networks of a checkpoint. `mask`, `vae` and `text` may be missing (None). Methods that need a missing VAE or
    text encoder raise ValueError.

    `null_context` `[L, D]` is the encoding of the empty prompt, used where there is no text.
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
        """`mask`, `vae` and `text` choose the parts to build. A mask network is built only if `config.mask` is set too.

        Raises ValueError if the widths of text encoder, VAE and networks do not match.
        """
        super().__init__()
        check_widths(config)
        self.config = config
        self.noise = FrameNetwork(config.noise, operations)
        self.mask = FrameNetwork(config.mask, operations) if mask and config.mask is not None else None
        self.vae = build_vae(config.vae, operations) if vae else None
        self.text = TextEncoder(config.text) if text else None
        self.register_buffer("null_context", torch.zeros(config.text.context_length, config.text.width))

    def encode_images(self, images: Tensor) -> Tensor:
        """Images `[T, 3, H, W]` in [0, 1] to latents `[T, C, H/8, W/8]` in the model's own scale, float32.

        Raises ValueError without a VAE, and if H or W is not a multiple of 8.
        """
        vae = self.require_vae()
        _check_image_size(images, self.config.vae.factor)
        latents = vae.encode(_like_weights(images, vae)).float()
        if isinstance(vae, TAESD):
            return latents
        return (latents - self.config.vae.shift) * self.config.vae.scale

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents `[T, C, h, w]` in the model's own scale to images `[T, 3, 8h, 8w]` in [0, 1], float32. Raises
        ValueError without a VAE."""
        vae = self.require_vae()
        if not isinstance(vae, TAESD):
            latents = latents / self.config.vae.scale + self.config.vae.shift
        return vae.decode(_like_weights(latents, vae)).float()

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """B texts to context `[B, L, D]`, float32. Raises ValueError without a text encoder."""
        text = self.require_text()
        return text(text.tokenize(texts))

    def encode_weighted(self, prompt: str) -> Tensor:
        """A prompt with weights (syntax: `prompt_weights`) to context `[L, D]`, float32. As in ComfyUI: with e the
        empty prompt's encoding at a token's place, a weight w turns the encoding into (encoding - e) * w + e.

        Raises the errors of `encode_text` and `read_weights`.
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
        """Set `null_context` to the encoding of the empty prompt, as in Stable Diffusion. Raises the errors of
        `encode_text`."""
        self.null_context.copy_(self.encode_text([""])[0])

    def require_text(self) -> TextEncoder:
        """The text encoder. Raises ValueError if there is none."""
        if self.text is None:
            raise UserError("this checkpoint has no text encoder", Remedy.BASE, after=", or give encoded text")
        return self.text

    def require_vae(self) -> TAESD | AutoencoderKL:
        """The VAE. Raises ValueError if there is none."""
        if self.vae is None:
            raise UserError("this checkpoint has no VAE", Remedy.BASE, after=", or give and take latents")
        return self.vae


def build_vae(config: VAEConfig, operations: Any = torch.nn) -> TAESD | AutoencoderKL:
    """An untrained VAE of the kind `config.kind`."""
    if config.kind == "taesd":
        return TAESD(operations, latent_channels=config.latent_channels)
    return AutoencoderKL(latent_channels=config.latent_channels, operations=operations)


def check_widths(config: ARTVConfig) -> None:
    """Raises ValueError if the widths of text encoder, VAE and networks do not match."""
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
