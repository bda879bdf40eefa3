"""The shipped workflows run (with `tiny` in place of `small`, which takes twice as long), the browser's files say the
same as the API's, and all prompts are in words of the checkpoint that the loader names."""

import re
from itertools import pairwise
from typing import Any

import av
import numpy as np
import pytest

from artv_core.checkpoint import default_name, describe_checkpoint, shipped_checkpoint
from artv_core.commands import demo_comfyui
from artv_core.commands.comfyui_server import Server
from artv_core.models.known_words import unknown_words

from . import workflow_format
from .graphs import shortened

# Those of the demo are run by test_demo.py, and checked for the same.
ELSEWHERE = {*workflow_format.NEEDS_A_FILE, *demo_comfyui.WORKFLOWS}
RUNNABLE = [name for name in workflow_format.names() if name not in ELSEWHERE]
STEPS = 2
"""Fewer than the templates take, for time."""
SHORTER = 3
"""By this factor for the template that makes four videos."""


def read_frames(path: Any) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", RUNNABLE)
def test_workflow_runs(server: Server, checkpoint: str, name: str) -> None:
    graph = workflow_format.with_tiny(workflow_format.read_api(name), checkpoint)
    if name == "compare_anchor_mask_noise":
        graph = shortened(graph, SHORTER)
    for part in graph.values():
        if "steps" in part["inputs"]:
            part["inputs"]["steps"] = STEPS
    result = server.run(graph)
    assert result.status == "success", result.error
    samplers = {key: part for key, part in graph.items() if part["class_type"] == "ARTVMaskedDiffusionSampler"}
    videos = {
        key: samplers[part["inputs"]["latent"][0]]
        for key, part in graph.items()
        if "format" in part["inputs"] and "latent" in part["inputs"]
    }
    videos |= {key: sampler for key, sampler in samplers.items() if "stream" in sampler["inputs"]}
    assert videos
    for key, sampler in videos.items():
        frames = read_frames(server.output_file(result.outputs[key]["images"][0]))
        assert len(frames) == sampler["inputs"]["frames"]
        assert frames[0].shape == (256, 256, 3)
        motion = np.mean([np.abs(b.astype(int) - a.astype(int)).mean() for a, b in pairwise(frames)])
        assert motion > 0.5 or "shipped" not in checkpoint, f"{name}: nothing moves in the video of node {key}"


def test_sdxl_workflow_is_valid_but_for_its_checkpoint(server: Server) -> None:
    result = server.run(workflow_format.with_tiny(workflow_format.read_api("sdxl_image_to_video"), "test.safetensors"))
    assert result.status == "refused"
    faults = [error for node in result.error["node_errors"].values() for error in node["errors"]]
    assert [fault["type"] for fault in faults] == ["value_not_in_list"]
    assert "sd_xl_base_1.0.safetensors" in faults[0]["details"]


def test_sdxl_workflow_runs_on_a_generated_image(server: Server) -> None:
    graph = workflow_format.with_tiny(workflow_format.read_api("sdxl_image_to_video"), "test.safetensors")
    graph = workflow_format.without_sdxl(graph)
    graph["3"]["inputs"] |= {"frames": 3, "steps": 2}
    result = server.run(graph)
    assert result.status == "success", result.error
    assert len(read_frames(server.output_file(result.outputs["4"]["images"][0]))) == 3


@pytest.mark.parametrize("name", workflow_format.names())
def test_prompts_are_in_words_of_their_checkpoint(name: str) -> None:
    graph = workflow_format.read_api(name)
    (loader,) = [key for key, part in graph.items() if part["class_type"] == "ARTVLoader"]
    checkpoint = graph[loader]["inputs"]["checkpoint"].removesuffix(" (shipped)")
    assert checkpoint == default_name()
    texts = [part["inputs"]["text"] for part in graph.values() if part["inputs"].get("clip") == [loader, 1]]
    prompts = [prompt for text in texts for prompt in re.findall(r'(?:^|": ")([^"]+)', text)]
    assert prompts
    assert all(re.fullmatch(workflow_format.CAPTION, prompt) for prompt in prompts)
    assert unknown_words(prompts, describe_checkpoint(shipped_checkpoint(checkpoint)).config.vocabulary) == []
    for part in workflow_format.with_tiny(graph).values():
        if part["inputs"].get("clip") == [loader, 1]:
            shapes = describe_checkpoint(shipped_checkpoint("tiny")).config.vocabulary
            assert not unknown_words([re.sub(r'"\d+":', "", part["inputs"]["text"])], shapes)


@pytest.mark.parametrize("name", workflow_format.names())
def test_both_formats_describe_one_graph(server: Server, name: str) -> None:
    expected = {
        key: {"class_type": part["class_type"], "inputs": part["inputs"]}
        for key, part in workflow_format.read_api(name).items()
    }
    assert workflow_format.api_from_ui(workflow_format.read_ui(name), server.get("/object_info")) == expected


@pytest.mark.parametrize("name", workflow_format.names())
def test_workflow_has_a_note_and_fixed_seeds(name: str) -> None:
    workflow = workflow_format.read_ui(name)
    notes = " ".join(
        node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == workflow_format.NOTE_TYPE
    )
    assert notes
    assert ("only template that needs another file" in notes) == (name in workflow_format.NEEDS_A_FILE)
    assert "randomize" not in str([node.get("widgets_values") for node in workflow["nodes"]])
