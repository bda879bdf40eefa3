"""The shipped workflows in ComfyUI's own page, as people meet them. Skipped, with a line, where no browser is."""

from collections.abc import Iterator
from typing import Any

import pytest

from artv_core.commands.comfyui_server import Server
from artv_core.media import read_video

from . import blueprints, browser, front_end, templates, workflow_format

LEAST_ZOOM = 0.6
BLUEPRINTS_SINCE = (0, 12)
SEARCHES = 8
STEPS = 2
"""Of a frame, where it does not matter what is seen in it."""
FOUND_FIRST = """(name) => {
    const shown = [...document.querySelectorAll("[role=option]")]
        .filter(option => option.getClientRects().length && option.textContent)
    return shown.length && shown[0].textContent.includes(name)
}"""
FRAMES = {"Text to Video (ARTV)": 4, "Image to Video (ARTV)": 4, "Several Prompts to Video (ARTV)": 33}
"""The last one's third prompt begins at frame 32."""
WITH_TINY = ("Image to Video (ARTV)", "Several Prompts to Video (ARTV)")
"""Blueprints that run with `tiny` here, because `small` takes twice as long."""
GIVE_PICTURE = """() => {
    const picture = LiteGraph.createNode("EmptyImage") // 512 x 512 pixels
    app.graph.add(picture)
    const [blueprint] = app.graph.nodes
    picture.connect(0, blueprint, blueprint.inputs.findIndex(input => input.name == "image"))
}"""

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    with browser.open_browser() as context:
        yield context


@pytest.fixture(scope="module")
def page(context: Any, server: Server) -> Iterator[Any]:
    """One for several tests, which load their own graphs: opening it takes seconds."""
    with front_end.opened(context, server, front_end.FrontEnd()) as (page, _):
        yield page


def text_to_video(
    checkpoint: str, frames: int = 16, width: int | str = "auto", height: int | str = "auto"
) -> dict[str, Any]:
    """The shipped workflow with these values in its widgets, and a prompt in words of `tiny`."""
    workflow = workflow_format.read_ui("text_to_video")
    nodes = {node["type"]: node for node in workflow["nodes"]}
    assert nodes["ARTVMaskedDiffusionSampler"]["widgets_values"][:3] == [16, "auto", "auto"]
    nodes["ARTVMaskedDiffusionSampler"]["widgets_values"][:3] = [frames, width, height]
    nodes["ARTVLoader"]["widgets_values"][0] = checkpoint
    nodes["CLIPTextEncode"]["widgets_values"][0] = workflow_format.TINY_PROMPT
    return workflow


def test_templates_are_found_and_open(context: Any, server: Server) -> None:
    page = browser.open_page(context, server, greeted=False)
    browser.show_templates(page)
    for title in workflow_format.TITLES.values():
        page.get_by_text(title, exact=True).first.scroll_into_view_if_needed()
        picture = f"/api/workflow_templates/{browser.LINKED_AS}/{title}.jpg"
        decoded = "async (path) => (await createImageBitmap(await (await fetch(path)).blob())).width"
        assert page.evaluate(decoded, picture) == templates.SIDE
    browser.choose_template(page, workflow_format.TITLES["text_to_video"])
    assert {node["type"] for node in browser.laid_out(page)} >= {
        "ARTVLoader",
        "ARTVMaskedDiffusionSampler",
        workflow_format.NOTE_TYPE,
    }
    page.close()


def test_every_template_opens_readable_with_nothing_missing(page: Any, server: Server) -> None:
    for name in workflow_format.names():
        front_end.load_template(page, name)
        page.wait_for_timeout(1000)  # in which newer front ends look for files
        needed = [workflow_format.NEEDS_A_FILE[name]] if name in workflow_format.NEEDS_A_FILE else []
        assert browser.missing_files(page) == needed, name
        faulty = {node["type"] for node in browser.laid_out(page) if node["faulty"]}
        assert faulty <= set(needed), name
        assert browser.zoom(page) >= LEAST_ZOOM, name


def add_by_search(page: Any, name: str) -> None:
    """Double-click, type, Enter, and click where the node is to be. A page that is busy may miss one of them."""
    for _ in range(SEARCHES):
        page.mouse.dblclick(900, 500)
        if comes(page, "() => document.activeElement.tagName == 'INPUT'"):
            page.keyboard.type(name)
            if comes(page, FOUND_FIRST, name):
                page.keyboard.press("Enter")
            if comes(page, "() => app.graph.nodes.length == 1 && !!app.graph.nodes[0].subgraph"):
                page.mouse.click(900, 500)
                front_end.wait_until_drawn(page)
                return
        page.keyboard.press("Escape")
        page.wait_for_timeout(1000)
        page.evaluate("() => app.graph.clear()")
    raise AssertionError(f"{name} is not found, or not added, by the search for nodes")


