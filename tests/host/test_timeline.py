"""The Multi-Prompt Scheduler's timeline in ComfyUI's own page: text and timeline are two views of one value."""

import json
import re
import urllib.error
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from artv_core.commands.comfyui_server import Server

from . import browser, front_end, workflow_format
from .timeline_steps import NAME, SCHEDULER, WIDGET, ZOOM_TO_IT, Timeline

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())

FIRST_WITH_PANELS = 37  # of 1.x, that was looked at; 1.27 has none in Nodes 2.0
# The scheduler's text in the prompt that is queued, and in the workflow that goes with it.
QUEUED = f"""async () => {{
    const {{id, widgets}} = {SCHEDULER}
    const {{output, workflow}} = await app.graphToPrompt()
    const {{widgets_values: saved}} = workflow.nodes.find(node => node.id == id)
    return [output[id].inputs.text, saved[widgets.findIndex(({{name}}) => name == "text")]]
}}"""
COMMENTED = '# in the morning\n"0": "a fox",  # red\n# at noon\n"16": "a fox asleep",\n"32": "a hare"'


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    with browser.open_browser() as context:
        yield context


@pytest.fixture(scope="module")
def page(context: Any, server: Server) -> Any:
    return browser.open_page(context, server)


@pytest.fixture
def timeline(page: Any) -> Iterator[Timeline]:
    timeline = Timeline(page)
    yield timeline
    assert timeline.faults == []


def changed(text: str, **starts: int) -> str:
    """The shipped text with other starts."""
    for before, after in starts.items():
        text = text.replace(f'"{before.removeprefix("f")}"', f'"{after}"')
    return text


def test_a_border_is_dragged_and_escape_puts_it_back(timeline: Timeline) -> None:
    before = timeline.text
    timeline.drag(timeline.border(0), 4, drop=False)
    assert "frames 0 to 19" in timeline.names()[0]
    assert timeline.text == before
    timeline.press("Escape")
    assert "frames 0 to 15" in timeline.names()[0]
    timeline.page.mouse.up()
    timeline.drag(timeline.border(0), 4)
    timeline.wait_for_text(changed(before, f16=20))
    timeline.drag(timeline.border(1), -30)
    timeline.wait_for_text(changed(before, f16=20, f32=21))
    assert "frames 20 to 20" in timeline.names()[1]


def test_places_are_right_however_far_the_canvas_is_zoomed(timeline: Timeline) -> None:
    before = timeline.text
    timeline.page.evaluate(ZOOM_TO_IT, 0.8)
    front_end.wait_until_drawn(timeline.page)
    timeline.drag(timeline.border(1), 8)
    timeline.wait_for_text(changed(before, f32=40))


def test_a_block_dragged_past_others_takes_its_length_along(timeline: Timeline) -> None:
    timeline.write('"0": "a", "8": "b", "32": "c"', "a", "b", "c")
    timeline.drag(timeline.block(0), 26)
    timeline.wait_for_text('"0": "b", "24": "a", "32": "c"')
    assert timeline.blocks == ["b", "a", "c"]
    assert "frames 24 to 31" in timeline.names()[1]


