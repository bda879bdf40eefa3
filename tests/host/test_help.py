"""Every node has help pages that the host serves, in English and Chinese, with a picture; and the page opens them.

The English page is `NAME.md`: front ends from 1.27 to 1.49 ask for `NAME/LOCALE.md` and, without it, for `NAME.md`,
in every language. So one file serves English and all languages that have no page of their own.
"""

import io
import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from artv_core.commands.comfyui_server import ADDRESS, LINKED_AS, PACK, Server

from . import browser
from .help_pictures import MAX_BYTES

DOCS = PACK / "js" / "docs"
LANGUAGES = {"en": ("{}.md", "## Example"), "zh": ("{}/zh.md", "## 示例")}
"""Where a node's page is, and the heading of its example."""

# Then the page loads its graph again, which must not come after what a test does.
SET_LOCALE = """async (locale) => {
    const {setting} = app.extensionManager
    if (setting.get("Comfy.Locale") == locale) return
    const before = app.graph.nodes[0]
    await setting.set("Comfy.Locale", locale)
    while (app.graph.nodes[0] == before) await new Promise(requestAnimationFrame)
}"""
SELECT = """(type) => {
    app.graph.clear()
    const node = LiteGraph.createNode(type)
    app.graph.add(node)
    app.canvas.ds.scale = 0.5
    app.canvas.ds.offset = [1500, 500]
    app.canvas.selectNodes([node])
    app.canvas.setDirty(true, true)
}"""


def served(server: Server, path: str) -> bytes:
    with urllib.request.urlopen(f"http://{ADDRESS}:{server.port}/extensions/{LINKED_AS}/docs/{path}") as answer:
        return answer.read()


@pytest.fixture(scope="module")
def nodes(server: Server) -> dict[str, Any]:
    return {name: node for name, node in server.get("/object_info").items() if node["category"] == "ARTV"}


def test_pages_and_pictures_are_of_the_nodes_alone(nodes: dict[str, Any]) -> None:
    expected = {f"{name}/{file}" for name in nodes for file in ("zh.md", "node.jpg")}
    expected |= {f"{name}.md" for name in nodes}
    assert {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*") if path.is_file()} == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_page_names_inputs_and_outputs_and_has_a_picture_and_an_example(
    server: Server, nodes: dict[str, Any], language: str
) -> None:
    titles = json.loads((PACK / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    place, heading = LANGUAGES[language]
    for name, node in nodes.items():
        page = served(server, place.format(name)).decode()
        assert page.startswith(f"# {titles[name]['display_name']}\n")
        named = {*node["input"].get("required", {}), *node["input"].get("optional", {}), *node["output_name"]}
        missing = [one for one in named if f"`{one}`" not in page]
        assert not missing, (name, missing)
        assert f"]({name}/node.jpg)" in page
        assert f"\n{heading}\n" in page


def test_pictures_are_small_and_whole(server: Server, nodes: dict[str, Any]) -> None:
    for name in nodes:
        data = served(server, f"{name}/node.jpg")
        assert len(data) <= MAX_BYTES, name
        image = Image.open(io.BytesIO(data))
        image.load()
        assert 400 <= image.width <= 700, name


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Any]:
    """Loaded in Chinese."""
    server.post("/settings", {"Comfy.Locale": "zh"})
    with browser.open_browser() as context:
        page = browser.open_page(context, server)
        page.wait_for_function("() => app.graph.nodes.length > 0")  # the host's own first graph
        yield page
    server.post("/settings", {"Comfy.Locale": "en"})


@pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())
@pytest.mark.parametrize(("locale", "heading"), [("zh", "示例"), ("fr", "Example")])
def test_help_opens_in_the_page_and_shows_the_picture(page: Any, locale: str, heading: str) -> None:
    """In a language that it has, and in one in which the page falls back to English."""
    page.evaluate(SET_LOCALE, locale)
    for name in ("ARTVLoader", "ARTVMaskedDiffusionSampler"):
        page.evaluate(SELECT, name)
        page.get_by_test_id("info-button").click()
        page.get_by_role("heading", name=heading).wait_for()
        page.wait_for_function(
            "(name) => document.querySelector(`img[src$='docs/${name}/node.jpg']`)?.naturalWidth > 0", arg=name
        )
        page.get_by_test_id("info-button").click()
