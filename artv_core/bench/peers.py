"""The same measurement for another method: one-shot text-to-video with the architecture of ModelScope's model, by
diffusers."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..speed.graphs import CudaGraphs
from .measure import Row, peak_megabytes

NUM_FRAMES, NUM_STEPS = 16, 50
"""Frames and steps of a clip as the authors sample it (DDIM, two guidance branches)."""


@dataclass(frozen=True)
class PeerCase:
    """`steps` of the 50 steps are computed, and the total time is estimated from them. `sliced`: the VAE decodes frame
    by frame instead of the whole clip at once. `captured`: the UNet is replayed as a CUDA graph."""

    width: int
    height: int
    device: str
    dtype: str
    steps: int = NUM_STEPS
    compiled: bool = False
    sliced: bool = False
    captured: bool = False


def has_modelscope() -> bool:
    """Whether diffusers is installed."""
    return find_spec("diffusers") is not None


def measure_modelscope(case: PeerCase) -> Row:
    """Measure a clip with random weights. All its frames are finished when the last one is."""
    device, dtype = torch.device(case.device), getattr(torch, case.dtype)
    unet, vae, step = _networks(device, dtype)
    network = torch.compile(unet, dynamic=False) if case.compiled else unet
    latent = torch.randn(1, 4, NUM_FRAMES, case.height // 8, case.width // 8, device=device, dtype=dtype)
    context = torch.randn(2, 77, 1024, device=device, dtype=dtype)

    def both_branches(x: Tensor, timestep: Tensor) -> Tensor:
        return network(torch.cat([x, x]), timestep, encoder_hidden_states=context).sample

    predict: Callable[[Tensor, Tensor], Tensor] = both_branches
    if case.captured:
        with torch.inference_mode():
            predict = _captured(both_branches, latent, step.timesteps[0])

    def denoise(steps: int) -> Tensor:
        x = latent
        for number in range(steps):
            timestep = step.timesteps[number]
            unguided, guided = predict(x, timestep).chunk(2)
            x = step.step(unguided + 9 * (guided - unguided), timestep, x).prev_sample
        return x

    with torch.inference_mode():
        started = time.perf_counter()
        if device.type == "cuda":
            denoise(2)
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        warm_up, started = time.perf_counter() - started, time.perf_counter()
        x = denoise(case.steps)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        denoised = time.perf_counter() - started
        started = time.perf_counter()
        _decode(vae, x, case.sliced)
        clip = denoised * NUM_STEPS / case.steps + time.perf_counter() - started
    note = "" if case.steps == NUM_STEPS else f"estimated from {case.steps} of {NUM_STEPS} steps"
    ways = {"compiled": case.compiled, "captured": case.captured, "VAE sliced": case.sliced}
    name = ", ".join(["ModelScope's UNet in diffusers", *(way for way, used in ways.items() if used)])
    size = f"{case.width}x{case.height}"
    return Row(name, size, warm_up, clip, clip / NUM_FRAMES, peak_megabytes(device), note)


def _captured(predict: Callable[[Tensor, Tensor], Tensor], *inputs: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    buffers = [tensor.clone() for tensor in inputs]
    replay, result = CudaGraphs(buffers[0].device).capture(lambda: predict(*buffers))

    def replayed(*now: Tensor) -> Tensor:
        for buffer, tensor in zip(buffers, now, strict=True):
            buffer.copy_(tensor)
        replay()
        return result

    return replayed


def _networks(device: torch.device, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    import diffusers

    library: Any = diffusers  # its classes are not typed

    torch.manual_seed(0)
    with torch.device(device):
        unet = library.UNet3DConditionModel(cross_attention_dim=1024, attention_head_dim=64).to(dtype).eval()
        vae = library.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )
    scheduler = library.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler.set_timesteps(NUM_STEPS, device=device)
    return unet, vae.to(dtype).eval(), scheduler


def _decode(vae: Any, latents: Tensor, sliced: bool) -> Tensor:
    frames = latents[0].transpose(0, 1)
    parts = frames.split(1) if sliced else (frames,)
    return torch.cat([((vae.decode(part).sample + 1) * 127.5).to(torch.uint8).cpu() for part in parts])
