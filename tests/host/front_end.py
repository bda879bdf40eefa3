"""What people do on ComfyUI's page with our nodes, step by step, for the tests and for `benchmarks/front_end.py`.

The page is that of the host's own front end, or of the newest `comfyui-frontend-package` that Python finds, which may
draw nodes in the classic canvas or as elements (Nodes 2.0). `python -m tests.host.front_end` writes the README's
pictures, `docs/graph.png` and others.
"""

import importlib.metadata
import importlib.util
import io
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from artv_core.commands.comfyui_server import LINKED_AS, PACK, Host, Server, find_hosts

from . import browser, workflow_format

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, ConsoleMessage, Error, Page, Response

NEWEST = "comfyui-frontend-package"
NODES_2_SINCE = (1, 37)
"""Nodes 2.0 of 1.27 show no panels of node packs; what is between was not tried."""
NODES_2 = "Comfy.VueNodes.Enabled"
SCREENSHOTS = PACK / "build" / "screenshots"
SAMPLER = "ARTVMaskedDiffusionSampler"
REGISTRY = "https://api.comfy.org/"  # where newer front ends look up a node's pack; not reachable from here
SIDE_PANEL, SIDE_PANEL_ID = "Toggle properties panel", "properties-panel"

# In Nodes 2.0 a panel that is out of sight may be in no document.
# The sampler of the longest video comes first: others draw its first picture.
PANELS = f"""app.graph.nodes.filter(node => node.type == "{SAMPLER}").map(node => node.widgets)
    .map(widgets => ["frames", "artv_live"].map(name => widgets.find(widget => widget.name == name)))
    .sort(([one], [other]) => other.value - one.value).map(([, panel]) => panel.element)"""
STATUS = f"""[".artv-live-status", ".artv-live-problem"]
    .map(part => {PANELS}[0].querySelector(part).textContent).filter(Boolean).join(" | ")"""
# Notes every state of the first sampler's panel, so that nothing is missed between two looks.
RECORD = f"""() => {{
    window.artvSeen = []
    window.artvObserver?.disconnect()
    const panel = {PANELS}[0]
    const note = () => artvSeen.push([panel.dataset.state, +panel.dataset.done, +panel.dataset.pictures])
    window.artvObserver = new MutationObserver(note)
    artvObserver.observe(panel, {{attributes: true}})
}}"""
SHOWN = f"""() => {{
    const canvas = {PANELS}[0].querySelector(".artv-live-picture")
    const {{data}} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
    return [canvas.width, canvas.height, Math.max(...data.filter((_, place) => place % 4 < 3))]
}}"""
# Of each text that is shown in what the selector finds: the text, its contrast (WCAG 2) and the size of its letters.
# Colours are those on the screen: each background painted over the one around it, then the text's. What is disabled
# may be faint.
READABLE = """(selector) => {
    const paint = document.createElement("canvas").getContext("2d", {willReadFrequently: true})
    const light = (colours) => {
        for (const colour of ["#fff", ...colours]) { paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1) }
        return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3).map(value => value / 255)
            .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
            .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0.05)
    }
    const contrast = (part) => {
        const around = []
        for (let one = part; one; one = one.parentElement) around.unshift(getComputedStyle(one).backgroundColor)
        const [one, other] = [light(around), light([...around, getComputedStyle(part).color])]
        return Math.max(one, other) / Math.min(one, other)
    }
    const said = (part) => part.value && part.type != "checkbox" && part.type != "range" ? part.value
        : [...part.childNodes].filter(child => child.nodeType == 3).map(child => child.data).join("").trim()
    return [...document.querySelectorAll(`${selector} *`)]
        .filter(part => part.getClientRects().length && !part.disabled && said(part))
        .map(part => [said(part), contrast(part), parseFloat(getComputedStyle(part).fontSize)])
}"""
NO_DIALOG = "() => [...document.querySelectorAll('[role=dialog]')].every(one => !one.getClientRects().length)"
GRAPH = "() => JSON.stringify(app.graph.serialize().nodes.map(node => [node.type, node.widgets_values]))"


