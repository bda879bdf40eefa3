"""ARTV Sampling Options: only what is set there changes the frames."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from artv_core.commands.comfyui_server import Graph, Host, Server

from .conftest import InProcess, checkpoint_in, save_random_model
from .graphs import node, text_to_video
from .releases import made

GUIDED = {"frames": 4, "cfg": 3.0, "cfg_first_frame": 1.5, "sampler_name": "euler_ancestral"}
DEFAULTS = {
    "cfg_by_frame": "",
    "eta": "auto",
    "s_noise": 1.0,
    "mix_mode": "after guidance",
    "first_frame_steps": "auto",
}


def with_options(graph: Graph | None = None, **options: Any) -> Graph:
    graph = graph or text_to_video(**GUIDED)
    graph["sample"]["inputs"]["options"] = ["options", 0]
    return graph | {"options": node("ARTVSamplingOptions", **DEFAULTS | options)}


def two_prompts() -> Graph:
    """Frames 0 and 1 have one prompt, frames 2 and 3 another."""
    scheduled = {"pre_text": "", "app_text": "", "blend_frames": 0, "fps": 8.0, "num_frames": "auto"}
    text = '"0": "a red circle moving right", "2": "a red circle moving up"'
    graph = text_to_video(**GUIDED | {"positive": ["prompts", 0]})
    kind = "ARTVMultiPromptScheduler"
    return graph | {"prompts": node(kind, clip=["loader", 1], text=text, segment_frames=16, **scheduled)}


@pytest.fixture(scope="module")
def plain(server: Server) -> dict[str, str]:
    return made(server, text_to_video(**GUIDED))


def test_as_it_comes_it_changes_nothing(server: Server, plain: dict[str, str]) -> None:
    assert made(server, with_options()) == plain


@pytest.mark.parametrize(
    "changed",
    [
        {"eta": 0},
        {"eta": "0.5"},
        {"s_noise": 0.5},
        {"mix_mode": "every branch"},
        {"cfg_by_frame": "0: 3\n3: 5"},
        {"first_frame_steps": 3},
    ],
    ids=str,
)
def test_each_setting_changes_the_frames(server: Server, plain: dict[str, str], changed: dict[str, Any]) -> None:
    assert made(server, with_options(**changed)) != plain


def test_a_graph_of_an_earlier_release_lacks_the_steps_of_the_first_frame(
    server: Server, plain: dict[str, str]
) -> None:
    graph = with_options()
    del graph["options"]["inputs"]["first_frame_steps"]
    assert made(server, graph) == plain


def test_the_first_frame_alone_gets_its_steps(server: Server) -> None:
    """Its latent is that of a video in which all frames have as many."""
    few, more = ({"frames": 2, "seed": 3, "steps": steps} for steps in (1, 3))
    own = with_options(text_to_video(**few), first_frame_steps="3")
    frames, all_more, all_few = (
        latents_of(server, graph) for graph in (own, text_to_video(**more), text_to_video(**few))
    )
    assert torch.equal(frames[0], all_more[0])
    assert not torch.equal(frames[0], all_few[0])
    assert not torch.equal(frames[1], all_more[1])


def latents_of(server: Server, graph: Graph) -> torch.Tensor:
    result = server.run(graph)
    assert result.status == "success", result.message
    return load_file(server.output_file(result.outputs["save"]["latents"][0]))["latent_tensor"]


def test_guidance_by_frame_takes_the_place_of_cfg(server: Server, plain: dict[str, str]) -> None:
    graph = with_options(cfg_by_frame="0: 3")
    graph["sample"]["inputs"]["cfg"] = 1
    assert made(server, graph) == plain


def test_a_number_for_each_prompt_counts_from_where_the_prompt_starts(server: Server) -> None:
    by_prompt = made(server, with_options(two_prompts(), cfg_by_frame="3\n5"))
    assert by_prompt == made(server, with_options(two_prompts(), cfg_by_frame="0: 3\n2: 5"))
    assert by_prompt != made(server, two_prompts())


def test_as_many_numbers_as_prompts_are_needed(server: Server) -> None:
    result = server.run(with_options(two_prompts(), cfg_by_frame="3\n5\n7"))
    assert result.status == "error"
    assert result.message.startswith(
        "cfg_by_frame has 3 numbers without frames, and there are 2 prompts; give a number"
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"eta": "lots"}, "eta is 'lots'; give a number, or auto for what the checkpoint recommends"),
        ({"cfg_by_frame": "0: 3\n24: much"}, "cfg_by_frame contains 'much'; give a frame and a number on each line"),
        ({"cfg_by_frame": "8: 3"}, "give a frame and a number on each line, ascending from frame 0, as in '0: 7.5'"),
        ({"first_frame_steps": 2000}, "first_frame_steps is 2000; give 1000 at most, or auto"),
    ],
)
def test_faults_are_told_at_the_node_before_anything_runs(
    server: Server, changed: dict[str, Any], message: str
) -> None:
    result = server.run(with_options(**changed))
    assert result.status == "refused"
    assert list(result.error["node_errors"]) == ["options"]
    for error in result.error["node_errors"]["options"]["errors"]:
        assert message in error["details"]


def test_an_anchor_of_strength_0_is_none_and_cfg_0_is_not(in_process: InProcess, host: Host, tmp_path: Path) -> None:
    save_random_model(checkpoint_in(tmp_path))
    found = in_process(host, "no_anchor", tmp_path)
    assert found["strength 0"] == 0
    assert found["cfg 0"] > 1e-3
    assert found["cfg 0, strength 2"] == 0, "graphs with cfg_anchor 0 make what they made"
