"""Inputs that can say "auto": what the server reads, and what the page shows, saves and queues."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from artv_core.checkpoint import describe_checkpoint, shipped_checkpoint
from artv_core.commands.comfyui_server import LINKED_AS, Host, Server

from . import browser, front_end, workflow_format
from .conftest import InProcess, checkpoint_in, save_random_model
from .graphs import node, text_to_video
from .releases import made

NO_BROWSER = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())
SAMPLER = "ARTVMaskedDiffusionSampler"
AUTOMATIC = ("width", "height", "steps", "cfg", "cfg_references", "cfg_anchor", "cfg_first_frame")
MOST_VISIBLE = 6
TWO_LOOKS = 550
"""Milliseconds in which the pack's scripts look twice at what is on the page."""

# Reading

MEANS = "what the checkpoint recommends"
READ: dict[str, list[tuple[Any, Any]]] = {
    "steps": [
        *((auto, None) for auto in ("auto", "AUTO", " auto (12) ", "auto(12)", "", " ", None, 0, -1, "0", "-1", 0.0)),
        *((twelve, ["int", 12]) for twelve in (12, 12.0, "12", " 12.0 ")),
        ("2,5", f"steps is 2.5; give a whole number, or auto for {MEANS}"),
        (1001, "steps is 1001; give 1000 at most, or auto"),
        *((huge, "steps is too large a number; give 1000 at most, or auto") for huge in (10**400, "9" * 400)),
        *(
            (word, f"steps is {str(word)!r}; give a number, or auto for {MEANS}")
            for word in ("many", "nan", "1e3", True)
        ),
        ("automatic", f"steps is 'automatic'; give a number, or auto for {MEANS}"),
    ],
    "cfg": [
        *((auto, None) for auto in ("auto (7.5)", -1, -1.0, "-0.5", None)),
        *((zero, ["float", 0.0]) for zero in (0, "0", 0.0)),
        *((number, ["float", 7.5]) for number in (7.5, "7.5", " 7,5 ", "+7.5")),
        (7, ["float", 7.0]),
        (".5", ["float", 0.5]),
        ("100.5", "cfg is 100.5; give 100 at most, or auto"),
        *((huge, "cfg is too large a number; give 100 at most, or auto") for huge in (10**400, "9" * 400)),
        *((huge, None) for huge in (-(10**400), "-" + "9" * 400)),
        *((wrong, f"cfg is {str(wrong)!r}; give a number, or auto for {MEANS}") for wrong in (math.inf, -math.inf)),
    ],
    "anchor_level": [(-1, None), ("auto", None), (0, ["int", 0]), ("60", ["int", 60])],
    "frames": [
        *((every, None) for every in (0, "all", "All (48)", "")),
        (5, ["int", 5]),
        ("auto", "frames is 'auto'; give a number, or all for every frame from first_frame on"),
    ],
}
"""For each input, values and what is read from them: a type and a number, None for "auto", or an error."""


def test_numbers_texts_and_values_of_earlier_releases_are_read(
    in_process: InProcess, host: Host, tmp_path: Path
) -> None:
    values = {name: [value for value, _ in cases] for name, cases in READ.items()}
    (tmp_path / "values.json").write_text(json.dumps(values))
    found = in_process(host, "automatic", tmp_path)
    for name, cases in READ.items():
        assert list(zip(values[name], found[name], strict=True)) == cases


def test_wires_and_texts_bring_the_same_numbers(server: Server) -> None:
    """Numbers as numbers, as texts, and from nodes that give INT, FLOAT and STRING."""
    numbers = {"width": 64, "height": 72, "cfg": 1.5, "cfg_first_frame": 2.0}
    plain = made(server, text_to_video(frames=2, **numbers))
    assert made(server, text_to_video(frames=2, **{key: str(value) for key, value in numbers.items()})) == plain
    wired = text_to_video(frames=2, **numbers | {"width": ["w", 0], "cfg": ["c", 0], "cfg_first_frame": ["f", 0]})
    wired |= {"w": node("PrimitiveInt", value=64), "c": node("PrimitiveFloat", value=1.5)}
    wired |= {"f": node("PrimitiveString", value="2")}
    assert made(server, wired) == plain


def test_a_wire_that_brings_no_number_is_told_in_one_line(server: Server) -> None:
    graph = text_to_video(cfg=["words", 0]) | {"words": node("PrimitiveString", value="much")}
    result = server.run(graph)
    assert result.status == "error"
    assert result.message == "cfg is 'much'; give a number, or auto for what the checkpoint recommends"


