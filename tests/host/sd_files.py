"""Small files of Stable Diffusion's kind with random weights, which every ComfyUI takes for the real ones, and an ARTV
adapter file and LoRA files for them.

ComfyUI tells the families by the width of the text and of the UNet's first level (320). So these have the real widths,
but few blocks. The text encoder and the VAE have the real sizes, because ComfyUI builds no others.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from artv_core.checkpoint import save_checkpoint
from artv_core.config import ARTVConfig, preset
from artv_core.models.artv import ARTV, build_vae
from artv_core.models.lora import add_lora
from artv_core.models.unet import UNet
from tests.models import _random_weight

UNET = "model.diffusion_model."
ADAPTER, BASE = "adapter.safetensors", "sd1.safetensors"
LORAS = ("first.safetensors", "second.safetensors")


def sd1_config(prediction: str = "eps") -> ARTVConfig:
    """SD 1.5's, with two levels of one block each, and a small mask network."""
    return _small(preset("sd15"), prediction)


def sd2_config() -> ARTVConfig:
    """SD 2.1's, made small in the same way. ComfyUI takes such a small one for one that predicts noise."""
    return _small(preset("sd21"), "eps")


def _small(config: ARTVConfig, prediction: str) -> ARTVConfig:
    small = {"channel_mult": (1, 1), "num_res_blocks": 1, "attention_levels": (0,)}
    assert config.mask is not None
    return replace(
        config,
        noise=replace(config.noise, unet=replace(config.noise.unet, **small)),
        mask=replace(config.mask, unet=replace(config.mask.unet, model_channels=64, norm_groups=8, **small)),
        size=(32, 32),
        schedule=replace(config.schedule, prediction=prediction),
        name=f"small {config.name}",
    )


def write_sd1(path: Path) -> None:
    """A file of SD 1.5's kind, float16."""
    with torch.device("meta"):
        shapes = {UNET + key: tensor.shape for key, tensor in UNet(sd1_config().noise.unet).state_dict().items()}
        shapes |= {f"first_stage_model.{key}": tensor.shape for key, tensor in _vae().items()}
        shapes |= {f"cond_stage_model.transformer.{key}": tensor.shape for key, tensor in _clip().items()}
    generator = torch.Generator().manual_seed(0)
    save_file({key: _random_weight(key, shape, generator) for key, shape in shapes.items()}, path)


def _vae() -> dict[str, Tensor]:
    return build_vae(sd1_config().vae).state_dict()


def _clip() -> dict[str, Tensor]:
    """Stable Diffusion 1.x's text encoder, by its keys there."""
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    tensors = CLIPTextModel(CLIPTextConfig(vocab_size=49408, **sizes)).state_dict()
    return {f"text_model.{key.removeprefix('text_model.')}": value for key, value in tensors.items()}


def write_adapter(path: Path, config: ARTVConfig | None = None, with_unet: bool = False, lora_rank: int = 0) -> None:
    """An ARTV file for `write_sd1`, float16, whose every layer has an effect. `with_unet`: it has a UNet of its own.
    `lora_rank`: it has low-rank changes of the UNet."""
    parts = ("unet",) * with_unet + ("lora",) * bool(lora_rank) + ("branches", "mask")
    torch.manual_seed(1)
    model = ARTV(config or sd1_config(), vae=False, text=False)
    if lora_rank:
        add_lora(model.noise.diffusion_model, lora_rank)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    torch.nn.init.normal_(model.null_context)
    save_checkpoint(model, path, parts=parts, dtype=torch.float16, base=BASE)


def write_lora(path: Path, seed: int) -> None:
    """A LoRA of Stable Diffusion 1.x as kohya writes it: linear layers, kernels and the text encoder."""
    torch.manual_seed(seed)
    block, width = "mid_block_attentions_0_transformer_blocks_0", 320
    tensors = {
        **_pair(f"lora_unet_{block}_attn1_to_q", (width,), (width,)),
        **_pair(f"lora_unet_{block}_attn2_to_v", (width,), (768,)),
        **_pair("lora_unet_mid_block_attentions_0_proj_in", (width,), (width, 1, 1)),
        **_pair("lora_unet_down_blocks_0_resnets_0_conv1", (width,), (width, 3, 3)),
        **_pair("lora_te_text_model_encoder_layers_3_mlp_fc1", (3072,), (768,)),
    }
    save_file(tensors, path)


def _pair(name: str, rows: tuple[int, ...], columns: tuple[int, ...], rank: int = 4) -> dict[str, Tensor]:
    ones = (1,) * (len(columns) - 1)
    return {
        f"{name}.lora_up.weight": (torch.randn(*rows, rank, *ones) * 0.2).half(),
        f"{name}.lora_down.weight": (torch.randn(rank, *columns) * 0.2).half(),
        f"{name}.alpha": torch.tensor(2.0),
    }


def write_unet_alone(path: Path, kind: str) -> None:
    """A file of zeros with a UNet that ComfyUI takes for one of that kind, with few blocks: "inpainting", "sd2", "wide"
    (SD 1.x with a wider second level), or "sdxl" (Segmind's small one)."""
    unet = replace(sd1_config().noise.unet, **_KINDS[kind])
    with torch.device("meta"):
        shapes = {UNET + key: tensor.shape for key, tensor in UNet(unet).state_dict().items()}
    if kind == "sdxl":
        shapes = {key: shape for key, shape in shapes.items() if not _SECOND_BLOCK.match(key)}
        for layer, width in ((0, 2816), (2, 1280)):
            shapes[f"{UNET}label_emb.0.{layer}.weight"] = torch.Size((1280, width))
            shapes[f"{UNET}label_emb.0.{layer}.bias"] = torch.Size((1280,))
    save_file({key: torch.zeros(shape, dtype=torch.float16) for key, shape in shapes.items()}, path)


_SD2 = {"linear_projections": True, "num_heads": 0}
_KINDS: dict[str, dict[str, Any]] = {
    "inpainting": {"in_channels": 9},
    "wide": {"channel_mult": (1, 2)},
    "sd2": {"context_dim": 1024, **_SD2},
    "sdxl": {
        "context_dim": 2048,
        "channel_mult": (1, 1, 1),
        "num_res_blocks": 2,
        "attention_levels": (1, 2),
        "transformer_depth": 2,
        **_SD2,
    },
}
_SECOND_BLOCK = re.compile(rf"{re.escape(UNET)}input_blocks\.[45]\.1\.transformer_blocks\.1\.")
