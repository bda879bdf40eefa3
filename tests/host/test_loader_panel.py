"""The loader's panel: the checkpoint's real figures, and the recommended settings taken with no button."""

import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from artv_core.checkpoint import describe_checkpoint, save_checkpoint, shipped_checkpoint
from artv_core.checkpoint.info import checkpoint_facts
from artv_core.commands.comfyui_server import LINKED_AS, Server
from tests.models import untrained

from . import browser, front_end, workflow_format

NO_BROWSER = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())
LOADER, SAMPLER = "ARTVLoader", "ARTVMaskedDiffusionSampler"
ROW = ".artv-checkpoint-row"

WIDGETS = (
    "(type) => Object.fromEntries(app.graph.nodes.find(node => node.type == type).widgets.map(w => [w.name, w.value]))"
)
SET_WIDGET = """([type, name, value]) => {
    const node = app.graph.nodes.find(node => node.type == type)
    const widget = node.widgets.find(widget => widget.name == name)
    widget.value = value
    widget.callback?.(value, app.canvas, node)
    const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker
    ;(tracker.captureCanvasState ?? tracker.checkState).call(tracker)
}"""
THROUGH_A_LORA = """() => {
    const of = (type) => app.graph.nodes.find(node => node.type == type)
    const [loader, sampler] = [of("ARTVLoader"), of("ARTVMaskedDiffusionSampler")]
    const lora = LiteGraph.createNode("ARTVLoRA")
    app.graph.add(lora)
    loader.connect(0, lora, 0)
    lora.connect(0, sampler, sampler.inputs.findIndex(input => input.name == "model"))
}"""

TEXT_IS = """(dark) => {
    const [, red] = getComputedStyle(document.querySelector(".artv-checkpoint")).color.match(/(\\d+)/)
    return (Number(red) < 128) == dark
}"""
BACKGROUND = """(selector) => {
    for (let part = document.querySelector(selector); part; part = part.parentElement) {
        const {backgroundColor} = getComputedStyle(part)
        if (!/, 0\\)$/.test(backgroundColor)) return backgroundColor
    }
}"""
"""The colour behind what the selector finds."""
BY_REROUTES = """() => {
    app.graph.clear()
    const add = (type) => { const node = LiteGraph.createNode(type); app.graph.add(node); return node }
    const [loader, sampler, noise] = ["ARTVLoader", "ARTVMaskedDiffusionSampler", "ARTVNoiseAugment"].map(add)
    const wire = (from, name) => {
        const reroute = add("Reroute")
        from.connect(0, reroute, 0)
        reroute.connect(0, sampler, sampler.inputs.findIndex(input => input.name == name))
    }
    wire(loader, "model")
    wire(noise, "noise_augment")
    sampler.widgets.find(widget => widget.name == "steps").value = 44
    noise.widgets.find(widget => widget.name == "anchor_levels").value = "0: 20"
}"""
INTO_A_SUBGRAPH = """() => {
    app.graph.convertToSubgraph(new Set(app.graph.nodes.filter(node => node.type != "ARTVLoader")))
}"""
LOADER_INTO_A_SUBGRAPH = """() => {
    const {subgraph, node} = app.graph.convertToSubgraph(new Set(app.graph.nodes))
    const loader = subgraph.nodes.find(inner => inner.type == "ARTVLoader")
    subgraph.addInput("file", "COMBO").connect(loader.inputs.find(one => one.name == "checkpoint"), loader)
    node.widgets.find(widget => widget.name == "file").value = "tiny (shipped)"
    app.canvas.openSubgraph(subgraph, node)
}"""
FILE_FROM_A_NODE = """() => {
    const loader = app.graph.nodes.find(node => node.type == "ARTVLoader")
    const primitive = LiteGraph.createNode("PrimitiveNode")
    app.graph.add(primitive)
    primitive.connect(0, loader, loader.inputs.findIndex(input => input.name == "checkpoint"))
}"""
NEW_LOADER = """() => {
    for (const page of document.querySelectorAll(".artv-checkpoint-page")) page.dataset.old = "yes"
    app.graph.clear()
    app.graph.add(LiteGraph.createNode("ARTVLoader"))
}"""
ENGLISH = """() => {
    window.nodeBefore = app.graph.nodes[0]
    return app.extensionManager.setting.set("Comfy.Locale", "en")
}"""
MORE = ".artv-checkpoint-more"
CUT = """() => {
    const panel = document.querySelector(".artv-checkpoint")
    return [panel, ...panel.querySelectorAll("*")].filter(part => getComputedStyle(part).overflow != "visible")
        .filter(part => part.scrollHeight > part.clientHeight || part.scrollWidth > part.clientWidth)
        .map(part => part.className)
}"""
"""What has no room for all that is in it."""


