"""The sampler's panel on ComfyUI's page, by the host's own front end and the newest one, classic and Nodes 2.0."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import Any

import pytest

from artv_core.commands.comfyui_server import LINKED_AS, Host, Server

from . import browser, front_end, timeline_steps, workflow_format
from .conftest import FAULTS
from .front_end import SAMPLER, FrontEnd

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())

OWN, OWN_2 = FrontEnd(), FrontEnd(nodes_2=True)
NEWEST, NEWEST_2 = FrontEnd(own=False), FrontEnd(own=False, nodes_2=True)
PAGES = (OWN, OWN_2, NEWEST_2, NEWEST)
"""One after the other, so that each front end is opened once, one with Nodes 2.0 and one without."""
STEPS = 2
SEEDS = count(7000)
"""Newer hosts keep the results of many prompts."""
NOISE, SCHEDULER = "ARTVNoiseAugment", "ARTVMultiPromptScheduler"
TEXT = f"app.graph.nodes.find(node => node.type == '{SCHEDULER}').widgets.find(one => one.name == 'text').value"
ADD_NOISE = f"""() => {{
    const sampler = app.graph.nodes.find(node => node.type == "{SAMPLER}")
    const noise = LiteGraph.createNode("{NOISE}")
    noise.pos = [sampler.pos[0], sampler.pos[1] + sampler.size[1] + 80]
    app.graph.add(noise)
    noise.connect(0, sampler, sampler.inputs.findIndex(input => input.name == "noise_augment"))
}}"""
SUCCEEDED = """async () => {
    const told = async (path) => (await app.api.fetchApi(path)).json()
    while ((await told("/queue")).queue_running.length) await new Promise(go => setTimeout(go, 100))
    const detail = { prompt_id: Object.keys(await told("/history")).at(-1) }
    app.api.dispatchEvent(new CustomEvent("execution_success", { detail }))
}"""
TOO_HIGH = "height is 68; accepted are multiples of 8 up to 16384, such as 64"
ADD_KEYFRAME = """() => {
    const add = (type, values) => {
        const node = LiteGraph.createNode(type)
        app.graph.add(node)
        for (const [name, value] of Object.entries(values)) node.widgets.find(one => one.name == name).value = value
        return node
    }
    const sampler = app.graph.nodes.find(node => node.type == "ARTVMaskedDiffusionSampler")
    const empty = add("EmptyLatentImage", {width: 64, height: 64, batch_size: 1})
    const keyframes = add("ARTVKeyframes", {positions: "4"})
    empty.connect(0, keyframes, 0)
    keyframes.connect(0, sampler, sampler.inputs.findIndex(input => input.name == "keyframes"))
}"""
PANELS = {
    SAMPLER: "artv-live",
    "ARTVMultiPromptScheduler": "artv-timeline",
    "ARTVLoader": "artv-checkpoint",
}
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
    without_previews = ("--preview-method", "none")  # the host's default: the pack's previews do not depend on it
    arguments = (*NEWEST.arguments, *without_previews)
    with Server(host, tmp_path_factory.mktemp("newest"), FAULTS, arguments=arguments) as server:
        yield server


Watched = tuple[Any, front_end.Faults]
"""A page, and what goes wrong on it."""


@pytest.fixture(scope="module")
def open_pages() -> Iterator[tuple[dict[bool, Watched], ExitStack]]:
    """The one that is open, by whether it is of the host's own front end, and what closes it."""
    with ExitStack() as stack:
        yield {}, stack


@pytest.fixture(scope="module", params=PAGES, ids=lambda page: page.name)
def watched_page(
    request: pytest.FixtureRequest, context: Any, host: Host, open_pages: tuple[dict[bool, Watched], ExitStack]
) -> tuple[Any, FrontEnd, front_end.Faults]:
    """A page for all tests of a front end, with what goes wrong on it: opening one takes seconds."""
    if not front_end.exists(request.param, host):
        pytest.skip(NO_NEWEST if front_end.newest_root() is None else "this front end has no Nodes 2.0 with panels")
    shown, (pages, stack) = request.param, open_pages
    if shown.own not in pages:
        pages.clear()
        stack.close()
        server = request.getfixturevalue("server" if shown.own else "newest_server")
        pages[shown.own] = stack.enter_context(front_end.opened(context, server, shown))
    page, faults = pages[shown.own]
    front_end.switch(page, shown.nodes_2)
    return page, shown, faults


