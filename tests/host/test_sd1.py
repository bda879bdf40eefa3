"""A model of Stable Diffusion 1.x's structure in a real ComfyUI, its UNet and text encoder from a public-like base."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from artv_core.checkpoint import save_checkpoint
from artv_core.commands.comfyui_server import Server
from artv_core.config import ARTVConfig, preset
from artv_core.method.options import GenerateOptions
from artv_core.models.artv import ARTV
from artv_core.models.unet import UNet
from artv_core.run.pipeline import Pipeline

from .graphs import STEPS, Graph, text_to_video

PROMPT = "a red circle moving right"


def small_config() -> ARTVConfig:
    tiny = preset("tiny")
    unet = replace(tiny.noise.unet, num_heads=4, linear_projections=False)
    text = replace(tiny.text, activation="quick_gelu", pad_with_end=True)
    return replace(tiny, noise=replace(tiny.noise, unet=unet), text=text)


@pytest.fixture(scope="module")
def model() -> ARTV:
    torch.manual_seed(0)
    model = ARTV(small_config())
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return model


@pytest.fixture(scope="module")
def graph(server: Server, model: ARTV) -> Graph:
    """text_to_video with a file of what was trained and a base with SD 1.x's keys."""
    from transformers import CLIPTextConfig, CLIPTextModel  # seconds, which runs without a host do not need

    models = server.base / "models"
    trained = models / "artv" / "sd1.safetensors"
    save_checkpoint(model, trained, parts=("branches", "mask", "vae"), base="v1.safetensors")
    unet = model.noise.diffusion_model.state_dict()
    tensors = {f"model.diffusion_model.{key}": unet[key] for key in UNet(model.config.noise.unet).state_dict()}
    text = model.config.text
    encoder = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=text.width,
            intermediate_size=4 * text.width,
            num_hidden_layers=text.layers,
            num_attention_heads=text.heads,
            max_position_embeddings=text.context_length,
            vocab_size=49408,
        )
    )
    for key, tensor in encoder.state_dict().items():
        tensors[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = tensor
    tensors = {key: tensor.half() for key, tensor in tensors.items()}
    positions = torch.arange(text.context_length)[None]
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = positions
    save_file(tensors, models / "checkpoints" / "v1.safetensors")
    graph = text_to_video(PROMPT, checkpoint="sd1.safetensors")
    graph["loader"]["inputs"]["base"] = "v1.safetensors"
    return graph


def test_frames_equal_the_cores(server: Server, graph: Graph) -> None:
    result = server.run(graph)
    assert result.status == "success", result.message
    assert "v1.safetensors seems to predict eps (judged by its weights), the configuration says v" in server.log_text()
    files = sorted((server.base / "output" / "latents").glob("*.latent"), key=lambda path: path.stat().st_mtime_ns)
    saved = load_file(files[-1])["latent_tensor"]
    models = server.base / "models"
    core = Pipeline.from_checkpoint(models / "artv" / "sd1.safetensors", base=models / "checkpoints" / "v1.safetensors")
    settings = GenerateOptions(num_frames=3, seed=7, steps=STEPS)

    def frames(prompt: str) -> torch.Tensor:
        return torch.cat([frame.latent for frame in core.frames(prompt, settings)])

    assert (saved - frames(PROMPT)).abs().max() < 1e-4
    assert (saved - frames("a blue star")).abs().max() > 1e-3


def test_a_base_of_the_other_family_is_one_clear_sentence(server: Server, graph: Graph) -> None:
    key = "model.diffusion_model.input_blocks.0.0.weight"
    save_file({key: torch.zeros(1)}, server.base / "models" / "checkpoints" / "v2.safetensors")
    wrong = graph | {"loader": {**graph["loader"], "inputs": {**graph["loader"]["inputs"], "base": "v2.safetensors"}}}
    result = server.run(wrong)
    assert result.status == "error"
    assert "v2.safetensors is a Stable Diffusion 2.x checkpoint; " in result.message
    assert "needs a Stable Diffusion 1.x checkpoint as its base" in result.message