def test_a_double_click_splits_where_it_is(timeline: Timeline) -> None:
    timeline.write("0: a\n32: b", "a", "b")
    box = timeline.block(0).bounding_box()
    timeline.page.mouse.dblclick(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    timeline.wait_for_text("0: a\n8: a\n32: b")


def test_everything_is_done_by_keyboard(timeline: Timeline) -> None:
    timeline.write("0: a\n16: b\n32: c", "a", "b", "c")
    timeline.block(0).click()
    timeline.press("Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowLeft")
    timeline.wait_for_text("0: a\n17: b\n32: c")
    timeline.press("ArrowRight", "Control+ArrowLeft")
    timeline.wait_for_text("0: b\n15: a\n32: c")
    assert timeline.page.evaluate("() => document.activeElement.innerText") == "b", "the focus stayed behind"
    timeline.press("End", "s")
    timeline.wait_for_text("0: b\n15: a\n32: c\n40: c")
    timeline.press("ArrowLeft", "m", "Home", "m")
    timeline.wait_for_text("0: b, a\n32: c")
    timeline.press("Enter")
    timeline.page.keyboard.type(" at 5:00")
    timeline.wait_for_text("0: b, a at 5:00\n32: c")
    timeline.press("Escape", "ArrowRight", "Delete")
    timeline.wait_for_text("0: b, a at 5:00")
    assert timeline.page.evaluate(f"() => !!{SCHEDULER}"), "the page's own Delete removed the node"
    assert timeline.page.evaluate("() => document.activeElement.getAttribute('role')") == "option"
    timeline.press("Delete")
    assert "cannot be deleted" in timeline.page.locator(".artv-timeline-spoken").inner_text()


def test_many_short_prompts_can_be_reached(timeline: Timeline) -> None:
    timeline.text_box.fill("\n".join(f"{frame}: {frame}" for frame in range(48)))
    timeline.wait_for(48)
    timeline.block(0).click()
    timeline.press("End")
    panel, last = (timeline.page.locator(".artv-timeline").bounding_box(), timeline.block(47).bounding_box())
    assert last["width"] >= 10
    assert panel["x"] <= last["x"]
    assert last["x"] + last["width"] <= panel["x"] + panel["width"]


def test_fields_and_buttons_change_the_text(timeline: Timeline) -> None:
    timeline.write("0: a\n16: b\n32: c", "a", "b", "c")
    timeline.block(1).click()
    start, length = timeline.page.locator(".artv-timeline-fields input").all()
    start.fill("10")
    start.press("Tab")
    timeline.wait_for_text("0: a\n10: b\n32: c")
    length.fill("6")
    length.press("Enter")
    timeline.wait_for_text("0: a\n10: b\n16: c")
    timeline.button("left").click()
    timeline.wait_for_text("0: b\n6: a\n16: c")
    timeline.button("add").click()
    timeline.page.keyboard.type("a 'new' one")
    timeline.wait_for_text("0: b\n6: a\n16: c\n32: a 'new' one")
    timeline.button("remove").click()
    timeline.wait_for_text("0: b\n6: a\n16: c")


def test_undo_brings_the_text_back_and_the_keyboard_stays_there(timeline: Timeline) -> None:
    before = timeline.text
    timeline.block(1).click()
    timeline.press("Delete")
    timeline.wait_for_text(re.sub(r'"16".*\n', "", before))
    timeline.press("Control+z")
    timeline.wait_for_text(before)
    timeline.wait_for(3)
    timeline.page.wait_for_function("() => document.activeElement.getAttribute('role') == 'option'")


def test_comments_survive_a_drag(timeline: Timeline) -> None:
    timeline.write(COMMENTED, "a fox", "a fox asleep", "a hare")
    timeline.drag(timeline.border(0), -6)
    timeline.wait_for_text(COMMENTED.replace('"16"', '"10"'))
    timeline.drag(timeline.block(0), 20)
    timeline.wait_for_text('# at noon\n"0": "a fox asleep",\n# in the morning\n"22": "a fox",  # red\n"32": "a hare"')


def test_the_timeline_follows_text_and_settings(timeline: Timeline) -> None:
    timeline.write("a\nb\nc", "a", "b", "c")
    timeline.write("a\nb", "a", "b")
    fades = timeline.page.locator(".artv-timeline-fade")
    assert [fades.nth(index).is_visible() for index in range(2)] == [False, False]
    timeline.page.evaluate(f"() => {{ {WIDGET.format('blend_frames')}.value = 4 }}")
    fades.nth(1).wait_for(state="visible")
    assert fades.nth(1).bounding_box()["width"] > 10
    timeline.page.evaluate(f"() => {{ {WIDGET.format('segment_frames')}.value = 30 }}")
    timeline.page.wait_for_function(
        "() => document.querySelectorAll('.artv-timeline-block')[1].ariaLabel.includes('frames 30 to 47')"
    )


def test_what_is_typed_while_an_edit_is_on_its_way_is_not_lost(timeline: Timeline) -> None:
    page = timeline.page
    page.route("**/artv/schedule", lambda route: (page.wait_for_timeout(400), route.continue_()))
    timeline.block(0).click()
    timeline.press("s")
    timeline.text_box.fill("0: typed")
    page.wait_for_timeout(1000)
    page.unroute("**/artv/schedule")
    timeline.wait_for(1)
    assert timeline.text == "0: typed"


def test_what_was_just_typed_is_queued(timeline: Timeline) -> None:
    """In the prompt and in the workflow that goes with it, although the server takes its time."""
    page = timeline.page
    timeline.write("0: a\n16: b\n32: c", "a", "b", "c")
    page.route("**/artv/schedule", lambda route: (page.wait_for_timeout(400), route.continue_()))
    timeline.block(1).click()
    timeline.press("Enter")
    page.keyboard.type(", far")
    assert page.evaluate(QUEUED) == ["0: a\n16: b, far\n32: c"] * 2
    page.locator(".artv-timeline-fields input").last.fill("6")
    assert page.evaluate(QUEUED) == ["0: a\n16: b, far\n22: c"] * 2
    page.unroute("**/artv/schedule")


def test_a_fault_is_shown_at_its_place(timeline: Timeline) -> None:
    box = timeline.text_box
    faulty = "0: a fox\n\U0001f98a 16: b\n8: a hare, 24: c"
    box.fill(faulty)
    notice = timeline.page.locator(".artv-timeline-notice")
    notice.get_by_text("ine 2, column 1").wait_for()
    assert timeline.page.locator(".artv-timeline-excerpt mark").inner_text() == "\U0001f98a"
    assert timeline.text == faulty
    assert box.get_attribute("aria-invalid") == "true"
    assert len(timeline.blocks) == 3
    assert timeline.page.evaluate("() => document.querySelector('.artv-timeline-body').inert")
    box.fill("0: a \U0001f98a\n8: \U0001f98a, 24: c")
    notice.get_by_text("ine 2, column 7").wait_for()
    timeline.page.locator(".artv-timeline-excerpt").click()
    assert box.evaluate("(box) => document.activeElement == box && box.value.slice(box.selectionStart)") == "24: c"
    box.fill("0: a fox")
    timeline.wait_for(1)
    assert not notice.is_visible()
    assert box.get_attribute("aria-invalid") is None


def cautions(timeline: Timeline) -> Any:
    return timeline.page.locator(".artv-timeline-cautions")


def test_a_prompt_after_the_end_of_the_video_is_marked_before_a_run(timeline: Timeline) -> None:
    late = timeline.page.locator(".artv-timeline-late")
    assert late.count() == 0
    assert not timeline.page.locator(".artv-timeline-beyond").is_visible()
    front_end.set_widgets(timeline.page, front_end.SAMPLER, frames=32)
    cautions(timeline).get_by_text("Prompt 3 starts at frame 32, but the last frame is 31.").wait_for()
    assert late.count() == 1
    assert "after the end of the video" in timeline.names()[2]
    assert timeline.page.locator(".artv-timeline-beyond").is_visible()
    timeline.page.evaluate(f"() => {{ {WIDGET.format('num_frames')}.value = '100' }}")
    timeline.page.wait_for_timeout(600)
    assert late.count() == 1, "the sampler makes 32, whatever the scheduler says"
    timeline.page.evaluate(f"() => {{ {WIDGET.format('num_frames')}.value = 'auto' }}")
    front_end.set_widgets(timeline.page, front_end.SAMPLER, frames=33)
    cautions(timeline).wait_for(state="hidden")
    assert late.count() == 0


def test_labels_of_the_ruler_are_whole(timeline: Timeline) -> None:
    for last in (47, 33, 24, 1):
        timeline.text_box.fill(f"0: a\n{last}: a red circle")
        timeline.wait_for(2)
        timeline.page.wait_for_timeout(300)
        edge = timeline.page.locator(".artv-timeline-ruler").bounding_box()
        places = sorted((box["x"], box["x"] + box["width"]) for box in boxes(timeline, ".artv-timeline-tick"))
        assert places[0][0] >= edge["x"] - 1
        assert places[-1][1] <= edge["x"] + edge["width"] + 1
        assert all(one[1] <= other[0] + 1 for one, other in pairwise(places)), places


def boxes(timeline: Timeline, selector: str) -> list[dict[str, float]]:
    return [part.bounding_box() for part in timeline.page.locator(selector).all()]


def test_a_time_without_its_colon_is_told(timeline: Timeline) -> None:
    timeline.write("a red car\n16; a blue bus", "a red car", "16; a blue bus")
    told = "Line 2: “16; a blue bus” is read as words. To start a prompt at 16, write “16: a blue bus”."
    cautions(timeline).get_by_text(told).wait_for()
    timeline.text_box.fill("0: a red car; 16: a blue bus")
    cautions(timeline).get_by_text("write “16: a blue bus” on a line of its own").wait_for()
    timeline.write("0: a red car\n16: a blue bus", "a red car", "a blue bus")
    cautions(timeline).wait_for(state="hidden")
    assert "Shift" in timeline.page.locator(".artv-timeline-hint").inner_text(), "the keys are back"


def test_words_that_the_model_does_not_know_are_named_before_a_run(timeline: Timeline) -> None:
    front_end.set_widgets(timeline.page, "ARTVLoader", checkpoint="tiny (shipped)")
    line = cautions(timeline).get_by_text("does not know: dogs, circels (circle?). It ignores these words")
    timeline.write("0: two dogs\n16: red circels", "two dogs", "red circels")
    cautions(timeline).get_by_text("does not know: two, dogs, circels (circle?).").wait_for()
    timeline.write("0: a red dogs\n16: red circels", "a red dogs", "red circels")
    line.wait_for()
    assert "circle, circling" in cautions(timeline).get_attribute("title")
    timeline.write("0: a red circle", "a red circle")
    cautions(timeline).wait_for(state="hidden")
    timeline.page.evaluate(f"() => {{ {WIDGET.format('app_text')}.value = 'in fog' }}")
    cautions(timeline).get_by_text("does not know: in, fog.").wait_for()
    cautions(timeline).get_by_text("Each prompt also has a text before or after it").wait_for()
    panel = timeline.page.locator(".artv-words")
    panel.get_by_text("does not know: in, fog.").wait_for()


PROMPT = "app.graph.nodes.find(node => node.type == 'CLIPTextEncode')"
FEED_PROMPT = f"""(kind) => {{
    const feeder = LiteGraph.createNode(kind)
    app.graph.add(feeder)
    feeder.widgets[0].value = "a red wolf"
    feeder.connect(0, {PROMPT}, {PROMPT}.inputs.findIndex(input => input.name == "text"))
}}"""
INTO_A_SUBGRAPH = """(kinds) => {
    app.graph.convertToSubgraph(new Set(app.graph.nodes.filter(node => kinds.includes(node.type))))
}"""


def test_the_samplers_panel_names_unknown_words_of_any_prompt_it_can_read(page: Any) -> None:
    browser.load(page, workflow_format.read_ui("text_to_video"), "words")
    line = page.locator(".artv-words")
    page.wait_for_timeout(600)
    assert not line.is_visible()
    front_end.set_widgets(page, "ARTVLoader", checkpoint="tiny (shipped)")
    page.evaluate(f"() => {{ {PROMPT}.widgets[0].value = 'a {{red|green}} fox // and a wolf' }}")
    line.get_by_text("does not know: fox.").wait_for()
    for kind in ("PrimitiveStringMultiline", "PrimitiveString"):
        page.evaluate(FEED_PROMPT, kind)
        line.get_by_text("does not know: wolf.").wait_for()
    page.evaluate(INTO_A_SUBGRAPH, ["CLIPTextEncode"])
    page.wait_for_timeout(600)
    line.get_by_text("does not know: wolf.").wait_for()


def test_a_prompt_that_cannot_be_is_told_and_nothing_is_changed(timeline: Timeline) -> None:
    before = timeline.text
    timeline.block(0).click()
    timeline.press("Enter")
    timeline.page.keyboard.type(" --neg blue")
    timeline.page.locator(".artv-timeline-hint").get_by_text("got --neg").wait_for()
    assert timeline.text == before
    assert timeline.page.locator(".artv-timeline-prompt").input_value().endswith("--neg blue")


def test_a_wire_instead_of_text_is_said(timeline: Timeline) -> None:
    timeline.page.evaluate(
        f"""() => {{
        const node = {SCHEDULER}
        if (!node.inputs.some(input => input.name == "text")) node.convertWidgetToInput({WIDGET.format("text")})
        const other = LiteGraph.createNode(node.type)
        app.graph.add(other)
        other.connect(1, node, node.inputs.findIndex(input => input.name == "text"))
    }}"""
    )
    timeline.page.get_by_text("The text comes from a connected node").wait_for()


FEED = f"""([name, choose]) => {{
    const node = {SCHEDULER}
    const types = {{
        primitive: "PrimitiveFloat",
        other: Object.keys(LiteGraph.registered_node_types).find(type =>
            !/^Primitive|^ARTV/.test(type) && LiteGraph.registered_node_types[type].nodeData?.output?.[0] == "INT"),
    }}
    const feeder = LiteGraph.createNode(types[choose])
    app.graph.add(feeder)
    if (choose == "primitive") feeder.widgets[0].value = 24
    feeder.connect(0, node, node.inputs.findIndex(input => input.name == name))
}}"""


def test_numbers_from_connected_nodes_count(timeline: Timeline) -> None:
    """One that the page cannot read is not replaced by the one in the node, which is not used."""
    timeline.write("[0s-1s: a] [1s-2s: b]", "a", "b")
    assert "frames 0 to 7" in timeline.names()[0]
    timeline.page.evaluate(FEED, ["fps", "primitive"])
    timeline.page.wait_for_function(
        "() => document.querySelector('.artv-timeline-block').ariaLabel.includes('frames 0 to 23')"
    )
    timeline.page.evaluate(FEED, ["segment_frames", "other"])
    timeline.page.get_by_text("segment_frames comes from a connected node and is known only when").wait_for()


def test_without_the_server_the_text_goes_on_working(timeline: Timeline) -> None:
    timeline.page.route("**/artv/schedule", lambda route: route.abort())
    timeline.text_box.fill("0: alone")
    timeline.page.get_by_text("needs the server").wait_for()
    assert timeline.text == "0: alone"
    timeline.page.unroute("**/artv/schedule")
    timeline.faults[:] = [fault for fault in timeline.faults if "ERR_FAILED" not in fault]


def test_nothing_of_it_is_saved_or_queued(timeline: Timeline) -> None:
    expected = {node["id"]: node.get("widgets_values") for node in workflow_format.read_ui(NAME)["nodes"]}
    saved = timeline.page.evaluate("() => app.graph.serialize().nodes")
    scheduler = next(node for node in saved if node["type"] == "ARTVMultiPromptScheduler")
    assert scheduler["widgets_values"] == expected[scheduler["id"]]
    graph = browser.exported(timeline.page)
    inputs = next(part["inputs"] for part in graph.values() if part["class_type"] == "ARTVMultiPromptScheduler")
    twin = workflow_format.read_api(NAME).values()
    assert inputs == next(part["inputs"] for part in twin if part["class_type"] == "ARTVMultiPromptScheduler")
    assert "timeline" not in json.dumps(graph)


def test_nodes_2_shows_both_views_too(page: Any) -> None:
    version = page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__")
    if int(version.split(".")[1]) < FIRST_WITH_PANELS:
        pytest.skip(f"Nodes 2.0 of the front end {version} shows no panels of node packs")
    front_end.switch(page, nodes_2=True)
    try:
        timeline = Timeline(page)
        before = timeline.text
        box = page.locator("[data-node-id='2'] textarea").first
        timeline.drag(timeline.border(0), 4)
        timeline.wait_for_text(changed(before, f16=20))
        page.wait_for_function("([box, text]) => box.value == text", arg=[box.element_handle(), timeline.text])
        box.fill("0: a\n0: b")
        page.get_by_text("ine 2, column 1").wait_for()
        assert box.get_attribute("aria-invalid") == "true"
        box.fill("0: a\n8: b")
        timeline.wait_for(2)
        timeline.block(1).click()
        timeline.press("ArrowLeft", "Delete")
        timeline.wait_for_text("0: b")
        for _ in range(3):  # 1.37 lays nodes out anew after loading, which is a step of its own
            timeline.press("Control+z")
            page.wait_for_timeout(700)
            if timeline.text != "0: b":
                break
        timeline.wait_for_text("0: a\n8: b")
        timeline.wait_for(2)
        assert timeline.faults == []
    finally:
        front_end.switch(page, nodes_2=False)


TEXT_IS_LIGHT = """(light) => {
    const [, red] = getComputedStyle(document.querySelector(".artv-timeline")).color.match(/(\\d+)/)
    return (Number(red) > 128) == light
}"""


@pytest.mark.parametrize("palette", ["light", "dark"])
def test_all_text_can_be_read(page: Any, timeline: Timeline, palette: str) -> None:
    set_on(page, "Comfy.ColorPalette", palette)
    page.wait_for_function(TEXT_IS_LIGHT, arg=palette == "dark")
    seen = page.evaluate(front_end.READABLE, ".artv-timeline")
    assert len(seen) >= 12
    assert min(contrast for _, contrast, _ in seen) >= 4.5, seen
    assert min(size for *_, size in seen) >= 11, seen
    timeline.text_box.fill("0: a\n0: b")
    page.locator(".artv-timeline-excerpt").wait_for()
    notice = page.evaluate(front_end.READABLE, ".artv-timeline-notice")
    assert min(contrast for _, contrast, _ in notice) >= 4.5, notice


def test_the_timeline_speaks_the_pages_language(page: Any, timeline: Timeline) -> None:
    set_on(page, "Comfy.Locale", "zh")
    try:
        timeline.button("split").get_by_text(re.compile(r"[\u4e00-\u9fff]")).wait_for()
    finally:
        set_on(page, "Comfy.Locale", "en")


def set_on(page: Any, setting: str, value: str) -> None:
    """As the page's settings do it at once."""
    page.evaluate("([setting, value]) => app.extensionManager.setting.set(setting, value)", [setting, value])


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"text": 3}, "text is 3; a text is needed"),
        ({"text": "a", "segment_frames": 16, "wanted": {"prompts": {}}}, "wanted is not valid"),
    ],
)
def test_a_bad_question_is_refused_in_one_line(server: Server, question: dict[str, Any], message: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.post("/artv/schedule", question)
    assert refused.value.code == 400
    told = json.load(refused.value)["error"]
    assert message in told
    assert "\n" not in told