def refused(server: Server, question: dict[str, Any]) -> str:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        server.post("/artv/checkpoint", question)
    assert refusal.value.code == 400
    return refusal.value.read().decode()


@pytest.fixture(scope="module")
def partial(server: Server) -> Iterator[str]:
    """A file of trained parts alone, by its name in the menu."""
    path = server.base / "models/artv/partial.safetensors"
    save_checkpoint(untrained(), path, parts=["branches", "mask"], base="sd.safetensors")
    yield path.name
    path.unlink()


@pytest.fixture(scope="module")
def opened(server: Server, partial: str) -> Iterator[Any]:
    """A page for all tests: opening one takes seconds."""
    with browser.open_browser() as context:
        page = browser.open_page(context, server)
        page.errors = []
        page.on(
            "console", lambda one: page.errors.append(f"{one.text} {one.location}") if one.type == "error" else None
        )
        page.on("pageerror", lambda error: page.errors.append(str(error.stack)))
        page.wait_for_function("() => app.graph.nodes.length > 0")  # the host's own first graph
        yield page
    server.post("/settings", {front_end.NODES_2: False})


@pytest.fixture(scope="module", params=["classic", "Nodes 2.0"])
def page(opened: Any, server: Server, request: pytest.FixtureRequest) -> Any:
    if request.param == "Nodes 2.0" and server.host.version.startswith("0.3."):
        pytest.skip("the Nodes 2.0 of this ComfyUI show no extension's widgets")
    front_end.switch(opened, request.param == "Nodes 2.0")
    return opened


@pytest.fixture
def panel(page: Any) -> Any:
    """The loader's panel in the shipped graph text_to_video."""
    browser.load(page, workflow_format.read_ui("text_to_video"), "text_to_video")
    page.locator(ROW).first.wait_for()
    return page.locator(".artv-checkpoint-page")


def state(panel: Any, name: str) -> str:
    """What the row of a setting says of the wired nodes."""
    return panel.locator(ROW).filter(has=panel.page.get_by_text(name, exact=True)).locator("span").last.inner_text()


def test_the_server_answers_from_the_header(server: Server, partial: str) -> None:
    facts = server.post("/artv/checkpoint", {"checkpoint": "small (shipped)", "base": "none"})
    assert facts == checkpoint_facts(describe_checkpoint(shipped_checkpoint()))
    facts = server.post("/artv/checkpoint", {"checkpoint": partial, "base": "none"})
    assert (facts["missing"], facts["trained_on"]) == (["unet", "vae", "text"], "sd.safetensors")
    assert facts["name"] == "tiny"


def test_what_cannot_be_answered_is_one_line_without_a_path(server: Server) -> None:
    broken = server.base / "models/artv/broken.safetensors"
    broken.write_bytes(b"\x80\x04 a pickle")
    questions = [{}, {"checkpoint": 5}, {"checkpoint": "none.safetensors"}, {"checkpoint": broken.name}]
    questions += [{"checkpoint": "tiny (shipped)", "base": "../x"}, {"checkpoint": "../../etc/passwd"}]
    for question in questions:
        told = refused(server, question)
        assert "\\n" not in told
        assert str(server.base) not in told
        assert str(Path.home()) not in told
    assert "broken.safetensors is a pickle" in refused(server, {"checkpoint": broken.name})
    broken.unlink()


