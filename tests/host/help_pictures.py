"""`python -m tests.host.help_pictures` makes the pictures of the nodes' help pages, `js/docs/NODE/node.jpg`.

Each is the node in ComfyUI's own page, cut out of a screenshot; loader and decoder are shown after a run, the sampler
in the midst of one, paused. With names of nodes it makes only theirs. Needs a ComfyUI, PyPI's `playwright`, and a
Chromium of the system.
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from artv_core.commands.comfyui_server import PACK, Server, find_hosts

from . import browser, workflow_format

DOCS = PACK / "js" / "docs"
MAX_BYTES = 40_000
WIDTHS = (600, 540, 480, 420)
QUALITIES = (80, 65, 50, 40)
MARGIN = 10
LEFT, TOP = 160, 200
"""Where a node is put on the page, clear of the page's own bars."""

SETTINGS = {
    "Comfy.ColorPalette": "dark",
    "Comfy.Locale": "en",
    "Comfy.Minimap.Visible": False,
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
    "Comfy.VueNodes.Enabled": False,
}
PROMPTS = """"0": "a car moving right slowly on a purple background",
"16": "a car bouncing on a purple background",
"32": "a car moving left slowly on a purple background\""""
VALUES: dict[str, dict[str, Any]] = {
    "ARTVMultiPromptScheduler": {"text": PROMPTS, "blend_frames": 4, "num_frames": 48},
    "ARTVAdaptModel": {},
    "ARTVSamplingOptions": {"cfg_by_frame": "0: 1\n24: 3"},
    "ARTVAnchorFrame": {},
    "ARTVNoiseAugment": {"reference_levels": "0: 20\n24: 60"},
    "ARTVFitImage": {},
    "ARTVKeyframes": {},
    "ARTVLoRA": {"strength": 0.8, "strength_clip": 0.8},
    "ARTVStreamVideo": {"upscale": "auto"},
    "ARTVDriftReadout": {"filename_prefix": "drift/ARTV"},
    "ARTVJournalSettings": {"redo": "40: 7"},
    "ARTVLoadJournal": {},
    "ARTVJournals": {},
    "ARTVShortcutSettings": {},
}
"""What nodes shown alone have in their widgets."""

SAMPLER = "ARTVMaskedDiffusionSampler"
AFTER_A_RUN = ("ARTVLoader", "ARTVDecodeVideo", "ARTVStepMasks")
PANEL = "document.querySelector('[data-state=running]')"
PAUSED_AT = 6

LIKE_NEW = """(types) => {
    for (const node of app.graph.nodes.filter(node => types.includes(node.type))) {
        const fresh = LiteGraph.createNode(node.type)
        Object.assign(node, {color: fresh.color, bgcolor: fresh.bgcolor})
        node.setSize([...fresh.size])
    }
}"""
ALONE = """([type, values]) => {
    app.graph.clear()
    const node = LiteGraph.createNode(type)
    app.graph.add(node)
    for (const widget of node.widgets ?? []) if (widget.name in values) {
        widget.value = values[widget.name]
        widget.callback?.(widget.value, app.canvas, node)
    }
}"""
SHOW = """([type, width, left, top]) => {
    const node = app.graph.nodes.find(node => node.type == type)
    const others = app.graph.nodes.filter(one => one !== node)
    others.forEach((one, index) => { one.pos = [node.pos[0] + 3000, node.pos[1] + 1000 * index] })
    app.canvas.deselectAll()
    const {ds} = app.canvas
    ds.scale = width / node.size[0]
    ds.offset = [left / ds.scale - node.pos[0], top / ds.scale - node.pos[1]]
    app.canvas.setDirty(true, true)
    return [node.size[0] * ds.scale, node.size[1] * ds.scale, LiteGraph.NODE_TITLE_HEIGHT * ds.scale]
}"""


def take(page: Any, type_: str, settle_ms: int = 1500) -> None:
    """The node of that type, as the first of the sizes and qualities that is small enough."""
    for width in WIDTHS:
        shown_width, height, title = page.evaluate(SHOW, [type_, width - 2 * MARGIN, LEFT, TOP])
        page.wait_for_timeout(settle_ms)
        box = page.evaluate("() => { const {x, y} = app.canvas.canvas.getBoundingClientRect(); return [x, y] }")
        clip: Any = {
            "x": box[0] + LEFT - MARGIN,
            "y": box[1] + TOP - title - MARGIN,
            "width": shown_width + 2 * MARGIN,
            "height": height + title + 2 * MARGIN,
        }
        image = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
        for quality in QUALITIES:
            if _save(image, DOCS / type_ / "node.jpg", quality):
                return
    raise SystemExit(f"{type_}: no picture of at most {MAX_BYTES} bytes")