def comes(page: Any, condition: str, name: str = "") -> bool:
    """Whether it is true within two seconds."""
    try:
        page.wait_for_function(condition, arg=name, timeout=2000)
    except Exception as error:
        if type(error).__name__ != "TimeoutError":
            raise
        return False
    return True


def test_blueprints_are_found_in_the_search_for_nodes_and_run(context: Any, server: Server) -> None:
    if tuple(map(int, server.host.version.split(".")[:2])) < BLUEPRINTS_SINCE:
        pytest.skip(f"ComfyUI {server.host.version} has no blueprints")
    with front_end.opened(context, server, front_end.FrontEnd()) as (page, faults):
        for name in blueprints.BLUEPRINTS:
            page.evaluate("() => app.graph.clear()")
            add_by_search(page, name)
            queued = {part["class_type"]: part["inputs"] for part in browser.exported(page).values()}
            assert queued["ARTVMaskedDiffusionSampler"]["width"] == "auto"
            assert queued["ARTVDecodeVideo"]["filename_prefix"] == "video/artv"
            outside = "() => app.graph.nodes[0].outputs.map(output => output.name)"
            assert page.evaluate(outside) == [label for label, _, _ in blueprints.BLUEPRINTS[name].outputs]
            if "ARTVFitImage" in queued:
                assert queued["ARTVFitImage"]["width"] == "auto"
                page.evaluate(GIVE_PICTURE)
            assert queued["ARTVLoader"]["checkpoint"] == "small (shipped)"
            tiny = {"checkpoint": "tiny (shipped)"} if name in WITH_TINY else {}
            front_end.set_widgets(page, page.evaluate("() => app.graph.nodes[0].type"), frames=FRAMES[name], **tiny)
            graph = browser.exported(page)
            next(part for part in graph.values() if part["class_type"] == front_end.SAMPLER)["inputs"]["steps"] = STEPS
            result = server.run(graph)
            assert result.status == "success", result.message
            shown = next(iter(result.outputs.values()))["images"][0]
            frames = list(read_video(server.output_file(shown)))
            side = 256 if tiny else 512
            assert (len(frames), *frames[0].shape[1:]) == (FRAMES[name], side, side)
        assert not faults.seen


def test_workflows_open_as_their_api_twins_with_no_node_on_another(page: Any, server: Server) -> None:
    for name in workflow_format.names():
        browser.load(page, workflow_format.read_ui(name), name)
        queued, twin = browser.exported(page), workflow_format.read_api(name)
        known = workflow_format.known_inputs
        assert known(queued, twin) == known(twin, queued), name
        assert not lying_on_another(page), name


def test_no_node_lies_on_another_in_nodes_2(page: Any, server: Server) -> None:
    """Nodes are higher there."""
    if not front_end.exists(front_end.FrontEnd(nodes_2=True), server.host):
        pytest.skip("this front end has no Nodes 2.0 that shows panels of node packs")
    front_end.switch(page, nodes_2=True)
    try:
        for name in workflow_format.names():
            browser.load(page, workflow_format.read_ui(name), name)
            assert not lying_on_another(page), (name, browser.laid_out(page))
    finally:
        front_end.switch(page, nodes_2=False)


def lying_on_another(page: Any) -> list[tuple[str, str]]:
    """The titles of nodes that do. Nodes get their size when they are drawn, and a busy page may draw them late, so
    this looks again for ten seconds before it names any."""
    for _ in range(20):
        front_end.wait_until_drawn(page)
        found = browser.overlapping(browser.laid_out(page))
        if not found:
            break
        page.wait_for_timeout(500)
    return found


def test_run_shows_frames_and_the_video_which_brings_the_graph_back_when_dropped(
    page: Any, server: Server, checkpoint: str
) -> None:
    browser.load(page, text_to_video(checkpoint, frames=2), "two frames")
    before, graph = browser.laid_out(page), browser.exported(page)
    browser.run(page)
    page.wait_for_function("() => [...document.querySelectorAll('video')].some(video => video.videoWidth == 256)")
    front_end.wait_for(page, "state == 'finished' && pictures == 2")
    after = browser.laid_out(page)
    assert [(node["title"], node["height"]) for node in after] == [(node["title"], node["height"]) for node in before]
    address = page.evaluate("() => document.querySelector('video').currentSrc")
    page.evaluate("() => app.graph.clear()")
    assert not browser.laid_out(page)
    browser.drop(page, address)
    page.wait_for_function("(count) => app.graph.nodes.length == count", arg=len(after))
    assert browser.exported(page) == graph


def test_a_fault_is_told_on_the_page(page: Any, server: Server, checkpoint: str) -> None:
    browser.load(page, text_to_video(checkpoint, width=72, height=68), "fault")
    front_end.show_node(page, front_end.SAMPLER)
    browser.run(page)
    front_end.wait_for(page, "state == 'refused'")
    assert (
        front_end.status(page) == "Nothing was made | height is 68; accepted are multiples of 8 up to 16384, such as 64"
    )