@NO_BROWSER
def test_the_panel_shows_the_files_figures(panel: Any) -> None:
    summary = describe_checkpoint(shipped_checkpoint())
    panel.locator(MORE).click()
    config, told = summary.config, panel.inner_text()
    for fact in (
        config.name,
        f"{summary.file_bytes / 1e6:.1f} MB",
        f"knows {len(config.vocabulary)} words",
        f"{config.segment_frames} ({config.segment_frames / config.fps:g} s at {config.fps:g} per second)",
        f"{sum(summary.parameters.values()) / 1e6:.1f}M",
        f"mask {summary.parameters['mask'] / 1e6:.3g}M",
        ", ".join(config.vocabulary),
        config.sampling.sampler,
    ):
        assert fact in told, fact
    rows = [row.split("\n") for row in panel.locator(f"{ROW}:not(.artv-checkpoint-wide)").all_inner_texts()]
    recommended = {"size": "128 x 128", **checkpoint_facts(summary)["recommended"]}
    shown = {name: value if isinstance(value, str) else f"{value:g}" for name, value in recommended.items()}
    shown["steps"] += f" (first frame {config.sampling.first_frame_steps})"
    assert {name: value for name, value, _ in rows} == shown
    assert {told for _, _, told in rows} == {"in use"}


@NO_BROWSER
@pytest.mark.parametrize("nodes", ["template", "new"])
@pytest.mark.parametrize("locale", ["en", "zh"])
def test_what_artists_need_comes_first_and_nothing_is_cut(page: Any, panel: Any, nodes: str, locale: str) -> None:
    """In a template `small`, whose list of words ends with dots; in a new loader `tiny`, which knows few."""
    name, cut = "small", ["artv-checkpoint-words"]
    if nodes == "new":
        page.evaluate(NEW_LOADER)
        page.wait_for_function("() => !document.querySelector('.artv-checkpoint-page[data-old]')")
        name, cut = "tiny", []
        page.evaluate(SET_WIDGET, [LOADER, "checkpoint", "tiny (shipped)"])
    page.evaluate("(locale) => app.extensionManager.setting.set('Comfy.Locale', locale)", locale)
    try:
        vocabulary = describe_checkpoint(shipped_checkpoint(name)).config.vocabulary
        words = ", ".join(vocabulary)
        panel.get_by_text(f"{len(vocabulary)}").first.wait_for()
        first = {"en": ["size", "frames", "steps"], "zh": ["尺寸", "帧数", "步数"]}[locale]
        panel.get_by_text(first[0], exact=True).wait_for()
        assert page.evaluate(CUT) == cut
        told = panel.inner_text()
        assert told.index(words) < min(told.index(f"\n{name}\n") for name in first)
        visible = [row for row in panel.locator(ROW).all() if row.is_visible()]
        assert [row.inner_text().split("\n")[0] for row in visible] == first
        assert not panel.locator(".artv-checkpoint-facts").is_visible()
        panel.locator(MORE).focus()
        page.keyboard.press("Enter")
        assert panel.locator(".artv-checkpoint-facts").is_visible()
        assert panel.locator(MORE).get_attribute("aria-expanded") == "true"
    finally:
        page.evaluate(ENGLISH)
        if locale != "en":  # the page loads its graph again, which must not come after what the next test loads
            page.wait_for_function("() => app.graph.nodes[0] != window.nodeBefore")


@NO_BROWSER
def test_in_a_subgraph_the_file_on_its_outside_counts(page: Any, server: Server, panel: Any) -> None:
    if server.host.version.startswith("0.3."):
        pytest.skip("the subgraphs of this ComfyUI have no widgets for added inputs")
    page.evaluate(LOADER_INTO_A_SUBGRAPH)
    try:
        words = len(describe_checkpoint(shipped_checkpoint("tiny")).config.vocabulary)
        panel.get_by_text(f"knows {words} words").wait_for()
        assert panel.locator(".artv-checkpoint-warning").count() == 0
    finally:
        page.evaluate("() => app.canvas.setGraph(app.rootGraph)")


@NO_BROWSER
def test_a_file_from_a_node_is_a_note_and_no_fault(page: Any, panel: Any) -> None:
    page.evaluate(FILE_FROM_A_NODE)
    panel.get_by_text("The file is chosen by a connected node").wait_for()
    assert panel.locator(".artv-checkpoint-note").count() == 1
    assert panel.locator(".artv-checkpoint-warning").count() == 0