def _save(image: Image.Image, path: Path, quality: int) -> bool:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality, optimize=True)
    if len(data.getvalue()) > MAX_BYTES:
        return False
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data.getvalue())
    print(path, image.size, len(data.getvalue()), quality)
    return True


def pause_a_run(page: Any) -> None:
    """multi_prompt_long_video, whose prompts can be changed while it runs, paused after some frames."""
    browser.load(page, workflow_format.read_ui("multi_prompt_long_video"), "multi_prompt_long_video")
    page.evaluate(LIKE_NEW, [SAMPLER])
    browser.run(page)
    enough = f"() => {PANEL}?.dataset.done >= {PAUSED_AT} && {PANEL}.dataset.pictures >= 2"
    page.wait_for_function(enough, timeout=browser.RUN_SECONDS * 1000)
    page.evaluate("() => document.querySelector('[data-state=running] .artv-steer-pause').click()")
    page.wait_for_function("() => document.querySelector('.artv-steer-pause[aria-pressed=true]')")


def run_graph(page: Any) -> None:
    """text_to_video with previews, a journal and the masks of one frame, until its video is shown."""
    workflow = workflow_format.read_ui("text_to_video")
    browser.load(page, workflow, "text_to_video")
    page.evaluate(LIKE_NEW, list(AFTER_A_RUN))
    page.evaluate(
        """() => {
            const of = (type) => app.graph.nodes.find(node => node.type == type)
            const journal = LiteGraph.createNode("ARTVJournalSettings")
            app.graph.add(journal)
            journal.widgets[0].value = "on"
            const sampler = of("ARTVMaskedDiffusionSampler")
            const input = (name) => sampler.inputs.findIndex(input => input.name == name)
            journal.connect(0, sampler, input("journal"))
            of("ARTVLoader").connect(2, sampler, input("vae"))
            const steps = LiteGraph.createNode("ARTVStepMasks")
            app.graph.add(steps)
            steps.widgets[0].value = 8
            of("ARTVLoader").connect(0, steps, 0)
            sampler.connect(0, steps, 1)
            of("ARTVLoader").connect(2, steps, 2)
            steps.setSize([420, 460])
        }"""
    )
    browser.run(page)
    page.wait_for_function(
        "() => [...document.querySelectorAll('video')].some(video => video.videoWidth >= 256)",
        timeout=browser.RUN_SECONDS * 1000,
    )


def main(names: list[str]) -> None:
    hosts = find_hosts()
    if not hosts or browser.missing():
        raise SystemExit(browser.missing() or "no ComfyUI found: set COMFYUI_PATH to its folder")
    wanted = names or [SAMPLER, *AFTER_A_RUN, *VALUES]
    base = Path(tempfile.mkdtemp())
    server = Server(hosts[0], base)
    for folder, name in (("loras", "watercolour.safetensors"), ("artv", "sd15_adapter.safetensors")):
        (base / "models" / folder).mkdir(exist_ok=True)
        (base / "models" / folder / name).touch()
    with server, browser.open_browser() as context:
        server.post("/settings", SETTINGS)
        page = browser.open_page(context, server)
        page.set_viewport_size({"width": 1600, "height": 1900})
        page.wait_for_function("() => app.graph.nodes.length > 0")  # the host's own first graph
        if SAMPLER in wanted:
            pause_a_run(page)
            take(page, SAMPLER)
            server.interrupt()
        if set(wanted) & {*AFTER_A_RUN, "ARTVLoadJournal", "ARTVJournals"}:
            run_graph(page)
        for type_ in filter(wanted.__contains__, AFTER_A_RUN):
            take(page, type_)
        page.close()
        page = browser.open_page(context, server)  # whose menus know the run's journal
        page.set_viewport_size({"width": 1600, "height": 1900})
        page.wait_for_function("() => app.graph.nodes.length > 0")
        for type_, values in VALUES.items():
            if type_ in wanted:
                page.evaluate(ALONE, [type_, values])
                take(page, type_)
    shutil.rmtree(base)


if __name__ == "__main__":
    main(sys.argv[1:])