@pytest.fixture
def opened(watched_page: tuple[Any, FrontEnd, front_end.Faults]) -> Iterator[tuple[Any, FrontEnd]]:
    """A page on which nothing of this pack goes wrong."""
    page, shown, faults = watched_page
    faults.seen.clear()
    yield page, shown
    front_end.wait_until_drawn(page)
    assert faults.seen == []


def only_on(shown: FrontEnd, *pages: FrontEnd) -> None:
    """For what is the pack's own, and takes long: the other pages run the same code."""
    if shown not in pages:
        pytest.skip(f"checked on: {', '.join(page.name for page in pages)}")


def keep(page: Any, shown: FrontEnd, host: Host, what: str) -> None:
    front_end.picture(page, f"{host.version} {shown.name} {what}")


def test_a_run_is_watched_scrubbed_cancelled_and_found_again(
    opened: tuple[Any, FrontEnd], host: Host, checkpoint: str
) -> None:
    page, shown = opened
    (front_end.open_template if shown in (OWN, NEWEST_2) else front_end.load_template)(page, "text_to_video")
    front_end.use_checkpoint(page, checkpoint)
    front_end.set_widgets(page, SAMPLER, frames=12, steps=STEPS, seed=next(SEEDS))
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

    if shown not in (OWN, NEWEST_2):
        return  # loading the page again takes longest
    front_end.slow_down(page)
    assert front_end.found_again(page, next(SEEDS))
    assert page.locator(".artv-live-status").inner_text().startswith("Stopped at frame")
    front_end.show_node(page, SAMPLER)
    keep(page, shown, host, "cancelled")


def test_the_panel_says_what_became_of_the_last_run_and_what_was_wrong(
    opened: tuple[Any, FrontEnd], host: Host, checkpoint: str
) -> None:
    page, shown = opened
    only_on(shown, OWN, NEWEST_2)
    seed = next(SEEDS)
    front_end.load_template(page, "text_to_video")
    front_end.use_checkpoint(page, checkpoint)
    front_end.show_node(page, SAMPLER)
    run = partial(run_with, page)
    run("finished", frames=6, steps=STEPS, seed=seed)
    assert front_end.status(page) == "Finished: 6 frames"

    front_end.set_as_saved(page, SAMPLER, "height", 68)
    run("refused")
    assert front_end.status(page) == f"Nothing was made | {TOO_HIGH}"
    assert not page.locator(".artv-live-picture").is_visible()
    with page.expect_response("**/artv/recall") as recalled:  # as if the first run's video was saved only now
        page.evaluate(SUCCEEDED)
    assert recalled.value.json()["runs"]
    front_end.wait_until_drawn(page)
    assert front_end.status(page) == f"Nothing was made | {TOO_HIGH}"
    keep(page, shown, host, "refused")
    run("cached", height=0)
    assert front_end.status(page) == "Nothing changed: the 6 frames of an earlier run"

    front_end.set_widgets(page, SAMPLER, frames=4000)
    front_end.start(page)
    front_end.wait_for(page, "state == 'running' && pictures >= 1 && done >= 3")
    front_end.cancel(page)
    front_end.wait_for(page, "state == 'stopped'")
    run("cached" if host.version == "0.33.0" else "finished", frames=6)  # older hosts keep the last prompt's results
    assert "6 frames" in front_end.status(page)
    assert page.locator(".artv-live-line").get_attribute("points").count(",") == 6
    keep(page, shown, host, "cached")

    page.evaluate(ADD_NOISE)
    front_end.set_widgets(page, NOISE, reference_level=5000)
    run("refused")
    assert front_end.status(page).startswith("Nothing was made | reference_noise_level is 5000; accepted are 0")
    front_end.set_widgets(page, NOISE, reference_level=-1, anchor_levels="0: a lot")
    run("refused")
    wrong = "ARTV Noise Augment: anchor_levels contains 'a lot'; give a frame and a whole number on each line, "
    wrong += "as in '0: 20'"
    assert front_end.status(page) == f"Nothing was made | {wrong}"
    keep(page, shown, host, "refused elsewhere")

    front_end.set_widgets(page, NOISE, anchor_levels="")
    run("finished", frames=1, width=128)
    advice = page.locator(".artv-live-size")
    assert "The video is 128x64 pixels, and this checkpoint is made for 64x64." in advice.inner_text()
    keep(page, shown, host, "strange size")
    run("finished", width="auto")
    assert not advice.is_visible()


