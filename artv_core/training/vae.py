"""Stages "vae" and "decoder": the TAESD-type autoencoder, trained on single frames of the synthetic world.

Once the encoder is fixed, the decoder is trained further alone. This can run beside the diffusion stage, which needs
only latents.
"""

import random
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.utils import save_image

from ..checkpoint import load_checkpoint, resolve_checkpoint
from ..method.randomness import normal, seeded_generator
from ..models.hollow import hollow
from ..models.taesd import TAESD, ResidualBlock
from .config import TrainConfig, VAEStage
from .loop import Stage
from .start import check_same
from .worlds import training_world

LONGEST_GAP = 8
"""The largest number of frames between the two frames of a pair."""


class AutoencoderLoss(nn.Module):
    """Root mean square error of each image and of its edges, plus a penalty that pulls each latent channel to mean 0
    and deviation 1, so that the diffusion stage needs no scale. With later frames, also how much the latents change
    where the picture does not: what stands still can then be copied from frame to frame (Eq. 5-7). Not in the paper."""

    def __init__(self, vae: TAESD, stage: VAEStage) -> None:
        super().__init__()
        self.vae = vae
        self.edge_weight, self.moment_weight = stage.edge_weight, stage.moment_weight
        self.still_weight = stage.still_weight

    def forward(
        self, images: Tensor, latent_noise: Tensor, later: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Images `[B, 3, H, W]` in [0, 1], noise `[B, C, H/8, W/8]`, later frames shaped like images -> (loss,
        scalars)."""
        latents = self.vae.encode(images).float()
        decoded = self.vae.decode_raw(latents + latent_noise).float()
        error = decoded - images
        pixels = root_mean_square(_per_image(error))
        edges = root_mean_square(_per_image(error.diff(dim=-1)) + _per_image(error.diff(dim=-2)))
        mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
        moments = (mean.square() + (deviation - 1).square()).mean()
        loss = pixels + self.edge_weight * edges + self.moment_weight * moments
        logs = {"pixels": pixels.detach(), "edges": edges.detach(), "moments": moments.detach()}
        if later is not None:
            change = (self.vae.encode(later).float() - latents).square().mean(dim=1, keepdim=True)
            still = unchanged_cells(images, later, images.shape[-1] // latents.shape[-1])
            per_image = (change * still).sum(dim=(1, 2, 3)) / still.sum(dim=(1, 2, 3)).clamp(min=1)
            loss = loss + self.still_weight * root_mean_square(per_image)
            logs["still"] = per_image.detach().mean().sqrt()
        return loss, logs


def unchanged_cells(images: Tensor, later: Tensor, factor: int) -> Tensor:
    """[B, 1, H/factor, W/factor]: 1 for each cell of `factor` pixels in which two images [B, 3, H, W] agree, also
    within half a cell around it; else 0. Not in the paper."""
    changed = ((images - later).abs().amax(dim=1, keepdim=True) > 1 / 255).float()
    return 1 - F.max_pool2d(changed, kernel_size=2 * factor, stride=factor, padding=factor // 2)


def root_mean_square(squares: Tensor) -> Tensor:
    """Mean over the batch of the roots of mean squares [B]. A small constant keeps the gradient finite at 0."""
    return (squares + 1e-5).sqrt().mean()


def _per_image(error: Tensor) -> Tensor:
    return error.square().mean(dim=(1, 2, 3))


def initialise(vae: TAESD) -> None:
    """He initialisation with every residual branch at zero, so that depth does not slow down the start (Fixup). Not in
    the paper."""
    for layer in vae.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in vae.modules():
        if isinstance(layer, ResidualBlock):
            nn.init.zeros_(layer.conv[4].weight)  # type: ignore[arg-type]
    to_pixels = vae.taesd_decoder[-1]
    nn.init.normal_(to_pixels.weight, std=0.02)  # type: ignore[arg-type]
    nn.init.constant_(to_pixels.bias, 0.4)  # type: ignore[arg-type]


class VAETraining(Stage):
    """The stage "vae" for the training loop. It makes its own samples."""

    name = "vae"
    config: VAEStage
    module: AutoencoderLoss

    def __init__(self, config: TrainConfig) -> None:
        self.config = config.vae
        self._take(config, config.seed)
        torch.manual_seed(config.seed)
        vae = TAESD(latent_channels=self.latent_channels)
        initialise(vae)
        if config.vae.start_from:
            path = resolve_checkpoint(config.vae.start_from)
            start = load_checkpoint(path, without=("mask", "text"))
            check_same(path, start.config, config.model, ("vae",), "name another vae.start_from")
            vae.load_state_dict(start.require_vae().state_dict())
        self.module = self._with_loss(vae)

    def _take(self, config: TrainConfig, seed: int) -> None:
        self.samples = self
        self.seed, self.world, self.size = seed, training_world(config.world), config.model.size
        self.latent_channels, self.factor = config.model.vae.latent_channels, config.model.vae.factor

    def _with_loss(self, vae: TAESD) -> AutoencoderLoss:
        vae.to(memory_format=torch.channels_last)
        return AutoencoderLoss(vae, self.config)

    def batch(self, step: int, indices: range) -> tuple[Tensor, ...]:
        """Frames or crops `[B, 3, H, W]`, latent noise, and, if `still_weight` is above 0, a later frame of each clip.
        Keyed by (seed, step, index)."""
        height, width = self.size
        cropping = random.Random(f"{self.seed}/{step}").random() < self.config.crop_share
        times = max(1, height * width // self.config.crop**2) if cropping else 1
        indices = range(indices.start * times, indices.stop * times)
        gap = (
            random.Random(f"{self.seed}/{step}/later").randrange(1, LONGEST_GAP + 1) if self.config.still_weight else 0
        )
        crop = self.config.crop if cropping else 0
        frames = self.world.frames(self.seed, step, indices, self.config.batch_size * times, self.size, gap, crop)
        images, *later = (part.contiguous(memory_format=torch.channels_last) for part in frames.unbind(dim=1))
        cells = (self.latent_channels, images.shape[-2] // self.factor, images.shape[-1] // self.factor)
        noise = [normal(cells, seeded_generator(self.seed, step, i, "vae")) for i in indices]
        return images, self.config.latent_noise * torch.stack(noise), *later

    def empty_module(self) -> AutoencoderLoss:
        """An autoencoder like this one on the meta device."""
        with hollow():
            return AutoencoderLoss(TAESD(latent_channels=self.latent_channels), self.config)

    def sheet(self, averaged: nn.Module, step: int, folder: Path) -> Mapping[str, float]:
        """PSNR on 64 validation frames, and a picture with the originals above their reconstructions."""
        assert isinstance(averaged, AutoencoderLoss)
        device = next(averaged.parameters()).device
        images = self.world.validation_frames(64, self.size).to(device)
        with torch.inference_mode():
            decoded = averaged.vae.decode(averaged.vae.encode(images))
        shown = torch.cat((images[:16], decoded[:16])).cpu()
        save_image(F.interpolate(shown, scale_factor=2), folder / f"sheet-{step:06d}.png", nrow=16)
        psnr = -10 * (decoded - images).square().mean(dim=(1, 2, 3)).log10().mean().item()
        print(f"\n{self.name} step {step}: {psnr:.2f} dB on held-out frames")
        return {"psnr": psnr}


class DecoderTraining(VAETraining):
    """Trains only the decoder, starting from the result of the stage "vae", on other frames."""

    name = "decoder"

    def __init__(self, config: TrainConfig, vae: TAESD) -> None:
        self.config = config.decoder
        self._take(config, config.seed + 1)
        vae.taesd_encoder.requires_grad_(False)
        self.module = self._with_loss(vae.train())
