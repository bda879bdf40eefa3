"""Models that several test files need."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from artv_core.checkpoint import file_key, part_of_weight
from artv_core.config import ARTVConfig, preset
from artv_core.method.frames import Frame
from artv_core.method.generate import VideoRequest, generate_frames
from artv_core.method.options import GenerateOptions
from artv_core.method.text_track import TextTrack
from artv_core.models.artv import ARTV


def untrained(seed: int = 0) -> ARTV:
    """A tiny model whose zero-initialised layers hold small numbers, so that every condition matters."""
    torch.manual_seed(seed)
    model = ARTV(preset("tiny")).eval().requires_grad_(False)
    _fill_zeros(model)
    return model


def smallest_config(num_res_blocks: int = 1, attention_levels: tuple[int, ...] = (0,)) -> ARTVConfig:
    """`tiny` with networks of one level and one block."""
    config, networks = preset("tiny"), {}
    for name in ("noise", "mask"):
        network = getattr(config, name)
        sizes = {"model_channels": 32, "head_channels": 16, "channel_mult": (1,), "num_res_blocks": num_res_blocks}
        unet = replace(network.unet, **sizes, attention_levels=attention_levels, norm_groups=8)
        networks[name] = replace(network, unet=unet)
    return replace(config, **networks)


def smallest(text: bool = True, num_res_blocks: int = 1, **changes: Any) -> ARTV:
    """As `untrained`, of one level and one block: quick to compile. `changes` are of its configuration."""
    torch.manual_seed(0)
    model = ARTV(replace(smallest_config(num_res_blocks), **changes), text=text).eval().requires_grad_(False)
    _fill_zeros(model)
    return model


def quickest(text: bool = False) -> ARTV:
    """As `smallest`, without blocks on the way in, as no file may have it, and with attention in the middle alone: each
    kind of layer is there, and is compiled in half the time."""
    torch.manual_seed(0)
    model = ARTV(smallest_config(num_res_blocks=0, attention_levels=()), text=text).eval().requires_grad_(False)
    _fill_zeros(model)
    return model


def frames_of(
    model: ARTV, text: TextTrack, options: GenerateOptions, given: Iterable[Tensor] = (), **request: Any
) -> Iterator[Frame]:
    """As `generate_frames`, with options that are not resolved yet."""
    return generate_frames(model, VideoRequest(text, options.resolved(model.config), **request), given)


def _fill_zeros(model: ARTV) -> None:
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    if model.text is not None:
        model.update_null_context()


def write_public_base(path: Path, config: ARTVConfig) -> None:
    """A file in the layout of a public Stable Diffusion 2.x checkpoint, float16, with random weights of usual sizes."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in ARTV(config, mask=False).named_parameters()}
    generator = torch.Generator().manual_seed(0)
    held = [name for name in shapes if part_of_weight(name) in ("unet", "vae", "text")]
    save_file({file_key(name): _random_weight(name, shapes[name], generator) for name in held}, path)


def _random_weight(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if len(shape) < 2:
        return (torch.ones if name.endswith("weight") else torch.zeros)(shape, dtype=torch.float16)
    fan_in = 2500 if "embedding" in name else shape[1:].numel()
    return (torch.randn(shape, generator=generator) * fan_in**-0.5).half()


def quick_options(num_frames: int = 6, **changes) -> GenerateOptions:
    """Options of a small video that is made in no time."""
    quick = {"height": 32, "width": 32, "steps": 1, "sampler": "euler_ancestral", "seed": 5}
    return GenerateOptions(num_frames=num_frames, **quick | changes)