@NO_BROWSER
def test_what_differs_is_shown_and_taken_by_keyboard_and_can_be_undone(page: Any, panel: Any) -> None:
    page.evaluate(THROUGH_A_LORA)
    page.evaluate(SET_WIDGET, [SAMPLER, "cfg", 7.5])
    row = panel.locator(f"{ROW}[role=button]")
    row.wait_for()  # in sight, although cfg is not among what is shown first
    assert row.get_attribute("aria-label") == "cfg: sampler has 7.5. Use the recommended value"
    row.focus()
    page.keyboard.press("Enter")
    row.wait_for(state="detached")
    assert page.evaluate(WIDGETS, SAMPLER)["cfg"].startswith("auto")
    assert state(panel, "cfg") == "in use"
    assert "artv-checkpoint-row" in page.evaluate("() => document.activeElement.className")
    page.keyboard.press("Control+z")
    page.locator(f"{ROW}[role=button]").wait_for()  # of the node that undoing made anew
    assert page.evaluate(WIDGETS, SAMPLER)["cfg"] == "7.5"


@NO_BROWSER
def test_what_other_settings_change_is_told_too(page: Any, panel: Any) -> None:
    """Typed steps are also those of the first frame, which should have more; ddim has no noise."""
    panel.locator(MORE).click()
    page.evaluate(SET_WIDGET, [SAMPLER, "steps", 4])
    row = panel.locator(f"{ROW}[role=button]")
    row.wait_for()
    assert (state(panel, "steps"), state(panel, "eta")) == ("sampler has 4", "in use")
    row.click()
    row.wait_for(state="detached")
    assert page.evaluate(WIDGETS, SAMPLER)["steps"].startswith("auto")
    page.evaluate(SET_WIDGET, [SAMPLER, "sampler_name", "ddim"])
    row.wait_for()
    assert state(panel, "eta") == "0, as sampler_name is ddim"


@NO_BROWSER
def test_samplers_are_found_behind_reroutes_and_in_subgraphs(page: Any, panel: Any) -> None:
    for step in (BY_REROUTES, INTO_A_SUBGRAPH):
        page.evaluate(step)
        page.wait_for_function(f"() => document.querySelectorAll('{ROW}[role=button]').length == 2")
        assert state(panel, "steps") == "sampler has 44"
        assert state(panel, "anchor_level") == "varies by frame"
        assert state(panel, "reference_level") == "in use"


@NO_BROWSER
def test_the_nodes_menu_takes_all(page: Any, panel: Any) -> None:
    for name, value in (("steps", 30), ("sampler_name", "ddim"), ("cfg_anchor", 2)):
        page.evaluate(SET_WIDGET, [SAMPLER, name, value])
    page.wait_for_function(f"() => document.querySelectorAll('{ROW}[role=button]').length == 3")
    x, y = page.evaluate(
        """() => {
            const node = app.graph.nodes.find(node => node.type == "ARTVLoader")
            const {scale, offset} = app.canvas.ds
            app.canvas.ds.offset = [300 / scale - node.pos[0], 300 / scale - node.pos[1]]
            app.canvas.setDirty(true, true)
            const box = app.canvas.canvas.getBoundingClientRect()
            return [box.x + 300 + 150 * scale, box.y + 300 - 12 * scale]
        }"""
    )
    page.wait_for_timeout(300)  # the page draws where the node is now
    page.mouse.click(x, y, button="right")
    page.get_by_text("Use the recommended settings").first.click()
    page.wait_for_function(f"() => document.querySelectorAll('{ROW}[role=button]').length == 0")
    widgets = page.evaluate(WIDGETS, SAMPLER)
    assert widgets["sampler_name"] == "recommended"
    assert (widgets["steps"][:4], widgets["cfg_anchor"][:4]) == ("auto", "auto")


@NO_BROWSER
def test_faults_and_missing_parts_are_told(page: Any, server: Server, panel: Any, partial: str) -> None:
    page.evaluate(SET_WIDGET, [LOADER, "checkpoint", partial])
    panel.get_by_text("choose sd.safetensors in the menu 'base'").first.wait_for()
    assert panel.locator(".artv-checkpoint-warning").count() == 3
    base = server.base / "models/checkpoints/eps.safetensors"
    keys = ("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.model.ln_final.weight")
    save_file({key: torch.zeros(1) for key in keys}, base, {"modelspec.prediction_type": "epsilon"})
    page.evaluate(SET_WIDGET, [LOADER, "base", base.name])
    panel.get_by_text("eps.safetensors predicts eps, the configuration says v; take another base").wait_for()
    assert panel.locator(".artv-checkpoint-warning").count() == 2  # the VAE is missing, too
    base.unlink()
    page.evaluate(SET_WIDGET, [LOADER, "checkpoint", "gone.safetensors"])
    panel.get_by_text("there is no checkpoint 'gone.safetensors' in models/artv").wait_for()
    assert panel.locator(ROW).count() == 0


