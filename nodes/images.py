"""Decodes latents to images with the host's VAE."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import comfy.model_management as memory
import torch
from torch import Tensor

from .weights import Loaded

MOST_AT_ONCE = 16
"""The most frames that are decoded together when a whole video is available."""

MOST_PIXELS = 2**24
"""The most pixels that are decoded together: 200 MB of images in float32."""


def to_channels_first(images: Tensor) -> Tensor:
    """The host's IMAGE [B, H, W, C] as the core's [B, C, H, W]."""
    return images.movedim(-1, 1)


class Decoder:
    """Decodes latents with the host's VAE, and loads its weights once instead of for each call.

    The host's own `decode` requests its weights each time. It is used for the first call and whenever room has to be
    made: after its weights were removed, for more cells than before, and if memory runs out.
    """

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        self._loaded = Loaded(getattr(vae, "patcher", None))
        self._cells = 0

    @property
    def device(self) -> torch.device | None:
        """The device of the VAE; None if it does not say."""
        device = getattr(self._vae, "device", None)
        return None if device is None else torch.device(device)

    def __call__(self, latents: Tensor) -> Tensor:
        """Latents [T, C, h, w] in the host's scale to images [T, 3, H, W] in [0, 1], like the host's `decode`."""
        if self._can_be_called(latents):
            try:
                return self._call(latents)
            except memory.InterruptProcessingException:
                raise
            except memory.OOM_EXCEPTION:
                memory.soft_empty_cache()  # the host then makes room, or decodes in tiles
        images = to_channels_first(self._vae.decode(latents))
        if self._loaded.patcher is not None:
            self._loaded.note()
            self._cells = latents[0, 0].numel()
        return images

    def _can_be_called(self, latents: Tensor) -> bool:
        model = getattr(self._vae, "first_stage_model", None)
        of_images = getattr(self._vae, "latent_dim", 0) == 2 and getattr(self._vae, "extra_1d_channel", None) is None
        whole = not getattr(model, "comfy_has_chunked_io", False)
        fits = latents.ndim == 4 and 0 < latents[0, 0].numel() <= self._cells
        return of_images and whole and fits and self._loaded.is_there

    def _call(self, latents: Tensor) -> Tensor:
        """The part of the host's `decode` that follows loading the weights."""
        vae, pieces = self._vae, []
        dtype = getattr(vae, "vae_output_dtype", lambda: torch.float32)()
        with getattr(memory, "cuda_device_context", lambda _: nullcontext())(vae.device):
            for part in latents.split(self._at_once(latents)):
                decoded = vae.first_stage_model.decode(part.to(vae.device, vae.vae_dtype))
                pieces.append(vae.process_output(decoded.to(vae.output_device, dtype, copy=True)))
        return torch.cat(pieces)

    def _at_once(self, latents: Tensor) -> int:
        ask = getattr(self._vae.patcher, "get_free_memory", memory.get_free_memory)
        needed = self._vae.memory_used_decode(latents.shape, self._vae.vae_dtype)
        return max(1, int(ask(self._vae.device) / max(1, needed)))


def decoded_frames(decode: Decoder, latents: Tensor) -> Iterator[Tensor]:
    """The image [3, H, W] in [0, 1] of each of the latents [T, C, h, w]. A few are decoded together, so memory use does
    not grow with the video."""
    for part in latents.split(frames_at_once(latents, decode.device)):
        yield from decode(part)


def decoded_frame(decode: Decoder, latents: Tensor, index: int) -> Tensor:
    """One of the images of `decoded_frames`, bit for bit. The same frames are decoded together, because rounding
    depends on that."""
    count = frames_at_once(latents, decode.device)
    start = index // count * count
    return decode(latents[start : start + count])[index - start]


def frames_at_once(latents: Tensor, device: torch.device | None = None, factor: int = 8) -> int:
    """How many of these latents [T, C, h, w] to decode together. One on a CPU, where it would save nothing."""
    if device is not None and device.type == "cpu":
        return 1
    pixels = latents.shape[-2] * latents.shape[-1] * factor**2
    return max(1, min(MOST_AT_ONCE, MOST_PIXELS // max(1, pixels)))


def pixel_size(vae: Any, latents: Tensor, upscale: int = 1) -> tuple[int, int]:
    """Width and height of the images of latents [..., h, w], enlarged `upscale` times."""
    ratio = getattr(vae, "spacial_compression_decode", lambda: 8)()
    height, width = latents.shape[-2:]
    return int(width * ratio * upscale), int(height * ratio * upscale)
