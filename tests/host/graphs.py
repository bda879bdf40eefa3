"""API-format prompts for the tests, built up from parts."""

import copy
import re
from typing import Any

from artv_core.commands.comfyui_server import Graph

STEPS = 2
SAMPLER_DEFAULTS: dict[str, Any] = {
    "frames": 3,
    "width": 0,
    "height": 0,
    "seed": 7,
    "videos": 1,
    "steps": STEPS,
    "cfg": -1.0,
    "cfg_references": -1.0,
    "cfg_anchor": -1.0,
    "cfg_first_frame": -1.0,
    "sampler_name": "recommended",
    "scheduler": "uniform",
    "use_mask": True,
}


def shortened(graph: Graph, times: int) -> Graph:
    """The same graph with shorter videos: a frame, also one at which a prompt starts, for each `times` frames."""
    graph = copy.deepcopy(graph)
    for part in graph.values():
        inputs = part["inputs"]
        for name in ("frames", "num_frames"):
            if isinstance(inputs.get(name), int):
                inputs[name] = inputs[name] // times or min(1, inputs[name])
        if part["class_type"] == "ARTVMultiPromptScheduler":
            inputs["text"] = re.sub(
                r'^"(\d+)":', lambda start: f'"{int(start[1]) // times}":', inputs["text"], flags=re.M
            )
    return graph


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def text_to_video(prompt: str = "a red circle moving right", checkpoint: str = "test.safetensors", **sampler) -> Graph:
    """loader, text, sample, save (the latents, as the host's SaveLatent does)."""
    wires = {"model": ["loader", 0], "positive": ["text", 0]}
    return {
        "loader": node("ARTVLoader", checkpoint=checkpoint, base="none"),
        "text": node("CLIPTextEncode", clip=["loader", 1], text=prompt),
        "sample": node("ARTVMaskedDiffusionSampler", **SAMPLER_DEFAULTS | wires | sampler),
        "save": node("SaveLatent", samples=["sample", 0], filename_prefix="latents/test"),
    }


def with_video(graph: Graph, upscale: int = 1) -> Graph:
    """The same, decoded to a file instead of saved as latents."""
    return {name: part for name, part in graph.items() if name != "save"} | {
        "video": node(
            "ARTVDecodeVideo",
            latent=["sample", 0],
            vae=["loader", 2],
            fps=8.0,
            filename_prefix="video/test",
            format="mp4",
            upscale=upscale,
        )
    }
