"""The sampler's panel on ComfyUI's page, by the host's own front end and the newest one, classic and Nodes 2.0."""

from collections.abc import Iterator
from typing import Any

import pytest

from artv_core.comfyui import LINKED_AS, Host, Server

from . import browser, front_end, timeline_steps, workflow_format
from .front_end import SAMPLER, FrontEnd

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())

OWN, NEWEST, NEWEST_2 = FrontEnd(), FrontEnd(own=False), FrontEnd(own=False, nodes_2=True)
NO_NEWEST = f"no {front_end.NEWEST} found: pip install it to run these tests with the newest front end"


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    with browser.open_browser() as context:
        yield context


@pytest.fixture(scope="module")
def newest_server(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if host.missing():
        pytest.skip(f"{host.python} lacks what {host.root} requires: {', '.join(host.missing())}")
    if front_end.newest_root() is None:
        pytest.skip(NO_NEWEST)
    without_previews = ("--preview-method", "none")  # the host's default: ours do not depend on it
    arguments = (*NEWEST.arguments, *without_previews)
    with Server(host, tmp_path_factory.mktemp("newest"), arguments=arguments) as server:
        yield server


@pytest.fixture(params=[OWN, NEWEST, NEWEST_2], ids=lambda page: page.name)
def opened(request: pytest.FixtureRequest, context: Any, host: Host) -> Iterator[tuple[Any, FrontEnd]]:
    """A page on which nothing of ours goes wrong."""
    server = request.getfixturevalue("server" if request.param.own else "newest_server")
    with front_end.opened(context, server, request.param) as (page, faults):
        yield page, request.param
        page.wait_for_timeout(200)
    assert faults.seen == []


def keep(page: Any, shown: FrontEnd, host: Host, what: str) -> None:
    front_end.picture(page, f"{host.version} {shown.name} {what}")


def test_a_run_is_watched_scrubbed_cancelled_and_found_again(
    opened: tuple[Any, FrontEnd], host: Host, checkpoint: str
) -> None:
    page, shown = opened
    front_end.open_template(page, "text_to_video")
    front_end.set_widgets(page, "ARTVLoader", checkpoint=checkpoint)
    front_end.set_widgets(page, SAMPLER, frames=12, seed=77)
    front_end.show_node(page, SAMPLER)

    watched = front_end.watch_run(page, frames=12)
    assert watched.first_picture <= 0.5, watched.seen
    assert page.locator(".artv-live-status").inner_text() == "Finished: 12 frames"
    front_end.wait_for(page, "pictures == 12")  # the last ones come while the video is decoded
    width, height, brightest = page.evaluate(front_end.SHOWN)
    assert (width, height) == (64, 64)
    assert brightest > 50

    page.get_by_label("Frame", exact=True).fill("5")
    assert page.locator(".artv-live-stage").get_attribute("data-frame") == "5"
    page.get_by_label("Frame", exact=True).press("ArrowRight")
    assert page.locator(".artv-live-shown").inner_text() == "frame 6"
    page.locator(".artv-live-switch input").check()
    assert page.locator(".artv-live-mask").is_visible()
    assert "copied" in page.locator(".artv-live-drift").inner_text()
    assert len(page.locator(".artv-live-line").get_attribute("points").split()) == 12
    keep(page, shown, host, "finished")

    front_end.set_widgets(page, SAMPLER, frames=400, seed=78)
    long = page.evaluate(front_end.GRAPH)
    front_end.start(page)
    front_end.wait_for(page, "state == 'running' && pictures >= 1 && done >= 3")
    keep(page, shown, host, "running")
    front_end.reload(page)
    front_end.wait_for(page, "state == 'running' && pictures >= 1")
    assert page.evaluate(front_end.GRAPH) == long
    front_end.cancel(page)
    front_end.wait_for(page, "state == 'stopped'")
    assert page.locator(".artv-live-status").inner_text().startswith("Stopped at frame")
    front_end.show_node(page, SAMPLER)
    keep(page, shown, host, "cancelled")


def test_the_panel_is_no_part_of_what_is_queued_or_saved(opened: tuple[Any, FrontEnd]) -> None:
    page, _ = opened
    workflow = workflow_format.read_ui("text_to_video")
    browser.load(page, workflow, "text_to_video")
    assert page.locator(".artv-live").count() == 1
    stored = {node["type"]: node.get("widgets_values") for node in workflow["nodes"]}
    saved = page.evaluate("() => app.graph.serialize().nodes.map(node => [node.type, node.widgets_values])")
    assert dict(saved)[SAMPLER] == stored[SAMPLER]
    queued = next(part for part in browser.exported(page).values() if part["class_type"] == SAMPLER)
    assert not [name for name in queued["inputs"] if name.startswith("artv")]


def test_a_timeline_is_edited_by_mouse_keyboard_and_text(opened: tuple[Any, FrontEnd], host: Host) -> None:
    page, shown = opened
    assert all(timeline_steps.edit(page).values())
    keep(page, shown, host, "timeline")


def test_what_a_page_keeps_of_a_run_has_bounds(context: Any, server: Server) -> None:
    with front_end.opened(context, server, OWN) as (page, _):
        kept = page.evaluate(
            """async (pack) => {
                const {LiveRun} = await import(`/extensions/${pack}/live_run.js`)
                const run = new LiveRun("x")
                for (let index = 0; index < 5000; index++)
                    run.take({pictures: [{index, jpeg: null, mask: null}], readings: [[index, 0, 1, 0]]})
                run.take({pictures: [{index: 4999, jpeg: "AAAA", mask: null}], readings: []})
                const {items} = run.pictures
                const gaps = items.slice(1).map((one, place) => one.index - items[place].index)
                return {count: items.length, readings: run.readings.items.length, first: items[0].index,
                    last: items.at(-1).index, replaced: !!items.at(-1).jpeg, gap: Math.max(...gaps),
                    at: run.at(items[7].index + 1).index - items[7].index}
            }""",
            LINKED_AS,
        )
    assert kept.pop("gap") <= 4 * 5000 / 120
    assert kept == {"count": 120, "readings": 480, "first": 0, "last": 4999, "replaced": True, "at": 0}
