"""Workflows of earlier releases: they still run, mean the same, and give the frames of the same graph with "auto".

`compare_releases` compares their frames with those of the pack as it was.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from artv_core.commands.comfyui_server import Graph, Host, Server

from . import browser, releases
from .conftest import InProcess
from .graphs import STEPS
from .releases import SAMPLER, SHORTER, Shipped

SHIPPED = releases.shipped()
WITH_API = [one for one in SHIPPED if one.api]
SHORT = ("text_to_video", "image_to_video")
"""Of the others it is only seen that they run, so they have fewer steps."""
ZERO_IS_AUTO, NEGATIVE_IS_AUTO = (
    ("width", "height", "steps"),
    ("cfg", "cfg_references", "cfg_anchor", "cfg_first_frame"),
)


def automatic(graph: Graph) -> Graph:
    """The same graph with "auto" where it has the numbers that stood for it."""
    graph = copy.deepcopy(graph)
    for part in graph.values():
        if part["class_type"] == SAMPLER:
            inputs = part["inputs"]
            inputs |= {name: "auto" for name in ZERO_IS_AUTO if inputs[name] == 0}
            inputs |= {name: "auto" for name in NEGATIVE_IS_AUTO if inputs[name] == -1}
    return graph


def known(options: dict[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    """The options that the earlier release knew."""
    return {name: options[name] for name in recorded}


def test_every_release_is_here() -> None:
    assert len(WITH_API) >= 28
    assert len([one for one in SHIPPED if one.ui]) >= 33
    assert all(
        set(one.options) == {key for key, part in one.api.items() if part["class_type"] == SAMPLER} for one in WITH_API
    )


def test_options_are_those_that_the_releases_gave(in_process: InProcess, host: Host, tmp_path: Path) -> None:
    (tmp_path / "graphs.json").write_text(
        json.dumps({one.name: {"old": one.api, "new": automatic(one.api)} for one in WITH_API})
    )
    found = in_process(host, "options_of", tmp_path)
    for one in WITH_API:
        for graph, samplers in found[one.name].items():
            got = {key: known(options, one.options[key]) for key, options in samplers.items()}
            assert got == one.options, (one.name, graph)


@pytest.mark.parametrize("one", WITH_API, ids=[one.name for one in WITH_API])
def test_it_runs_and_short_ones_give_the_frames_of_auto(server: Server, checkpoint: str, one: Shipped) -> None:
    if checkpoint != "tiny (shipped)":
        pytest.skip("the workflows name the shipped checkpoint")
    releases.write_start(server)
    graph, is_short = releases.runnable(one.api, SHORTER), one.name.endswith(SHORT)
    for part in graph.values():
        if part["class_type"] == SAMPLER and not is_short:
            part["inputs"]["steps"] = STEPS
    frames = releases.made(server, graph)
    assert set(frames) == set(one.options)
    if is_short:
        assert releases.made(server, releases.runnable(automatic(one.api), SHORTER)) == frames


@pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())
def test_the_page_opens_them_and_queues_what_they_meant(
    server: Server, in_process: InProcess, host: Host, tmp_path: Path
) -> None:
    exported: dict[str, dict[str, Graph]] = {}
    expected: dict[str, dict[str, Any]] = {}
    latest: dict[str, dict[str, Any]] = {}
    with browser.open_browser() as context:
        page = browser.open_page(context, server)
        for one in SHIPPED:
            name = one.name.split()[1]
            latest[name] = one.options or latest[name]
            if one.ui:
                browser.load(page, one.ui, one.name)
                exported[one.name] = {"page": browser.exported(page)}
                expected[one.name] = latest[name]
                assert not page.evaluate("() => app.extensionManager.workflow.activeWorkflow.isModified"), one.name
    for name, graphs in exported.items():
        samplers = [part["inputs"] for part in graphs["page"].values() if part["class_type"] == SAMPLER]
        assert samplers
        for inputs in samplers:
            assert {inputs[key] for key in ZERO_IS_AUTO + NEGATIVE_IS_AUTO} == {"auto"}, name
    (tmp_path / "graphs.json").write_text(json.dumps(exported))
    found = in_process(host, "options_of", tmp_path)
    for name, recorded in expected.items():
        got = {key: known(options, recorded[key]) for key, options in found[name]["page"].items()}
        assert got == recorded, name