# The page

VALUES = f"""() => Object.fromEntries(app.graph.nodes.find(node => node.type == "{SAMPLER}")
    .widgets.map(widget => [widget.name, widget.value]))"""
PLACE = f"""(name) => {{
    const node = app.graph.nodes.find(node => node.type == "{SAMPLER}")
    const {{scale, offset}} = app.canvas.ds
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [300 - node.pos[0], 150 - node.pos[1]]
    app.canvas.setDirty(true, true)
    const box = app.canvas.canvas.getBoundingClientRect()
    const widget = node.widgets.find(widget => widget.name == name)
    return [box.x + 300 + 200, box.y + 150 + (widget ? widget.y + 10 : -15)]
}}"""
# Whether undo would find no change in the sampler since the workflow was loaded.
AS_LOADED = f"""() => {{
    const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker
    const [now, then] = [app.graph.serialize(), tracker.initialState].map(({{nodes}}) =>
        JSON.stringify(nodes.find(node => node.type == "{SAMPLER}").widgets_values))
    return now == then
}}"""
UNDO_TO = f"""async ([name, value]) => {{
    const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker
    for (let step = 0; step < 4; step += 1) {{
        await tracker.undo()
        if (({VALUES})()[name] == value) return true
    }}
    return false
}}"""
FEED = f"""([kind, name, value]) => {{
    const sampler = app.graph.nodes.find(node => node.type == "{SAMPLER}")
    const feeder = LiteGraph.createNode(kind)
    app.graph.add(feeder)
    feeder.pos = [sampler.pos[0] - 300, sampler.pos[1] + 500]
    feeder.connect(0, sampler, sampler.inputs.findIndex(input => input.name == name))
    const widget = feeder.widgets[0]
    widget.value = value
    widget.callback?.(value)
    return !!sampler.inputs.find(input => input.name == name).link
}}"""
INTO_A_SUBGRAPH = f"""() => {{
    app.graph.convertToSubgraph(new Set(app.graph.nodes.filter(node => node.type == "{SAMPLER}")))
}}"""


@pytest.fixture(scope="module")
def opened(server: Server) -> Iterator[Any]:
    """A page for all tests: opening one takes seconds."""
    with browser.open_browser() as context:
        page = browser.open_page(context, server)
        page.errors = []
        page.on(
            "console", lambda one: page.errors.append(f"{one.text} {one.location}") if one.type == "error" else None
        )
        page.on("pageerror", lambda error: page.errors.append(str(error.stack)))
        yield page
    server.post("/settings", {front_end.NODES_2: False})


@pytest.fixture(scope="module", params=["classic", "Nodes 2.0"])
def page(opened: Any, server: Server, request: pytest.FixtureRequest) -> Any:
    if request.param == "Nodes 2.0" and not server.host.version.startswith("0.33"):
        pytest.skip("the Nodes 2.0 of this ComfyUI show no advanced inputs")
    opened.nodes_2 = request.param == "Nodes 2.0"
    front_end.switch(opened, opened.nodes_2)
    return opened


def open_workflow(page: Any, **sampler: Any) -> None:
    """The shipped workflow, with these values in the sampler's widgets, as files of earlier releases have them."""
    workflow = workflow_format.read_ui("text_to_video")
    values = next(one for one in workflow["nodes"] if one["type"] == SAMPLER)["widgets_values"]
    places = dict(zip(("width", "height", "steps", *AUTOMATIC[3:]), (1, 2, 6, 7, 8, 9, 10), strict=True))
    for name, value in sampler.items():
        values[places[name]] = value
    browser.load(page, workflow, "automatic")
    page.wait_for_function(f"() => ({VALUES})().steps != 'auto'", timeout=15_000)
    page.evaluate(PLACE, "none")
    page.wait_for_timeout(TWO_LOOKS)


def recommended() -> dict[str, str]:
    config = describe_checkpoint(shipped_checkpoint()).config
    sampling = config.sampling
    numbers = (config.size[1], config.size[0], sampling.steps, sampling.guidance_text, sampling.guidance_references)
    numbers += (sampling.guidance_anchor, sampling.first_frame_guidance)
    return {name: f"auto ({number:g})" for name, number in zip(AUTOMATIC, numbers, strict=True)}


