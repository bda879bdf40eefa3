"""What the host is told of a prompt before it runs: faults that widgets show by themselves, at their node."""

from typing import Any

import pytest

from artv_core.commands.comfyui_server import Graph, Server

from .graphs import node, text_to_video
from .test_nodes import scheduled


def with_part(name: str, kind: str, **inputs: Any) -> Graph:
    """A graph whose sampler takes its `name` from one more node, called "part"."""
    return text_to_video(**{name: ["part", 0]}) | {"part": node(kind, **inputs)}


def noise(**levels: str) -> Graph:
    return with_part(
        "noise_augment", "ARTVNoiseAugment", **{"reference_level": "auto", "anchor_level": "auto"} | levels
    )


def lasting(frames: str) -> Graph:
    graph = scheduled("0: a fox")
    graph["schedule"]["inputs"]["num_frames"] = frames
    return graph


def returning(reach: float) -> Graph:
    settings = {"policy": "first frame", "strength": 1.0, "window": 10, "return_to_anchor": reach}
    return with_part("anchor", "ARTVAnchorFrame", **settings)


def redo(text: str) -> Graph:
    return with_part("journal", "ARTVJournalSettings", mode="off", start_over=False, redo=text)


def guided(start: float, end: float) -> Graph:
    settings = {"reuse_every": 2, "reuse_blocks": 1, "guidance_from": start, "guidance_to": end}
    return with_part("shortcuts", "ARTVShortcutSettings", **settings)


REFUSED = {
    "width": (text_to_video(width=60), "sample", "width is 60; accepted are multiples of 8 up to 16384, such as 64"),
    "height": (text_to_video(height=68), "sample", "height is 68; accepted are multiples of 8 up to 16384, such as 64"),
    "side too long": (text_to_video(width=16_392), "sample", "width is 16392; give 16384 at most, or auto"),
    "half a step": (text_to_video(steps="2.5"), "sample", "steps is 2.5; give a whole number, or auto for what the"),
    "no number": (text_to_video(cfg="much"), "sample", "cfg is 'much'; give a number, or auto for what the checkpoint"),
    "too large": (text_to_video(cfg_anchor=101), "sample", "cfg_anchor is 101; give 100 at most, or auto"),
    "noise level": (noise(anchor_level="some"), "part", "anchor_level is 'some'; give a number, or auto"),
    "return to the anchor": (returning(1.5), "part", "return_to_anchor is 1.5; give 1 at most, or auto"),
    "length": (lasting("x"), "schedule", "num_frames is 'x'; give a number, or auto for"),
    "empty schedule": (scheduled(" "), "schedule", "contains no prompt"),
    "schedule that begins late": (scheduled("3: a fox"), "schedule", "it must start at frame 0"),
    "noise levels": (noise(anchor_levels="0: much"), "part", "anchor_levels contains 'much'; give a frame and a whole"),
    "late noise levels": (noise(reference_levels="8: 20"), "part", "each line, ascending from frame 0, as in '0:"),
    "redo": (redo("12"), "part", "redo has '12'; give a frame and a seed, as in 120: 7"),
    "redo from the start": (redo("0: 7"), "part", "redo names frames [0]; accepted are frames from 1 on"),
    "guidance": (
        guided(0.8, 0.2),
        "part",
        "guidance_from is 0.8 and guidance_to 0.2; set guidance_from to 0.2 or less",
    ),
}


@pytest.mark.parametrize(("graph", "faulty", "message"), REFUSED.values(), ids=REFUSED)
def test_what_widgets_show_is_refused_at_their_node_in_one_line(
    server: Server, graph: Graph, faulty: str, message: str
) -> None:
    result = server.run(graph)
    assert result.status == "refused", result
    told = result.error["node_errors"]
    assert list(told) == [faulty]
    assert {error["type"] for error in told[faulty]["errors"]} == {"custom_validation_failed"}
    for error in told[faulty]["errors"]:
        assert message in error["details"]
        assert len(error["details"].splitlines()) == 1


WIRED: dict[str, tuple[Graph, str]] = {
    "height": (
        text_to_video(height=["number", 0]) | {"number": node("PrimitiveInt", value=68)},
        "height is 68; accepted are multiples of 8 up to 16384, such as 64",
    ),
    "schedule": (scheduled(["words", 0]) | {"words": node("PrimitiveString", value=" ")}, "contains no prompt"),
}


@pytest.mark.parametrize(("graph", "message"), WIRED.values(), ids=WIRED)
def test_what_a_wire_brings_is_checked_in_the_same_words_when_it_is_there(
    server: Server, graph: Graph, message: str
) -> None:
    result = server.run(graph)
    assert result.status == "error", result
    assert message in result.message


def test_what_is_left_to_the_checkpoint_is_accepted(server: Server) -> None:
    graph = noise(reference_levels="0: 20\n2: 60", anchor_levels=" ")
    assert server.run(graph).status == "success"
    assert server.run(redo("1: 7")).status == "success"
    assert server.run(guided(0.2, 0.2)).status == "success"
