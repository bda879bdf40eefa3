"""ComfyUI's own page in a real browser.

Needs a ComfyUI, PyPI's `playwright`, and a Chromium of the system, for nothing is downloaded.
"""

import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import TYPE_CHECKING, Any

from artv_core.commands.comfyui_server import ADDRESS, LINKED_AS, Graph, Server

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# A machine of two cores that draws a page in software takes its time.
PAGE_SECONDS = 90
RUN_SECONDS = 240

# The page restores its last graph after the nodes are known; its spinner goes when that is done.
LOADED = """() => !!(window.app?.graph && window.LiteGraph?.registered_node_types?.ARTVLoader)
    && app.extensionManager?.spinner === false && !!app.extensionManager.workflow?.activeWorkflow"""
LAID_OUT = """() => app.graph.nodes.map(node => {
    const [x, y, width, height] = node.getBounding()
    return {type: node.type, title: node.title, faulty: !!node.has_errors, x, y, width, height}
})"""


def chromium() -> str | None:
    """The system's Chromium."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def missing() -> str:
    """What tests in a browser lack here, "" for nothing."""
    if importlib.util.find_spec("playwright") is None:
        return "no playwright found: pip install playwright to run the tests in a browser"
    return "" if chromium() else "no Chromium found: install one (Debian: chromium) to run the tests in a browser"


@contextmanager
def open_browser() -> Iterator["BrowserContext"]:
    """A browser with a profile of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        size: Any = {"width": 1600, "height": 1000}
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium(), args=FLAGS, viewport=size
        )
        context.set_default_timeout(PAGE_SECONDS * 1000)
        yield context
        context.close()


def open_page(
    context: "BrowserContext",
    server: Server,
    greeted: bool = True,
    listen: Callable[["Page"], None] = lambda page: None,
) -> "Page":
    """ComfyUI, ready. One who is not `greeted` meets it for the first time and is shown the templates. `listen` is
    called with the page before it loads anything."""
    server.post("/settings", {"Comfy.TutorialCompleted": greeted})
    page = context.new_page()
    listen(page)
    page.goto(f"http://{ADDRESS}:{server.port}/")
    page.wait_for_function(LOADED)
    return page


def show_templates(page: "Page") -> None:
    """Choose this pack where all templates are shown."""
    page.get_by_text(LINKED_AS).first.click()


def choose_template(page: "Page", name: str) -> None:
    """Open one of the templates that are shown."""
    page.get_by_role("dialog").get_by_text(name, exact=True).first.click()
    page.wait_for_function("() => app.graph.nodes.some(node => node.type.startsWith('ARTV'))")


def load(page: "Page", workflow: dict[str, Any], name: str) -> None:
    """What dropping the file on the page does."""
    page.evaluate("([workflow, name]) => app.loadGraphData(workflow, true, true, name)", [workflow, name])
    page.wait_for_function("(count) => app.graph.nodes.length == count", arg=len(workflow["nodes"]))


def laid_out(page: "Page") -> list[dict[str, Any]]:
    """Type, title and box of each node with its title bar, in the graph's units, and whether it is marked as faulty."""
    return page.evaluate(LAID_OUT)


def overlapping(nodes: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The titles of nodes that lie on one another, of those that `laid_out` gives."""
    return [(one["title"], other["title"]) for one, other in combinations(nodes, 2) if _overlap(one, other)]


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    sides = (("x", "width"), ("y", "height"))
    return not any(a[start] + a[size] <= b[start] for start, size in sides for a, b in ((one, other), (other, one)))


def zoom(page: "Page") -> float:
    """1 shows the graph's units as pixels."""
    return page.evaluate("() => app.canvas.ds.scale")


def missing_files(page: "Page") -> list[str]:
    """Types of the nodes whose menus do not have what is chosen in them."""
    return page.evaluate(
        """() => app.graph.nodes.filter(node => node.widgets?.some(({type, options, value}) =>
            type == "combo" && Array.isArray(options?.values) && !options.values.includes(value)
        )).map(node => node.type)"""
    )


def exported(page: "Page") -> Graph:
    """What the page would queue."""
    return page.evaluate("async () => (await app.graphToPrompt()).output")


def run(page: "Page") -> None:
    """Press Run."""
    page.get_by_test_id("queue-button").or_(page.get_by_role("button", name="Run", exact=True)).first.click()


def drop(page: "Page", address: str) -> None:
    """What dropping the video at `address` on the canvas does."""
    dropped = """async (address) => {
        const blob = await (await fetch(address)).blob()
        await app.handleFile(new File([blob], "video.mp4", {type: "video/mp4"}))
    }"""
    page.evaluate(dropped, address)