def text_box(page: Any, name: str) -> Any:
    """The box of a widget in Nodes 2.0."""
    return page.locator("[data-node-id='3']").get_by_label(name, exact=True).first


def type_over(page: Any, name: str, text: str, then: str) -> None:
    """Click on a widget, type, and press Enter (classic) or Tab, until the widget has the value `then`."""
    if page.nodes_2:
        automatic = text_box(page, name).input_value().startswith("auto")
        text_box(page, name).click(click_count=1 if automatic else 3)  # "auto" is selected by one click
        if not text:
            page.keyboard.press("Delete")
    else:
        page.mouse.click(*page.evaluate(PLACE, name))
        page.wait_for_function("() => ['INPUT', 'TEXTAREA'].includes(document.activeElement?.tagName)")
        page.keyboard.press("Control+a")
        page.keyboard.press("Delete")
    page.keyboard.type(text)
    page.keyboard.press("Tab" if page.nodes_2 else "Enter")
    front_end.wait_until_drawn(page)
    page.wait_for_function(f"([name, value]) => ({VALUES})()[name] == value", arg=[name, then], timeout=15_000)


@NO_BROWSER
def test_few_inputs_are_shown_and_the_rest_on_demand(page: Any) -> None:
    open_workflow(page)
    keep(page, "few")
    few = front_end.visible_inputs(page, SAMPLER)
    assert few[:3] == ["frames", "width", "height"]
    assert len(few) <= MOST_VISIBLE, few
    if page.nodes_2:
        page.get_by_text("Show advanced inputs").first.click()
    else:
        page.mouse.click(*page.evaluate(PLACE, "none"), button="right")
        page.get_by_text("Show Advanced", exact=True).click()
    page.wait_for_function(f"(type) => ({front_end.VISIBLE})(type).includes('use_mask')", arg=SAMPLER)
    keep(page, "all")
    shown = front_end.visible_inputs(page, SAMPLER)
    assert {"videos", "steps", "cfg_references", "cfg_anchor", "cfg_first_frame", "sampler_name", "scheduler"} <= {
        *shown
    }
    assert "use_mask" in shown


@NO_BROWSER
def test_what_the_checkpoint_recommends_is_shown_but_not_saved_or_queued(page: Any) -> None:
    open_workflow(page)
    values = page.evaluate(VALUES)
    assert {name: values[name] for name in AUTOMATIC} == recommended()
    saved = page.evaluate(f"() => app.graph.serialize().nodes.find(node => node.type == '{SAMPLER}').widgets_values")
    assert saved == [16, "auto", "auto", 1, "fixed", 1, *["auto"] * 5, "recommended", "uniform", True]
    assert browser.exported(page)["3"]["inputs"] == workflow_format.read_api("text_to_video")["3"]["inputs"]
    assert page.evaluate(AS_LOADED)


@NO_BROWSER
def test_values_of_earlier_releases_become_auto_or_stay(page: Any) -> None:
    open_workflow(page, width=0, height=0, steps=0, cfg=-1.0, cfg_references=2.5, cfg_anchor=0, cfg_first_frame=-1)
    values = page.evaluate(VALUES)
    numbers = {"cfg_references": "2.5", "cfg_anchor": "0"}
    assert {name: values[name] for name in AUTOMATIC} == recommended() | numbers
    queued = browser.exported(page)["3"]["inputs"]
    expected = dict.fromkeys(AUTOMATIC, "auto") | {"cfg_references": 2.5, "cfg_anchor": 0}
    assert {name: queued[name] for name in AUTOMATIC} == expected
    assert page.evaluate(AS_LOADED)


@NO_BROWSER
def test_typing_over_it_counts_and_clearing_brings_auto_back(page: Any) -> None:
    open_workflow(page)
    type_over(page, "cfg", "2,5", then="2.5")
    assert browser.exported(page)["3"]["inputs"]["cfg"] == 2.5
    type_over(page, "width", "100", then="104")  # a multiple of 8
    page.get_by_text("width is 104 now: a multiple of 8, as the model needs. You typed 100.").first.wait_for()
    type_over(page, "width", "wide", then="104")  # what was there
    page.get_by_text('width is "wide". Type a number, or auto.').first.wait_for()
    assert page.evaluate(VALUES)["width"] == "104", "what was there"
    type_over(page, "width", "", then=recommended()["width"])
    assert page.evaluate(UNDO_TO, ["width", "104"]), "the page may also have kept what stood there while it was typed"


