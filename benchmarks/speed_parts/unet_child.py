"""`unet_child.py WAY FORMAT HOST`: one UNet; for each line it reads, a forward pass, whose thread seconds it prints."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
BATCH, SIDE, TOKENS, WIDTH = 4, 32, 77, 1024


def main() -> None:
    way, format_, host = sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(BATCH, 4, SIDE, SIDE).bfloat16()
    context = torch.randn(BATCH, TOKENS, WIDTH).bfloat16()
    last = format_ == "channels_last"
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    with torch.inference_mode():
        run = MAKERS[way.partition(",")[0]](way, last, x, torch.full((BATCH,), 500.0), context, host)
        run()
        print("ready", flush=True)
        for _ in sys.stdin:
            started = time.thread_time()
            run()
            print(time.thread_time() - started, flush=True)


def ours(way: str, last: bool, x: Tensor, t: Tensor, context: Tensor, host: str) -> Callable[[], Any]:
    sys.path.insert(0, str(ROOT))
    from artv_core.config import preset
    from artv_core.models.unet import UNet
    from artv_core.speed.packed_weights import pack_weights

    with torch.device("meta"):
        unet = UNet(preset("sd21").noise.unet)
    unet = ready(unet, last)
    if "not packed" not in way:
        pack_weights(unet)
    if "each time" in way:
        return lambda: unet(x, t, unet.project_tokens(context))
    tokens = unet.project_tokens(context)
    return lambda: unet(x, t, tokens)


def diffusers(way: str, last: bool, x: Tensor, t: Tensor, context: Tensor, host: str) -> Callable[[], Any]:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            attention_head_dim=[5, 10, 20, 20],
            cross_attention_dim=WIDTH,
            use_linear_projection=True,
        )
    unet = ready(unet, last)
    return lambda: unet(x, t, context).sample


def comfyui(way: str, last: bool, x: Tensor, t: Tensor, context: Tensor, host: str) -> Callable[[], Any]:
    # Its usual attention on a CPU is a slower one.
    sys.argv = [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
    sys.path.insert(0, host)
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    with torch.device("meta"):
        unet = UNetModel(
            image_size=SIDE,
            in_channels=4,
            out_channels=4,
            model_channels=320,
            num_res_blocks=[2, 2, 2, 2],
            channel_mult=(1, 2, 4, 4),
            num_head_channels=64,
            use_spatial_transformer=True,
            use_linear_in_transformer=True,
            context_dim=WIDTH,
            transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
            transformer_depth_middle=1,
            transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            dtype=torch.bfloat16,
            operations=comfy.ops.disable_weight_init,
        )
    unet = ready(unet, last)
    return lambda: unet(x, t, context)


MAKERS = {"ours": ours, "diffusers": diffusers, "ComfyUI": comfyui}


def ready(unet: nn.Module, last: bool) -> nn.Module:
    """With weights of usual sizes, in bfloat16."""
    unet = unet.to(torch.bfloat16).to_empty(device="cpu").eval()
    for name, parameter in unet.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 0.02)
        else:
            parameter.fill_(float("norm" in name and name.endswith("weight")))
    count = sum(parameter.numel() for parameter in unet.parameters())
    assert count == 865_910_724, count
    return unet.to(memory_format=torch.channels_last) if last else unet


if __name__ == "__main__":
    main()