# The inputs of a node that can be set on it, without panels.
VISIBLE = """(type) => {
    const node = app.graph.nodes.find(node => node.type == type)
    const own = node.widgets.filter(widget => !widget.element).map(widget => widget.name)
    if (!LiteGraph.vueNodesMode)
        return own.filter(name => {
            const widget = node.widgets.find(widget => widget.name == name)
            return node.isWidgetVisible ? node.isWidgetVisible(widget) : !widget.hidden
        })
    const boxes = [...document.querySelectorAll(`[data-node-id="${node.id}"] [aria-label]`)]
        .filter(box => box.getClientRects().length).map(box => box.getAttribute("aria-label"))
    return own.filter(name => boxes.includes(name))
}"""


@dataclass(frozen=True)
class FrontEnd:
    """A page to test: `own` is the host's own front end, else the newest; in `nodes_2` nodes are elements."""

    own: bool = True
    nodes_2: bool = False

    @property
    def name(self) -> str:
        return f"{'own' if self.own else 'newest'} front end, {'Nodes 2.0' if self.nodes_2 else 'classic'}"

    @property
    def arguments(self) -> tuple[str, ...]:
        """For the server."""
        return () if self.own else ("--front-end-root", str(newest_root()))


def newest_root() -> Path | None:
    """The files of the newest front end, None where its package is not there."""
    spec = importlib.util.find_spec(NEWEST.replace("-", "_"))
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "static"


