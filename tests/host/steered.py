"""Runs in a real ComfyUI that are steered over HTTP while they go on."""

import itertools
import json
import urllib.error
from collections.abc import Callable
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from artv_core.commands.comfyui_server import Graph, Result, Server

from .graphs import node, text_to_video

FRAMES = 10
SEEDS = itertools.count(9000)
FIRST, THEN = "a red circle moving right", "a blue square moving up"


def graph(text: str = f'"0": "{FIRST}"', slow: float = 0.05, blend: int = 0, redo: str = "", **sampler: Any) -> Graph:
    """loader, scheduler, a model that takes its time, sampler, save."""
    around = {"pre_text": "", "app_text": "on a green background"}
    made = text_to_video(**{"frames": FRAMES, "seed": next(SEEDS)} | sampler)
    made["text"] = node(
        "ARTVMultiPromptScheduler", clip=["loader", 1], text=text, blend_frames=blend, fps=8.0, num_frames=0,
        segment_frames=16, **around,
    )  # fmt: skip
    made["slow"] = node("ARTVTestSlow", model=["loader", 0], seconds=slow)
    made["sample"]["inputs"]["model"] = ["slow", 0]
    if redo:
        made["journal"] = node("ARTVJournalSettings", mode="off", start_over=False, redo=redo)
        made["sample"]["inputs"]["journal"] = ["journal", 0]
    return made


class Driver:
    """Steers a run: each (number of frames there must be, what is asked), in order, each once. `answers` and `problems`
    are what the server said."""

    def __init__(self, server: Server, *asked: tuple[int, dict[str, Any]]) -> None:
        self.server, self.asked = server, list(asked)
        self.answers: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.at: list[int] = []

    def __call__(self, result: Result) -> None:
        while self.asked and result.live and result.live[-1]["done"] >= self.asked[0][0]:
            question = {"run": result.live[-1]["run"]} | self.asked.pop(0)[1]
            self.at.append(result.live[-1]["done"])
            told = steer(self.server, question)
            (self.problems if isinstance(told, str) else self.answers).append(told)  # type: ignore[arg-type]


def steer(server: Server, question: dict[str, Any]) -> dict[str, Any] | str:
    """The answer, or the line that refuses."""
    try:
        return server.post("/artv/steer", question)
    except urllib.error.HTTPError as refusal:
        return json.load(refusal)["error"]


def made(
    server: Server, graph: Graph, on_progress: Callable[[Result], None] | None = None, **queued: Any
) -> tuple[Tensor, Result]:
    result = server.run(graph, on_progress, watch=True, **queued)
    assert result.status == "success", result.message
    return load_file(server.output_file(result.outputs["save"]["latents"][0]))["latent_tensor"], result
