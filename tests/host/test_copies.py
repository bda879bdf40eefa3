"""Several copies of the pack in one host, by whatever way they came there: one works, and people are told."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from artv_core.commands.comfyui_server import LINKED_AS, PACK, Host, Server

from . import browser, front_end, workflow_format
from .conftest import skip_without
from .front_end import SAMPLER, FrontEnd
from .graphs import STEPS

Copied = tuple[Server, dict[Path, str]]
"""A server, and the copies' folders with what the page calls them."""

LEFT_OUT = (".*", "__pycache__", "runs", "build", "dist", "node_modules", "tests", "benchmarks", "docs")


def copy_pack(folder: Path) -> Path:
    return Path(shutil.copytree(PACK, folder, ignore=shutil.ignore_patterns(*LEFT_OUT)))


def make_older(folder: Path) -> None:
    """As versions were that look for no other copies."""
    (folder / "nodes/copies.py").unlink()
    entry = "    from .nodes.extension import ARTVExtension\n    return ARTVExtension()\n"
    (folder / "__init__.py").write_text(f'WEB_DIRECTORY = "./js"\n\nasync def comfy_entrypoint():\n{entry}')
    extension = folder / "nodes/extension.py"
    text = extension.read_text(encoding="utf-8").replace("import copies, ", "import ").replace("return []", "")
    lines = [line for line in text.splitlines() if "copies." not in line]
    extension.write_text("\n".join(lines), encoding="utf-8")


def another_folder_of_nodes(base: Path, first: bool = False) -> tuple[Path, tuple[str, str]]:
    """A second `custom_nodes`, loaded after the host's own or before, and what has the host look there."""
    other, config = base / "elsewhere", base / "extra.yaml"
    lines = [f"  base_path: {other}", f"  is_default: {str(first).lower()}", "  custom_nodes: custom_nodes"]
    config.write_text("\n".join(["other:", *lines, ""]), encoding="utf-8")
    return other / "custom_nodes", ("--extra-model-paths-config", str(config))


@pytest.fixture(scope="module")
def beside(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copied]:
    """The pack, an unzipped copy and a link to that copy, in one folder."""
    skip_without(host)
    base = tmp_path_factory.mktemp("beside")
    server = Server(host, base)
    nodes = base / "custom_nodes"
    (nodes / "comfyui-artv").symlink_to(copy_pack(nodes / f"{LINKED_AS}-main"), target_is_directory=True)
    with server:
        names = (LINKED_AS, f"{LINKED_AS}-main", "comfyui-artv")
        yield server, {nodes / name: f"custom_nodes/{name}" for name in names}


@pytest.fixture(scope="module")
def elsewhere(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copied]:
    """Under the same name in two folders of nodes."""
    skip_without(host)
    base = tmp_path_factory.mktemp("elsewhere")
    nodes, arguments = another_folder_of_nodes(base)
    copy = copy_pack(nodes / LINKED_AS)
    with Server(host, base, arguments=arguments) as server:
        named = f"custom_nodes/{LINKED_AS}"
        yield server, {base / named: f"{base.name}/{named}", copy: f"elsewhere/{named}"}


@pytest.fixture(params=["beside", "elsewhere"])
def several(request: pytest.FixtureRequest, host: Host) -> Copied:
    return request.getfixturevalue(request.param)


def told(server: Server) -> tuple[Path, set[Path]]:
    """Which copy is in use and which are not, by the one line in the log."""
    lines = [line for line in server.log_text().splitlines() if "this pack is installed" in line]
    assert len(lines) == 1, lines
    found = re.search(r"installed (\d) times\. In use: (.+)\. Not in use: (.+)\. Remove all but one of", lines[0])
    assert found is not None, lines
    others = {Path(one) for one in found[3].split(", ")}
    assert int(found[1]) == 1 + len(others)
    return Path(found[2]), others


def scripts(server: Server) -> list[str]:
    return [one for one in server.get("/extensions") if one.endswith("/live.js")]


def test_the_log_says_once_which_copy_is_in_use(several: Copied) -> None:
    server, folders = several
    used, others = told(server)
    assert {used} | others == set(folders)
    node = server.get("/object_info/ARTVLoader")["ARTVLoader"]
    assert node["python_module"] == f"custom_nodes.{used.name}"


def test_only_the_copy_in_use_serves_scripts_and_it_tells_of_its_runs(several: Copied) -> None:
    server, _ = several
    used, _ = told(server)
    assert scripts(server) == [f"/extensions/{used.name}/live.js"]
    graph = workflow_format.with_tiny(workflow_format.read_api("text_to_video"))
    for node in graph.values():
        if node["class_type"] == SAMPLER:
            node["inputs"] |= {"frames": 2, "steps": STEPS}
    result = server.run(graph, watch=True)
    assert result.status == "success", result.message
    assert result.live[-1]["state"] == "finished"
    assert any(message["pictures"] for message in result.live)


def test_the_page_is_told_no_more_of_the_paths_than_tells_them_apart(several: Copied) -> None:
    server, folders = several
    used, others = told(server)
    answer = server.post("/artv/copies", {})
    assert answer["used"] == folders[used]
    assert sorted(answer["others"]) == sorted(folders[other] for other in others)


def test_nothing_is_said_of_one_copy(server: Server) -> None:
    assert server.post("/artv/copies", {}) == {}
    assert "this pack is installed" not in server.log_text()
    assert len(scripts(server)) == 1


@pytest.mark.parametrize("is_older_first", [False, True], ids=["older last", "older first"])
def test_a_copy_that_looks_for_no_others_is_found(host: Host, tmp_path: Path, is_older_first: bool) -> None:
    """The host takes the last one's nodes, unless that one stays out of the way."""
    skip_without(host)
    nodes, arguments = another_folder_of_nodes(tmp_path, is_older_first)
    older = copy_pack(nodes / "comfyui-artv")
    make_older(older)
    with Server(host, tmp_path, arguments=arguments) as server:
        assert told(server) == (older, {tmp_path / "custom_nodes" / LINKED_AS})
        assert len(scripts(server)) == (1 if is_older_first else 2)


@pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())
def test_the_panel_says_it_and_shows_the_frames(beside: Copied, checkpoint: str) -> None:
    server, folders = beside
    used, others = told(server)
    shown: Any
    with browser.open_browser() as context, front_end.opened(context, server, FrontEnd()) as (shown, faults):
        front_end.load_template(shown, "text_to_video")
        front_end.use_checkpoint(shown, checkpoint)
        front_end.set_widgets(shown, SAMPLER, frames=3, steps=STEPS)
        front_end.show_node(shown, SAMPLER)
        line = shown.locator(".artv-live-copies")
        line.wait_for()
        said = line.inner_text()
        assert said.startswith(
            "ARTV is installed more than once. Remove all but one of these folders and restart ComfyUI."
        )
        assert f"In use: {folders[used]}. Not in use: " in said
        assert all(folders[other] in said for other in others)
        assert line.evaluate("(line) => line.scrollHeight <= line.clientHeight")
        browser.run(shown)
        front_end.wait_for(shown, "state == 'finished' && pictures == 3")
        assert front_end.status(shown) == "Finished: 3 frames"
        front_end.picture(shown, "copies")
    assert faults.seen == []