@NO_BROWSER
def test_it_is_no_part_of_what_is_saved_or_queued(page: Any, panel: Any) -> None:
    saved = page.evaluate("() => app.graph.nodes.find(node => node.type == 'ARTVLoader').serialize()")
    assert saved["widgets_values"] == ["small (shipped)", "none", False, True]
    shipped = next(node for node in workflow_format.read_ui("text_to_video")["nodes"] if node["type"] == LOADER)
    assert (saved["color"], saved["bgcolor"]) == (shipped["color"], shipped["bgcolor"])
    loader = next(part for part in browser.exported(page).values() if part["class_type"] == LOADER)
    assert loader["inputs"] == {"checkpoint": "small (shipped)", "base": "none", "compile": False, "graph": True}


@NO_BROWSER
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_can_be_read(page: Any, server: Server, panel: Any, theme: str) -> None:
    page.evaluate(SET_WIDGET, [SAMPLER, "cfg", 7.5])
    page.locator(f"{ROW}[role=button]").wait_for()
    panel.locator(MORE).click()
    page.evaluate("(theme) => app.extensionManager.setting.set('Comfy.ColorPalette', theme)", theme)
    page.wait_for_function(TEXT_IS, arg=theme == "light")
    contrasts = page.evaluate(front_end.READABLE, ".artv-checkpoint")
    assert len(contrasts) > 30
    assert not [one for one in contrasts if one[1] < 4.5]
    # It looks like the page's own fields. In the Nodes 2.0 of 0.12.1 a text box looks different from the other fields.
    if page.evaluate("() => LiteGraph.vueNodesMode") and not server.host.version.startswith("0.12."):
        assert page.evaluate(BACKGROUND, ".artv-checkpoint") == page.evaluate(BACKGROUND, "[data-node-id] textarea")


@NO_BROWSER
def test_new_nodes_have_colours_that_can_be_read_and_saved_ones_their_own(page: Any, panel: Any) -> None:
    looks = page.evaluate(
        """() => Object.entries(LiteGraph.registered_node_types)
            .filter(([, made]) => made.nodeData?.category == "ARTV").map(([type]) => {
            const node = LiteGraph.createNode(type)
            const needed = [...node.computeSize()]
            return {type, color: node.color, bgcolor: node.bgcolor, size: [...node.size], needed}
        })"""
    )
    assert len(looks) == 18
    for look in looks:
        assert contrast(look["color"], "#999999") > 4.5, look  # the dark theme's title
        assert contrast(look["bgcolor"], "#aaaaaa") > 4.5, look  # and its slots
        assert all(size >= needed for size, needed in zip(look["size"], look["needed"], strict=True)), look
        assert look["size"][0] >= 300, look
    workflow = workflow_format.read_ui("text_to_video")
    loader = next(node for node in workflow["nodes"] if node["type"] == LOADER)
    loader.update(color="#123456", bgcolor="#654321")
    sampler = next(node for node in workflow["nodes"] if node["type"] == SAMPLER)
    del sampler["color"], sampler["bgcolor"]  # whoever saved it so wants none
    browser.load(page, workflow, "coloured")
    nodes = page.evaluate("() => app.graph.nodes.map(node => node.serialize())")
    coloured = {node["type"]: (node["color"], node["bgcolor"]) for node in nodes if node.get("color")}
    kept = {node["type"]: (node["color"], node["bgcolor"]) for node in workflow["nodes"] if node.get("color")}
    assert coloured == kept


@NO_BROWSER
def test_nothing_of_ours_complained(page: Any, panel: Any) -> None:
    assert not [error for error in page.errors if f"extensions/{LINKED_AS}" in error]


def contrast(one: str, other: str) -> float:
    """WCAG 2's ratio of two colours such as "#123456"."""
    low, high = sorted(_luminance(colour) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