@NO_BROWSER
def test_what_was_typed_is_queued(page: Any, server: Server, checkpoint: str) -> None:
    open_workflow(page)
    front_end.use_checkpoint(page, checkpoint)
    front_end.set_widgets(page, SAMPLER, frames=2, seed=101 + page.nodes_2)
    type_over(page, "cfg", "1.5", then="1.5")
    browser.run(page)
    front_end.wait_for(page, "state == 'finished' && done == 2")
    while any(server.get("/queue").values()):  # what comes after the sampler
        time.sleep(0.2)
    latest = max(server.get("/history").values(), key=lambda ran: ran["prompt"][0])
    inputs = latest["prompt"][2]["3"]["inputs"]
    assert (inputs["cfg"], inputs["steps"], inputs["width"]) == (1.5, "auto", "auto")


@NO_BROWSER
def test_no_number_is_shown_for_the_size_of_references(page: Any) -> None:
    browser.load(page, workflow_format.read_ui("image_to_video"), "with references")
    widgets = "app.graph.getNodeById(3).widgets"
    page.wait_for_function(f"() => {widgets}.find(widget => widget.name == 'steps').value != 'auto'")
    values = dict(page.evaluate(f"() => {widgets}.map(widget => [widget.name, widget.value])"))
    assert (values["width"], values["height"]) == ("auto", "auto")


@NO_BROWSER
def test_the_scheduler_shows_the_samplers_length(page: Any) -> None:
    browser.load(page, workflow_format.read_ui("multi_prompt_long_video"), "prompts")
    length = """() => app.graph.nodes.find(node => node.type == "ARTVMultiPromptScheduler")
        .widgets.find(widget => widget.name == "num_frames").value"""
    page.wait_for_function(f"() => ({length})() == 'auto (48)'")
    front_end.set_widgets(page, SAMPLER, frames=50)
    page.wait_for_function(f"() => ({length})() == 'auto (50)'")


@NO_BROWSER
@pytest.mark.parametrize(("kind", "name", "value"), [("PrimitiveInt", "steps", 7), ("PrimitiveFloat", "cfg", 1.5)])
def test_number_nodes_can_be_wired(page: Any, kind: str, name: str, value: float) -> None:
    open_workflow(page)
    assert page.evaluate(FEED, [kind, name, value])
    queued = browser.exported(page)
    source = queued["3"]["inputs"][name][0]
    assert queued[source]["inputs"]["value"] == value


@NO_BROWSER
def test_the_pages_primitive_can_be_wired(page: Any) -> None:
    open_workflow(page)
    assert page.evaluate(FEED, ["PrimitiveNode", "steps", "9"])
    assert browser.exported(page)["3"]["inputs"]["steps"] == 9


@NO_BROWSER
def test_a_subgraph_means_the_same(page: Any) -> None:
    open_workflow(page, steps=5)
    before = browser.exported(page)["3"]["inputs"]
    page.evaluate(INTO_A_SUBGRAPH)
    page.wait_for_timeout(TWO_LOOKS)
    (inside,) = [part["inputs"] for part in browser.exported(page).values() if part["class_type"] == SAMPLER]
    assert {name: inside[name] for name in AUTOMATIC} == {name: before[name] for name in AUTOMATIC}


@NO_BROWSER
def test_nothing_of_this_pack_complained(page: Any) -> None:
    assert not [error for error in page.errors if f"extensions/{LINKED_AS}" in error]


def keep(page: Any, name: str) -> None:
    """A screenshot, to look at."""
    kind = "Nodes 2.0" if page.nodes_2 else "classic"
    front_end.SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=front_end.SCREENSHOTS / f"automatic {name}, {kind}.png")


def test_a_name_that_a_wire_brings_is_left_to_the_wire(in_process: InProcess, host: Host, tmp_path: Path) -> None:
    """Or the host would warn of a file called None, and load and sample again each time."""
    assert in_process(host, "wired_names", tmp_path) == [[], [], None, None]


def test_numbers_that_a_wire_brings_are_checked(in_process: InProcess, host: Host, tmp_path: Path) -> None:
    save_random_model(checkpoint_in(tmp_path))
    told = "upscale is 64; give 16 at most, or auto"
    assert in_process(host, "wired_sizes", tmp_path) == {
        "width 100": "width is 100; accepted are multiples of 8 up to 16384, such as 96",
        "height 1000000": "height is 1e+06; give 16384 at most, or auto",
        "stream": told,
        "decode": told,
    }