def run_with(page: Any, state: str, **values: Any) -> None:
    """Run with these values in the sampler, until its panel says something new, and that this became of it."""
    front_end.set_widgets(page, SAMPLER, **values)
    before = front_end.status(page)
    browser.run(page)
    page.wait_for_function(f"(before) => {front_end.STATUS} != before", arg=before)
    front_end.wait_for(page, f"state == '{state}'")
    front_end.dismiss(page)


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


def test_a_panel_is_as_wide_as_its_node_after_the_side_panel_was_open(opened: tuple[Any, FrontEnd]) -> None:
    page, _ = opened
    browser.load(page, workflow_format.read_ui("multi_prompt_long_video"), "multi_prompt_long_video")
    for kind, panel in PANELS.items():
        front_end.show_node(page, kind)
        front_end.look_at_side_panel(page, kind)
        for by in (0, 150, -100):
            front_end.widen(page, kind, by)
            node_width, panel_width = front_end.widths(page, kind, panel)
            assert node_width - 50 <= panel_width <= node_width, kind


def test_a_timeline_is_edited_by_mouse_keyboard_and_text(opened: tuple[Any, FrontEnd], host: Host) -> None:
    page, shown = opened
    assert all(timeline_steps.edit(page).values())
    keep(page, shown, host, "timeline")


def test_the_panel_shows_a_keyframe_in_the_middle(opened: tuple[Any, FrontEnd], host: Host, checkpoint: str) -> None:
    page, shown = opened
    only_on(shown, OWN)
    front_end.load_template(page, "text_to_video")
    front_end.use_checkpoint(page, checkpoint)
    page.evaluate(ADD_KEYFRAME)
    front_end.set_widgets(page, SAMPLER, frames=8, steps=STEPS, seed=next(SEEDS))
    front_end.show_node(page, SAMPLER)
    front_end.watch_run(page, frames=8)
    assert page.locator(".artv-live-status").inner_text() == "Finished: 8 frames"
    front_end.wait_for(page, "pictures == 8")
    page.locator(".artv-live-switch input").check()
    for frame, has_mask in ((3, True), (4, False), (5, True)):
        page.get_by_label("Frame", exact=True).fill(str(frame))
        assert page.locator(".artv-live-stage").get_attribute("data-frame") == str(frame)
        assert page.locator(".artv-live-mask").is_visible() == has_mask
    assert len(page.locator(".artv-live-line").get_attribute("points").split()) == 8
    keep(page, shown, host, "keyframes")


def test_a_page_opened_later_finds_the_run_in_the_same_browser_only(
    opened: tuple[Any, FrontEnd], context: Any, server: Server, checkpoint: str
) -> None:
    page, shown = opened
    only_on(shown, OWN)
    workflow = workflow_format.read_ui("text_to_video")
    browser.load(page, workflow, "text_to_video")
    front_end.use_checkpoint(page, checkpoint)
    front_end.set_widgets(page, SAMPLER, frames=4, steps=STEPS, seed=next(SEEDS))
    front_end.watch_run(page, frames=4)
    other_browser = "localStorage.removeItem('ARTV.runs')"
    for script, state in (("", "finished"), (other_browser, "empty")):
        page = browser.open_page(context, server, listen=lambda page, script=script: page.add_init_script(script))
        browser.load(page, workflow, "text_to_video")
        if state == "empty":
            page.wait_for_timeout(1000)  # in which a run would be found
        front_end.wait_for(page, f"state == '{state}'", seconds=10)
        page.close()


