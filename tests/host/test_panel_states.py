"""What the sampler's panel and the timeline show of a run when something else happens meanwhile: another prompt that is
refused, a step back, a text that cannot be read, a server that was restarted. The server's messages about the run are
sent within the page."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from artv_core.commands.comfyui_server import LINKED_AS, Server

from . import browser, front_end, workflow_format
from .front_end import SAMPLER
from .timeline_steps import SCHEDULER, Timeline

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())

RUNS = count()
"""Each test has a run of its own."""
MESSAGE = {
    "prompt_id": "one", "state": "running", "problem": None, "unknown": None, "steering": {}, "total": 48, "known": 0,
    "blind": None, "done": 8, "seconds_per_frame": 1.0, "seconds_left": 40.0, "fps": 8.0, "width": 64, "height": 64,
    "videos": 1, "size_advice": None, "pictures": [], "readings": [], "whole": False,
}  # fmt: skip
STEERING = {
    "can_say": True, "paused": False, "stopped": False, "waiting": None, "said": [], "redo": [], "schedule": None,
}  # fmt: skip
# Messages about runs are of the open graph's sampler.
DISPATCH = f"""async ([type, detail]) => {{
    const {{api}} = await import("/scripts/api.js")
    const sampler = app.graph.nodes.find(node => node.type == "{SAMPLER}")
    if (type == "artv.live") Object.assign(detail, {{workflow: app.graph.id, node: String(sampler.id)}})
    api.dispatchEvent(new CustomEvent(type, {{detail}}))
}}"""
NEW_ID = "() => { app.graph.id = crypto.randomUUID() }"  # no run of an earlier test belongs to this graph
FEED_TEXT = f"""() => {{
    const feeder = LiteGraph.createNode("PrimitiveStringMultiline")
    app.graph.add(feeder)
    feeder.widgets[0].value = "a fox"
    feeder.connect(0, {SCHEDULER}, {SCHEDULER}.inputs.findIndex(input => input.name == "text"))
}}"""
NEGATIVE = f"""() => {{
    const node = LiteGraph.createNode({SCHEDULER}.type)
    app.graph.add(node)
    node.widgets.find(widget => widget.name == "text").value = "0: dark"
    const sampler = app.graph.nodes.find(node => node.type == "{SAMPLER}")
    node.connect(0, sampler, sampler.inputs.findIndex(input => input.name == "negative"))
}}"""
# The pack's timers that begin from now on and do not end.
COUNT_TIMERS = f"""() => {{
    window.artvTimers = new Set()
    const [begin, end] = [window.setInterval, window.clearInterval]
    window.setInterval = (...given) => {{
        const timer = begin(...given)
        if (new Error().stack.includes("/extensions/{LINKED_AS}/")) artvTimers.add(timer)
        return timer
    }}
    window.clearInterval = (timer) => {{ artvTimers.delete(timer); end(timer) }}
    window.artvCountNoMore = () => Object.assign(window, {{setInterval: begin, clearInterval: end}})
}}"""
COPY = """() => {
    window.artvCopies = app.graph.nodes.map(node => node.clone()).filter(copy => copy)
    artvCopies.forEach(copy => copy.serialize())
}"""
ADD_COPIES = "() => artvCopies.forEach(copy => app.graph.add(copy))"
REMOVE_COPIES = "() => artvCopies.forEach(copy => app.graph.remove(copy))"
TIMERS = "() => artvTimers.size"


@pytest.fixture(scope="module")
def opened(server: Server) -> Iterator[tuple[Any, front_end.Faults]]:
    """A page for all tests: opening one takes seconds."""
    with (
        browser.open_browser() as context,
        front_end.opened(context, server, front_end.FrontEnd()) as (page, faults),
    ):
        yield page, faults


@pytest.fixture
def page(opened: tuple[Any, front_end.Faults], checkpoint: str) -> Iterator[Any]:
    """With the shipped workflow of one prompt, on which nothing of this pack goes wrong."""
    page, faults = opened
    browser.load(page, workflow_format.read_ui("text_to_video"), "states")
    front_end.use_checkpoint(page, checkpoint)
    yield from new_graph(page, faults)


@pytest.fixture
def timeline(opened: tuple[Any, front_end.Faults]) -> Iterator[Timeline]:
    """With the shipped workflow of several prompts, of which there are two now."""
    page, faults = opened
    timeline = Timeline(page)
    timeline.write("0: a\n32: b", "a", "b")
    for _ in new_graph(page, faults):
        yield timeline


def new_graph(page: Any, faults: front_end.Faults) -> Iterator[Any]:
    page.run_id = f"run {next(RUNS)}"
    page.evaluate(NEW_ID)
    front_end.wait_for(page, "state == 'empty'")
    faults.seen.clear()
    yield page
    front_end.wait_until_drawn(page)
    assert faults.seen == []


def tell(page: Any, **values: Any) -> None:
    """What the server tells of this test's run."""
    page.evaluate(DISPATCH, ["artv.live", {"run": page.run_id, **MESSAGE, **values}])