def version(front_end: FrontEnd, host: Host) -> str:
    """Of the front end's package."""
    if not front_end.own:
        return importlib.metadata.version(NEWEST)
    asked = f"import importlib.metadata as m; print(m.version('{NEWEST}'))"
    return subprocess.run([host.python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()


def exists(front_end: FrontEnd, host: Host) -> bool:
    """Whether it is installed, and has Nodes 2.0 that show panels where they are asked for."""
    if not front_end.own and newest_root() is None:
        return False
    return not front_end.nodes_2 or tuple(map(int, version(front_end, host).split(".")[:2])) >= NODES_2_SINCE


# Faults


@dataclass
class Faults:
    """What was the fault of the pack on a page: uncaught exceptions, console errors, requests that were refused."""

    seen: list[str] = field(default_factory=list)

    def listen(self, page: "Page") -> None:
        page.on("pageerror", self._exception)
        page.on("console", self._console)
        page.on("response", self._response)

    def _exception(self, error: "Error") -> None:
        if _ours(f"{error.stack} {error.message}"):
            self.seen.append(f"exception: {error.stack or error.message}")

    def _console(self, message: "ConsoleMessage") -> None:
        told = f"{message.text} {message.location.get('url', '')}"
        if REGISTRY not in told and message.type in ("error", "warning") and _ours(told):
            self.seen.append(f"console: {message.text}")

    def _response(self, response: "Response") -> None:
        if response.status >= 400 and _ours(response.url):
            self.seen.append(f"{response.status}: {response.url}")


def _ours(text: str) -> bool:
    return LINKED_AS in text or "artv" in text.lower()


# Steps


@contextmanager
def opened(
    context: "BrowserContext", server: Server, front_end: FrontEnd, **settings: Any
) -> Iterator[tuple[Any, Faults]]:
    """A page, and what goes wrong on it."""
    server.post("/settings", {NODES_2: front_end.nodes_2, "Comfy.ColorPalette": "dark", **settings})
    faults = Faults()
    page = browser.open_page(context, server, listen=faults.listen)
    try:
        yield page, faults
    finally:
        page.close()


def switch(page: "Page", nodes_2: bool) -> None:
    """To Nodes 2.0 or to the classic canvas, as the page's settings do it at once."""
    page.evaluate("([name, on]) => app.extensionManager.setting.set(name, on)", [NODES_2, nodes_2])
    page.wait_for_function("(on) => !!LiteGraph.vueNodesMode == on", arg=nodes_2)


@contextmanager
def opened_alone(
    host: Host, front_end: FrontEnd, *packs: Path, **settings: Any
) -> Iterator[tuple[Server, Any, Faults]]:
    """A page with a server and a browser of its own."""
    with (
        tempfile.TemporaryDirectory() as base,
        Server(host, Path(base), *packs, arguments=front_end.arguments) as server,
        browser.open_browser() as context,
        opened(context, server, front_end, **settings) as (page, faults),
    ):
        yield server, page, faults


def open_template(page: "Page", name: str) -> None:
    """By the template browser."""
    page.evaluate("() => { app.graph.clear(); app.extensionManager.command.execute('Comfy.BrowseTemplates') }")
    browser.show_templates(page)
    browser.choose_template(page, workflow_format.TITLES[name])
    page.wait_for_function(
        "(types) => types.every(type => app.graph.nodes.some(node => node.type == type))",
        arg=sorted({node["type"] for node in workflow_format.read_ui(name)["nodes"]}),
    )


def load_template(page: "Page", name: str) -> None:
    """What the template browser does once a template is chosen in it. Drawing that browser takes seconds."""
    page.evaluate(
        """async ([folder, title]) => {
            const file = `/api/workflow_templates/${folder}/${encodeURIComponent(title)}.json`
            const workflow = await (await fetch(file)).json()
            await app.loadGraphData(workflow, true, true, title, {openSource: "template"})
        }""",
        [LINKED_AS, workflow_format.TITLES[name]],
    )
    page.wait_for_function(
        "(count) => app.graph.nodes.length == count", arg=len(workflow_format.read_ui(name)["nodes"])
    )


def set_widgets(page: "Page", kind: str, **values: Any) -> None:
    """Of every node of that kind."""
    page.evaluate(
        """([kind, values]) => app.graph.nodes.filter(node => node.type == kind).forEach(node => {
            for (const [name, value] of Object.entries(values))
                node.widgets.find(widget => widget.name == name).value = value
        })""",
        [kind, values],
    )


def slow_down(page: "Page", seconds: float = 0.1) -> None:
    """Each evaluation of the sampler's model takes that much longer, so that a run lasts while a page is slow. Needs
    the nodes of `artv_faults`."""
    page.evaluate(
        """([kind, seconds]) => {
            const [loader, sampler] = ["ARTVLoader", kind].map(type => app.graph.nodes.find(node => node.type == type))
            const slow = LiteGraph.createNode("ARTVTestSlow")
            app.graph.add(slow)
            slow.widgets.find(widget => widget.name == "seconds").value = seconds
            loader.connect(0, slow, 0)
            slow.connect(0, sampler, sampler.inputs.findIndex(input => input.name == "model"))
        }""",
        [SAMPLER, seconds],
    )


def use_checkpoint(page: "Page", checkpoint: str) -> None:
    """The checkpoint of the tests, which is faster than the templates' own, with a prompt in its words."""
    set_widgets(page, "ARTVLoader", checkpoint=checkpoint)
    set_widgets(page, "CLIPTextEncode", text=workflow_format.TINY_PROMPT)


def set_as_saved(page: "Page", kind: str, name: str, value: Any) -> None:
    """Give a widget of the first node of a kind a value as a workflow has it: the page rounds only what people type."""
    page.evaluate(
        """([kind, name, value]) => {
            const node = app.graph.nodes.find(node => node.type == kind)
            const saved = node.serialize()
            saved.widgets_values[node.widgets.findIndex(widget => widget.name == name)] = value
            if (saved.widgets_values_named) saved.widgets_values_named[name] = value
            node.configure(saved)
        }""",
        [kind, name, value],
    )


def visible_inputs(page: "Page", kind: str) -> list[str]:
    """The names of the inputs that can be set on the first node of a kind, as it is shown."""
    return page.evaluate(VISIBLE, kind)


def show_node(page: "Page", kind: str, scale: float = 0.9) -> None:
    """Move the canvas so that the node is in the middle of the window's upper part, and smaller than `scale` where it
    would not fit: some front ends fold up no advanced inputs."""
    page.evaluate(
        """([kind, scale]) => {
            const node = app.graph.nodes.find(node => node.type == kind)
            const shown = document.querySelector(`[data-node-id="${node.id}"]`) // in Nodes 2.0
            const drawn = shown ? shown.getBoundingClientRect().height / app.canvas.ds.scale : 0
            scale = Math.min(scale, (innerHeight - 130) / Math.max(node.size[1], drawn))
            app.canvas.ds.scale = scale
            app.canvas.ds.offset = [500 / scale - node.pos[0], 110 / scale - node.pos[1]]
            app.canvas.setDirty(true, true)
        }""",
        [kind, scale],
    )
    wait_until_drawn(page)


def wait_until_drawn(page: "Page") -> None:
    """Until the page has drawn itself six times, or half a second; a page out of sight draws nothing."""
    page.evaluate(
        """async () => {
            const next = () => new Promise(requestAnimationFrame)
            const drawn = async () => { for (let times = 0; times < 6; times++) await next() }
            await Promise.race([drawn(), new Promise(done => setTimeout(done, 500))])
        }"""
    )


@dataclass
class Watched:
    """What the sampler's panel showed of a run: states with frames done and pictures there."""

    seen: list[tuple[str, int, int]]
    frames: int

    @property
    def first_picture(self) -> float:
        """Which share of the frames was done when the first picture was there; 1 where none came in time."""
        return min(
            (done / self.frames for state, done, pictures in self.seen if pictures and state == "running"), default=1
        )


def start(page: "Page") -> None:
    """Press Run, and note from now on what the sampler's panel shows."""
    page.evaluate(RECORD)
    browser.run(page)


def status(page: "Page") -> str:
    """What the first sampler's panel says of its run, and what it says is wrong."""
    return page.evaluate(f"() => {STATUS}")


def look_at_side_panel(page: "Page", kind: str) -> bool:
    """Select a node, open the page's side panel on it and close that again; False where the page has none."""
    page.evaluate(
        "(kind) => app.canvas.selectNodes([app.graph.nodes.find(node => node.type == kind)])",
        kind,
    )
    toggle = page.get_by_label(SIDE_PANEL)
    if not toggle.count():
        return False
    toggle.first.click()
    page.get_by_test_id(SIDE_PANEL_ID).wait_for()
    wait_until_drawn(page)
    toggle.first.click()
    wait_until_drawn(page)
    page.evaluate("() => app.canvas.deselectAll()")
    return True


def widths(page: "Page", kind: str, panel: str) -> tuple[float, float]:
    """Of the first node of that kind as it is shown, and of its panel (a class), both in the graph's units."""
    return page.evaluate(
        """([kind, panel]) => {
            const node = app.graph.nodes.find(node => node.type == kind)
            const root = node.widgets.find(widget => widget.element?.classList.contains(panel)).element
            const width = (element) => element.getBoundingClientRect().width / app.canvas.ds.scale
            const shown = document.querySelector(`[data-node-id="${node.id}"]`) // in Nodes 2.0
            return [shown ? width(shown) : node.size[0], width(root)]
        }""",
        [kind, panel],
    )


def widen(page: "Page", kind: str, by: float) -> None:
    """As dragging its corner does."""
    page.evaluate(
        """([kind, by]) => {
            const node = app.graph.nodes.find(node => node.type == kind)
            node.setSize([node.size[0] + by, node.size[1]])
            app.canvas.setDirty(true, true)
        }""",
        [kind, by],
    )
    wait_until_drawn(page)


def wait_for(page: "Page", condition: str, seconds: float = browser.RUN_SECONDS) -> None:
    """`condition` is of `state`, `done` and `pictures` as all samplers' panels show them at some time from now on.
    Raises AssertionError with what they showed last if they never do."""
    met = f"() => {PANELS}.every(({{dataset: {{state, done, pictures}}}}) => {condition})"
    try:
        page.wait_for_function(met, timeout=seconds * 1000)
    except Exception as error:
        shown = page.evaluate(f"() => [{PANELS}.map(panel => ({{...panel.dataset}})), window.artvSeen?.slice(-5)]")
        raise AssertionError(f"never {condition}: {shown}, {status(page)}") from error


def watch_run(page: "Page", frames: int) -> Watched:
    """Press Run and look at the first sampler's panel until all are finished."""
    start(page)
    page.wait_for_function("() => artvSeen.some(([state]) => state == 'running')")
    wait_for(page, "state == 'finished'")
    return Watched([tuple(one) for one in page.evaluate("() => artvSeen")], frames)


def dismiss(page: "Page") -> None:
    """Older front ends open a dialog on every fault."""
    page.keyboard.press("Escape")
    wait_until_drawn(page)
    page.wait_for_function(NO_DIALOG)


def cancel(page: "Page") -> None:
    """The page's own shortcut."""
    page.keyboard.press("Control+Alt+Enter")


def reload(page: "Page") -> None:
    """And wait until the graph is there again."""
    page.reload()
    page.wait_for_function(browser.LOADED)
    page.wait_for_function(f"() => app.graph.nodes.some(node => node.type == '{SAMPLER}')")


def found_again(page: "Page", seed: int) -> bool:
    """Whether graph and run are there again after loading the page again in the middle of a run, which is then
    cancelled."""
    set_widgets(page, SAMPLER, frames=400, seed=seed)
    before = page.evaluate(GRAPH)
    start(page)
    wait_for(page, "state == 'running' && pictures >= 1 && done >= 3")
    reload(page)
    wait_for(page, "state == 'running' && pictures >= 1")
    intact = page.evaluate(GRAPH) == before
    cancel(page)
    wait_for(page, "state == 'stopped'")
    return intact


def picture(page: "Page", name: str) -> Path:
    """A screenshot, kept in `build/screenshots`."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{re.sub('[^a-z0-9.]+', '-', name.lower())}.png"
    page.screenshot(path=path)
    return path


# The README's pictures

DOCS = PACK / "docs"
MARGIN = 12
PICTURES_AFTER_END, MOST_PICTURES = 8, 80
FRAMED = """(kinds) => {
    const nodes = kinds.map(kind => app.graph.nodes.find(node => node.type == kind))
    const boxes = nodes.map(node => node.getBounding())
    const [left, top] = [0, 1].map(side => Math.min(...boxes.map(box => box[side])))
    const [right, bottom] = [0, 1].map(side => Math.max(...boxes.map(box => box[side] + box[side + 2])))
    const {ds, canvas} = app.canvas
    const corner = canvas.getBoundingClientRect()
    const [x, y] = [corner.x + (left + ds.offset[0]) * ds.scale, corner.y + (top + ds.offset[1]) * ds.scale]
    return {x, y, width: (right - left) * ds.scale, height: (bottom - top) * ds.scale}
}"""


def picture_of(page: "Page", path: Path, *kinds: str) -> None:
    """The part of the page that these nodes fill."""
    page.screenshot(path=path, clip=_clip(page, kinds))
    print(path)


def moving_picture_of(page: "Page", path: Path, *kinds: str) -> None:
    """The same while a video is made: an animated WebP of a picture every quarter of a second, until it is finished."""
    clip, pictures = _clip(page, kinds), []
    finished = f"() => {PANELS}.every(panel => panel.dataset.state == 'finished')"
    after = 0
    while after < PICTURES_AFTER_END and len(pictures) < MOST_PICTURES:
        after += page.evaluate(finished)
        pictures.append(Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB"))
        page.wait_for_timeout(250)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=250, loop=0, quality=60, method=6)
    print(path, f"{path.stat().st_size / 1000:.0f} kB, {len(pictures)} pictures")


def _clip(page: "Page", kinds: Sequence[str]) -> Any:
    box = page.evaluate(FRAMED, list(kinds))
    return {
        "x": max(0, box["x"] - MARGIN),
        "y": max(0, box["y"] - MARGIN),
        "width": box["width"] + 2 * MARGIN,
        "height": box["height"] + 2 * MARGIN,
    }


def write_pictures(page: "Page") -> None:
    page.set_viewport_size({"width": 1700, "height": 1150})
    open_template(page, "text_to_video")
    page.evaluate("() => app.canvas.deselectAll?.()")
    show_node(page, SAMPLER, scale=1.0)
    start(page)
    wait_for(page, "state == 'running' && pictures >= 1")
    moving_picture_of(page, DOCS / "live.webp", SAMPLER)
    set_widgets(page, SAMPLER, seed=2)
    start(page)
    wait_for(page, "state == 'running' && pictures >= 3 && done >= 10")
    page.get_by_label("copied").check()
    page.get_by_label("Frame", exact=True).press("End")
    picture_of(page, DOCS / "live.png", SAMPLER, "ARTVDecodeVideo")
    wait_for(page, "state == 'finished' && pictures == 16")
    page.wait_for_timeout(3000)
    page.evaluate("() => app.canvas.deselectAll()")
    page.evaluate(
        "() => { app.canvas.ds.scale = 0.8; app.canvas.ds.offset = [130, 190]; app.canvas.setDirty(true, true) }"
    )
    page.wait_for_timeout(1000)
    page.screenshot(path=DOCS / "graph.png")
    print(DOCS / "graph.png")
    open_template(page, "multi_prompt_long_video")
    set_widgets(page, "ARTVMultiPromptScheduler", blend_frames=6)
    show_node(page, "ARTVMultiPromptScheduler", scale=0.85)
    page.wait_for_timeout(2000)
    picture_of(page, DOCS / "timeline.png", "ARTVLoader", "ARTVMultiPromptScheduler")


def main() -> None:
    hosts = find_hosts()
    if not hosts or browser.missing():
        raise SystemExit(browser.missing() or "no ComfyUI found: set COMFYUI_PATH to its folder")
    with opened_alone(hosts[0], FrontEnd(), **{"Comfy.Minimap.Visible": False}) as (_, page, _):
        write_pictures(page)


if __name__ == "__main__":
    main()