def test_what_a_page_keeps_of_a_run_has_bounds(opened: tuple[Any, FrontEnd]) -> None:
    page, shown = opened
    only_on(shown, OWN)
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


def test_a_run_is_directed_from_the_panel_and_the_timeline_keeps_it(
    opened: tuple[Any, FrontEnd], host: Host, checkpoint: str
) -> None:
    """Another prompt by Enter, paused, taken back, stopped; queued again with the timeline as it has grown."""
    page, shown = opened
    only_on(shown, OWN)
    front_end.load_template(page, "multi_prompt_long_video")
    front_end.use_checkpoint(page, checkpoint)
    front_end.set_widgets(page, SCHEDULER, text='"0": "a red circle moving right on a green background"')
    front_end.set_widgets(page, SAMPLER, frames=400, steps=STEPS, seed=next(SEEDS))
    front_end.slow_down(page)
    front_end.show_node(page, SAMPLER)
    front_end.start(page)
    front_end.wait_for(page, "state == 'running' && pictures >= 1 && done >= 3")
    field = page.locator(".artv-steer-prompt")
    page.locator(".artv-steer-words").select_option("blue")
    assert field.input_value() == "blue"
    field.fill("")
    field.press("Enter")
    page.get_by_text("Write what the video should show next.").wait_for()
    field.fill("a blue square moving up on a green background")
    field.press("Enter")
    page.wait_for_function(f"() => {TEXT}.includes('a blue square moving up')")
    assert field.input_value() == ""
    page.locator(".artv-steer-pause").press("Enter")
    page.wait_for_function("() => document.querySelector('.artv-steer-pause').textContent == 'Go on'")
    keep(page, shown, host, "steered")
    done = page.evaluate(f"() => +{front_end.PANELS}[0].dataset.done")
    page.get_by_role("button", name="Back 1 s").click()
    page.wait_for_function(f"(done) => +{front_end.PANELS}[0].dataset.done < done", arg=done)
    page.get_by_role("button", name="Go on").click()
    front_end.wait_for(page, f"done > {done}")
    page.get_by_role("button", name="Stop here").click()
    front_end.wait_for(page, "state == 'finished'")
    assert not page.locator(".artv-steer").is_visible()
    assert int(page.evaluate(f"() => {front_end.PANELS}[0].dataset.done")) < 400


def test_the_timeline_grows_by_what_is_said_and_by_no_more(opened: tuple[Any, FrontEnd]) -> None:
    """As pure values: a step back takes back what was said for the frames that are dropped."""
    page, shown = opened
    only_on(shown, OWN)
    grown = f"""async ([schedule, before, said, going]) => {{
        const {{steered}} = await import("/extensions/{LINKED_AS}/timeline_edits.js")
        const {{prompts, end}} = steered(schedule, before, said, going)
        return [prompts.map(({{start, text}}) => [start, text]), end]
    }}"""
    prompts = [{"source": 0, "start": 0, "text": "a"}, {"source": 1, "start": 9, "text": "b"}]

    def after(before: list, said: list, end: int | None = None, going: dict | None = None) -> list:
        return page.evaluate(grown, [{"prompts": prompts, "end": end}, before, said, going or {}])

    assert after([], [[4, "c"]]) == [[[0, "a"], [4, "c"], [9, "b"]], None]
    assert after([[9, "b"]], [[5, "c"]]) == [[[0, "a"], [5, "c"]], None]
    assert after([], [[9, "c"]], end=12) == [[[0, "a"], [9, "c"]], 12]
    assert after([], [[20, "c"]], end=12) == [[[0, "a"], [9, "b"], [20, "c"]], None]
    assert after([[9, "b"]], [], going={"0": "a", "9": "d"}) == [[[0, "a"], [9, "d"]], None]
    assert after([[9, "changed since"]], []) == [[[0, "a"], [9, "b"]], None]
    assert after([[4, "removed since"]], [[4, "removed since"], [12, "c"]]) == [[[0, "a"], [9, "b"], [12, "c"]], None]