def say(page: Any, *said: tuple[int, str], **values: Any) -> None:
    """What the server tells once something was said."""
    tell(page, steering=STEERING | {"said": [list(one) for one in said], **values})


def pictures(number: int) -> list[dict[str, Any]]:
    return [{"index": index, "jpeg": None, "mask": None} for index in range(number)]


def test_a_run_that_goes_on_stays_in_sight_when_another_prompt_is_refused(page: Any) -> None:
    tell(page)
    front_end.wait_for(page, "state == 'running' && done == 8")
    front_end.set_as_saved(page, SAMPLER, "height", 68)
    browser.run(page)
    page.locator(".artv-live-problem").get_by_text("Not queued: height is 68; accepted are").wait_for()
    front_end.dismiss(page)
    tell(page, done=9, steering=STEERING)
    front_end.wait_for(page, "state == 'running' && done == 9")
    front_end.show_node(page, SAMPLER)
    assert page.locator(".artv-steer").is_visible()
    tell(page, done=48, state="finished")
    front_end.wait_for(page, "state == 'finished'")
    assert "Not queued: height is 68" in front_end.status(page)
    front_end.set_as_saved(page, SAMPLER, "height", "auto")
    front_end.set_widgets(page, SAMPLER, frames=1, steps=1)
    browser.run(page)
    front_end.wait_for(page, "state == 'finished' && done == 1")
    assert front_end.status(page) == "Finished: 1 frames"


@pytest.mark.parametrize("event", ["execution_success", "execution_error"])
def test_what_became_of_an_earlier_prompt_does_not_hide_the_run_that_goes_on(page: Any, event: str) -> None:
    """A prompt whose run was steered has no run by its recipe, as one whose run is no longer kept."""
    workflow, node = page.evaluate(
        f"() => [app.graph.id, app.graph.nodes.find(node => node.type == '{SAMPLER}').id]",
    )
    told = {"workflow": workflow, "runs": {str(node): None}}
    page.route("**/artv/recall", lambda route: route.fulfill(json=told))
    tell(page)
    with page.expect_response("**/artv/recall"):
        detail = {"prompt_id": "earlier", "node_id": "99", "exception_message": "it broke"}
        page.evaluate(DISPATCH, [event, detail])
    front_end.wait_until_drawn(page)
    page.unroute("**/artv/recall")
    front_end.wait_for(page, "state == 'running' && done == 8", seconds=5)


def test_a_step_back_leaves_the_panel_where_it_was(page: Any) -> None:
    """And so does what the server sends again when the page connects again."""
    front_end.show_node(page, SAMPLER)
    tell(page, done=12, pictures=pictures(12))
    front_end.wait_for(page, "pictures == 12")
    page.get_by_label("Frame", exact=True).fill("5")
    tell(page, whole=True, pictures=pictures(8))
    front_end.wait_for(page, "pictures == 8 && done == 8")
    front_end.wait_until_drawn(page)
    assert page.locator(".artv-live-stage").get_attribute("data-frame") == "5"
    assert page.locator(".artv-live-play").get_attribute("aria-label") == "Play"


def test_what_could_not_be_done_is_not_said_of_the_next_run(page: Any, opened: tuple[Any, front_end.Faults]) -> None:
    front_end.show_node(page, SAMPLER)
    tell(page, steering=STEERING)
    page.get_by_role("button", name="Stop here").click()
    told = page.locator(".artv-steer-told")
    told.get_by_text("no such run is known").wait_for()
    opened[1].seen.clear()  # the page notes that the server refused
    tell(page, run=f"{page.run_id}, the next", steering=STEERING | {"paused": True})
    told.get_by_text("Paused.", exact=True).wait_for()
    assert "artv-steer-refused" not in page.locator(".artv-steer").get_attribute("class")


