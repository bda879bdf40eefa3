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
    "first": 1,
}  # fmt: skip
# Messages about runs are of the open graph's sampler, unless they say otherwise.
DISPATCH = f"""async ([type, detail]) => {{
    const {{api}} = await import("/scripts/api.js")
    const sampler = app.graph.nodes.find(node => node.type == "{SAMPLER}")
    const place = type == "artv.live" && {{workflow: app.graph.id, node: String(sampler?.id)}}
    api.dispatchEvent(new CustomEvent(type, {{detail: {{...place, ...detail}}}}))
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
INTO_A_SUBGRAPH = "() => app.graph.convertToSubgraph(new Set(app.graph.nodes)).node.id"
REMOVE = "id => app.graph.remove(app.graph.getNodeById(id))"
CLEAR = "() => app.graph.clear()"
SAVED = "() => app.graph.serialize()"
# As the page does to undo.
LOAD = "saved => app.loadGraphData(saved, false, false, app.extensionManager.workflow.activeWorkflow)"
RELOAD = f"async () => ({LOAD})(({SAVED})())"
PLACE = f"() => [app.graph.id, String(app.graph.nodes.find(node => node.type == '{SAMPLER}').id)]"
VALUE = f"name => app.graph.nodes.find(node => node.type == '{SAMPLER}').widgets.find(one => one.name == name).value"
NAMED_WORDS = f"() => {front_end.PANELS}[0].querySelector('.artv-words').textContent"
UNTAKEN_IS = f"isShown => {front_end.PANELS}[0].querySelector('.artv-live-untaken').hidden != isShown"
# Two samplers in a subgraph, each with an input of its own for the model, of one loader.
REACHED = f"""async () => {{
    const {{samplersOf}} = await import("/extensions/{LINKED_AS}/connections.js")
    const graph = (nodes, links) => ({{
        nodes, links: new Map(links.map((link, id) => [id, link])), getNodeById: id => nodes.find(node => node.id == id)
    }})
    const link = (origin_id, origin_slot, target_id) => ({{origin_id, origin_slot, target_id, target_slot: 0}})
    const inputs = [{{name: "model"}}]
    const samplers = [3, 4].map(id => ({{id, comfyClass: "{SAMPLER}", inputs}}))
    const subgraph = graph(samplers, [link(-10, 0, 3), link(-10, 1, 4)])
    const loader = {{id: 1, outputs: [{{type: "ARTV_MODEL"}}]}}
    loader.graph = graph([loader, {{id: 2, subgraph}}], [link(1, 0, 2), {{...link(1, 0, 2), target_slot: 1}}])
    return samplersOf(loader).map(({{id}}) => id)
}}"""
# The sampler in a subgraph that has an input for references, to which nothing is connected.
OPEN_INPUT = f"""() => {{
    const sampler = app.graph.nodes.find(node => node.type == "{SAMPLER}")
    const {{subgraph}} = app.graph.convertToSubgraph(new Set([sampler]))
    const inside = subgraph.nodes.find(node => node.type == "{SAMPLER}")
    subgraph.addInput("references", "LATENT").connect(inside.inputs.find(one => one.name == "references"), inside)
    window.artvInside = inside
}}"""


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
        tell(page)  # nothing is said yet
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


def forget_failed_requests(timeline: Timeline, opened: tuple[Any, front_end.Faults]) -> None:
    """Those that a test let fail."""
    for faults in (opened[1].seen, timeline.faults):
        faults[:] = [fault for fault in faults if "ERR_FAILED" not in fault]


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


def test_nothing_goes_on_for_nodes_of_a_subgraph_that_is_gone(page: Any) -> None:
    page.evaluate(COUNT_TIMERS)
    try:
        for remove in (REMOVE, CLEAR):
            saved = page.evaluate(SAVED)
            wrapper = page.evaluate(INTO_A_SUBGRAPH)
            page.wait_for_timeout(600)
            assert page.evaluate(TIMERS) > 0
            page.evaluate(remove, wrapper)
            page.wait_for_timeout(600)
            assert page.evaluate(TIMERS) == 0, remove
            if remove == REMOVE:
                page.evaluate(LOAD, saved)
    finally:
        page.evaluate("() => artvCountNoMore()")


def test_a_late_answer_about_a_loader_that_is_gone_does_not_count(page: Any) -> None:
    page.wait_for_function(f"() => ({VALUE})('steps').startsWith('auto (')")
    shown = page.evaluate(VALUE, "steps")
    saved, held = page.evaluate(SAVED), list[Any]()

    def hold(route: Any) -> None:
        if route.request.post_data_json["checkpoint"] == "another":
            held.append(route)
        else:
            route.continue_()

    page.route("**/artv/checkpoint", hold)
    front_end.set_widgets(page, "ARTVLoader", checkpoint="another")
    page.wait_for_function(f"() => ({VALUE})('steps') == 'auto'")
    page.evaluate(LOAD, saved)
    page.wait_for_function(f"shown => ({VALUE})('steps') == shown", arg=shown)
    facts = {"size": [64, 64], "recommended": {"steps": 99}, "vocabulary": [], "missing": [], "parameters": {}}
    held[0].fulfill(json=facts)
    page.wait_for_timeout(600)
    assert page.evaluate(VALUE, "steps") == shown
    page.unroute("**/artv/checkpoint")


def test_a_loader_reaches_each_sampler_of_a_subgraph(page: Any) -> None:
    assert page.evaluate(REACHED) == [3, 4]


def test_an_input_of_a_subgraph_to_which_nothing_is_connected_decides_nothing(page: Any) -> None:
    page.wait_for_function(f"() => ({VALUE})('width').startsWith('auto (')")
    shown = page.evaluate(VALUE, "width")
    page.evaluate(OPEN_INPUT)
    page.wait_for_timeout(800)
    assert page.evaluate("() => artvInside.widgets.find(one => one.name == 'width').value") == shown


def test_steps_back_end_at_the_first_frame_that_was_not_given(page: Any) -> None:
    front_end.show_node(page, SAMPLER)
    page.route("**/artv/steer", lambda route: route.fulfill(json=STEERING))
    tell(page, done=20, steering=STEERING | {"first": 16})
    back = page.get_by_role("button", name="Back 1 s")
    with page.expect_request("**/artv/steer") as asked:
        back.click()
    assert asked.value.post_data_json["back"] == 4
    tell(page, done=16, steering=STEERING | {"first": 16})
    assert back.is_disabled()
    page.unroute("**/artv/steer")


def test_a_cached_result_is_shown_in_the_copy_that_asked_for_it(page: Any) -> None:
    """A duplicated workflow has the same nodes and another id."""
    tell(page, state="finished", done=48)
    front_end.wait_for(page, "state == 'finished'")
    first, node = page.evaluate(PLACE)
    page.evaluate(NEW_ID)
    front_end.wait_for(page, "state == 'empty'")
    told = {"workflow": page.evaluate(PLACE)[0], "runs": {node: page.run_id}}
    page.route("**/artv/recall", lambda route: route.fulfill(json=told))
    page.evaluate(DISPATCH, ["execution_success", {"prompt_id": "of the copy"}])
    front_end.wait_for(page, "state == 'cached' && done == 48", seconds=15)
    page.unroute("**/artv/recall")
    page.evaluate("(id) => { app.graph.id = id }", first)
    front_end.wait_for(page, "state == 'finished' && done == 48", seconds=15)


def test_runs_of_many_samplers_are_kept(page: Any) -> None:
    tell(page)
    for number in range(20):
        tell(page, run=f"{page.run_id}, {number}", node=f"{9000 + number}")
    page.wait_for_timeout(300)
    front_end.wait_for(page, "state == 'running' && done == 8", seconds=5)


def test_the_panels_ask_again_once_the_server_is_there_again(
    timeline: Timeline, opened: tuple[Any, front_end.Faults]
) -> None:
    page = timeline.page
    page.route("**/artv/words", lambda route: route.abort())
    timeline.write("0: xylophone\n32: b", "xylophone", "b")
    page.wait_for_function(f"() => !({NAMED_WORDS})()")  # those of the text before
    page.unroute("**/artv/words")
    page.evaluate(DISPATCH, ["reconnected", {}])
    page.wait_for_function(f"() => ({NAMED_WORDS})().includes('xylophone')")
    page.route("**/artv/*", lambda route: route.abort())
    page.evaluate(RELOAD)
    page.locator(".artv-timeline-notice").get_by_text("The timeline needs the server").wait_for()
    page.unroute("**/artv/*")
    page.evaluate(DISPATCH, ["reconnected", {}])
    timeline.wait_for(2)
    page.wait_for_function(f"() => ({VALUE})('steps').startsWith('auto (')")
    forget_failed_requests(timeline, opened)


def test_what_is_said_while_the_text_cannot_be_read_is_added_later(timeline: Timeline) -> None:
    page = timeline.page
    timeline.text_box.fill("0: a\n32: b\n16: c")
    page.locator(".artv-timeline-notice").get_by_text("ine 3").wait_for()
    say(page, (20, "new"), schedule='"0": "a",\n"20": "new"')
    page.wait_for_function(UNTAKEN_IS, arg=True)
    tell(page, state="finished", steering=STEERING | {"said": [[20, "new"]]})
    timeline.text_box.fill("0: a\n32: b")
    timeline.wait_for_text("0: a\n20: new\n32: b")
    page.wait_for_function(UNTAKEN_IS, arg=False)


def test_what_is_said_is_not_lost_when_the_server_cannot_be_asked(
    timeline: Timeline, opened: tuple[Any, front_end.Faults]
) -> None:
    page = timeline.page
    page.route("**/artv/schedule", lambda route: route.abort(), times=1)
    say(page, (20, "new"))
    page.wait_for_timeout(500)
    say(page, (20, "new"))
    timeline.wait_for_text("0: a\n20: new\n32: b")
    forget_failed_requests(timeline, opened)


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


def test_what_is_said_is_taken_once_also_if_the_page_makes_the_node_again(timeline: Timeline) -> None:
    page = timeline.page
    say(page, (20, "new"))
    timeline.wait_for_text("0: a\n20: new\n32: b")
    timeline.write("0: a\n24: newer\n32: b", "a", "newer", "b")
    page.evaluate(RELOAD)
    timeline.wait_for(3)
    page.wait_for_timeout(800)
    assert timeline.text == "0: a\n24: newer\n32: b"
    say(page, (20, "new"), (28, "more"))
    timeline.wait_for_text("0: a\n24: newer\n28: more\n32: b")


def test_what_is_said_while_another_workflow_is_open_is_taken_later(timeline: Timeline) -> None:
    page = timeline.page
    workflow, node = page.evaluate(PLACE)
    saved = page.evaluate(SAVED)
    page.evaluate(CLEAR)
    tell(page, workflow=workflow, node=node, state="finished", steering=STEERING | {"said": [[20, "new"]]})
    page.evaluate(LOAD, saved)
    timeline.wait_for_text("0: a\n20: new\n32: b")


def test_a_step_back_gives_a_prompt_its_own_text_back(timeline: Timeline) -> None:
    say(timeline.page, (32, "new"))
    timeline.wait_for_text("0: a\n32: new")
    say(timeline.page, schedule='"0": "a",\n"32": "b"')
    timeline.wait_for_text("0: a\n32: b")


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