def test_a_run_that_a_new_server_does_not_know_has_ended(page: Any) -> None:
    tell(page, state="finished")
    page.evaluate(DISPATCH, ["reconnected", {}])
    page.wait_for_timeout(500)
    assert front_end.status(page) == "Finished: 48 frames"
    tell(page, run=f"{page.run_id}, cut off")
    front_end.wait_for(page, "state == 'running'")
    page.evaluate(DISPATCH, ["reconnected", {}])
    front_end.wait_for(page, "state == 'stopped'")
    told = "Stopped at frame 8 of 48 | The server was restarted while this run went on."
    assert front_end.status(page) == told


def test_a_copy_that_is_in_no_graph_does_nothing(page: Any) -> None:
    """As the page makes one of each node that is copied to the clipboard."""
    page.evaluate(COUNT_TIMERS)
    try:
        page.evaluate(COPY)
        page.wait_for_timeout(300)
        assert page.evaluate(TIMERS) == 0
        page.evaluate(ADD_COPIES)
        page.wait_for_timeout(300)
        assert page.evaluate(TIMERS) > 0
        page.evaluate(REMOVE_COPIES)
        assert page.evaluate(TIMERS) == 0
    finally:
        page.evaluate("() => artvCountNoMore()")


def test_what_is_said_while_the_text_cannot_be_read_is_added_later(timeline: Timeline) -> None:
    page = timeline.page
    timeline.text_box.fill("0: a\n32: b\n16: c")
    page.locator(".artv-timeline-notice").get_by_text("ine 3").wait_for()
    say(page, (20, "new"))
    page.wait_for_timeout(500)
    tell(page, state="finished", steering=STEERING | {"said": [[20, "new"]]})
    timeline.text_box.fill("0: a\n32: b")
    timeline.wait_for_text("0: a\n20: new\n32: b")


def test_what_is_said_is_not_lost_when_the_server_cannot_be_asked(
    timeline: Timeline, opened: tuple[Any, front_end.Faults]
) -> None:
    page = timeline.page
    page.route("**/artv/schedule", lambda route: route.abort(), times=1)
    say(page, (20, "new"))
    page.wait_for_timeout(500)
    say(page, (20, "new"))
    timeline.wait_for_text("0: a\n20: new\n32: b")
    for faults in (opened[1].seen, timeline.faults):
        faults[:] = [fault for fault in faults if "ERR_FAILED" not in fault]


def test_what_is_said_leaves_the_prompt_that_is_being_edited(timeline: Timeline) -> None:
    page = timeline.page
    timeline.block(1).click()
    timeline.press("Enter")
    say(page, (20, "new"))
    timeline.wait_for_text("0: a\n20: new\n32: b")
    page.keyboard.type(" at night")
    timeline.wait_for_text("0: a\n20: new\n32: b at night")
    page.keyboard.type(", far")
    say(page, (20, "new"), (24, "newer"))
    timeline.wait_for_text("0: a\n20: new\n24: newer\n32: b at night, far")
    page.keyboard.type(" away")
    timeline.wait_for_text("0: a\n20: new\n24: newer\n32: b at night, far away")


def test_what_is_said_is_no_part_of_what_not_to_show(timeline: Timeline) -> None:
    page = timeline.page
    page.evaluate(NEGATIVE)
    page.wait_for_function("() => document.querySelectorAll('.artv-timeline-block').length == 3")
    say(page, (20, "new"))
    timeline.wait_for_text("0: a\n20: new\n32: b")
    page.wait_for_timeout(500)
    kept = page.evaluate("() => app.graph.nodes.at(-1).widgets.find(widget => widget.name == 'text').value")
    assert kept == "0: dark"


def test_what_is_said_is_shown_for_copying_if_the_text_comes_from_a_node(timeline: Timeline) -> None:
    page = timeline.page
    schedule = '"0": "a fox",\n"20": "a hare"'
    shown = page.locator(".artv-live-untaken")
    say(page, (20, "new"), schedule=schedule)
    timeline.wait_for_text("0: a\n20: new\n32: b")
    page.wait_for_timeout(500)
    assert not shown.is_visible()
    page.evaluate(FEED_TEXT)
    front_end.show_node(page, SAMPLER)
    shown.wait_for()
    assert shown.locator("textarea").input_value() == schedule
