"""English and Chinese texts: complete, the same keys, English as in the nodes' own schemas; served, and shown.

`python -m tests.host.test_locales` writes `locales/en/nodeDefs.json` from the schemas of a running ComfyUI.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from artv_core.commands.comfyui_server import ADDRESS, PACK, Server, find_hosts

from . import browser

LOCALES = PACK / "locales"
LANGUAGES = ("en", "zh")
KEPT = {"", "ARTV", "CLIP", "VAE", "CFG", "Latent", "MB"}
"""Words that Chinese pages write as they are."""


def read(language: str, name: str) -> dict[str, Any]:
    return json.loads((LOCALES / language / f"{name}.json").read_text(encoding="utf-8"))


def leaves(table: dict[str, Any], *path: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text with the keys that lead to it."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, *path, key)
        else:
            yield (*path, key), value


def node_definitions(server: Server) -> dict[str, Any]:
    """What `nodeDefs.json` holds, from the nodes' schemas."""
    return {name: _definition(node) for name, node in server.get("/object_info").items() if node["category"] == "ARTV"}


def _definition(node: dict[str, Any]) -> dict[str, Any]:
    inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
    outputs = zip(node["output_name"], node["output_tooltips"], strict=True)
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": {name: _input(name, spec[1]) for name, spec in inputs.items()},
        "outputs": {str(index): {"name": name, "tooltip": text} for index, (name, text) in enumerate(outputs)},
    }


def _input(name: str, options: dict[str, Any]) -> dict[str, str]:
    return {"name": options.get("display_name") or name, "tooltip": options["tooltip"]}


def test_english_is_what_the_nodes_say(server: Server) -> None:
    written, said = read("en", "nodeDefs"), node_definitions(server)
    assert written == said, "python -m tests.host.test_locales writes it anew"
    assert len(said) == 18


@pytest.mark.parametrize("name", ["main", "nodeDefs", "settings"])
def test_chinese_has_the_same_keys_and_is_chinese(name: str) -> None:
    english, chinese = dict(leaves(read("en", name))), dict(leaves(read("zh", name)))
    assert set(english) == set(chinese)
    for path, text in chinese.items():
        assert english[path].strip(), path
        words = re.sub(r"\{\w+\}|[\W\d]", "", text)
        assert text.strip(), path
        assert words in KEPT or re.search("[\u4e00-\u9fff]", words), (path, text)
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", english[path])), path


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_pages_own_reader_of_messages_finds_no_syntax_in_the_nodes_texts(language: str) -> None:
    for path, text in leaves(read(language, "nodeDefs")):
        assert not set(text) & set("{}@|"), path


@pytest.mark.parametrize("language", LANGUAGES)
def test_settings_are_called_as_on_the_nodes(language: str) -> None:
    nodes = read(language, "nodeDefs")
    givers = ("ARTVMaskedDiffusionSampler", "ARTVNoiseAugment", "ARTVSamplingOptions", "ARTVAnchorFrame")
    inputs = {name: spec for giver in givers for name, spec in nodes[giver]["inputs"].items()}
    settings = read(language, "main")["artv"]["checkpoint"]["settings"]
    assert settings == {name: inputs[name]["name"] for name in settings}


def test_texts_are_served(server: Server) -> None:
    served = server.get("/i18n")
    for language in LANGUAGES:
        definitions = read(language, "nodeDefs")
        assert {name: served[language]["nodeDefs"][name] for name in definitions} == definitions
        assert served[language]["artv"] == read(language, "main")["artv"]


@pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())
def test_the_page_speaks_chinese(server: Server) -> None:
    texts, nodes = read("zh", "main")["artv"]["checkpoint"], read("zh", "nodeDefs")
    server.post("/settings", {"Comfy.Locale": "zh"})
    try:
        with browser.open_browser() as context:
            page = browser.open_page(context, server)
            page.wait_for_function("() => app.graph.nodes.length > 0")  # the host's own first graph
            made = page.evaluate(
                """(types) => {
                    app.graph.clear()
                    return types.map(type => {
                        const node = LiteGraph.createNode(type)
                        app.graph.add(node)
                        const slots = [...node.inputs, ...node.outputs]
                        return [node.title, slots.map(slot => slot.localized_name ?? slot.name)]
                    })
                }""",
                list(nodes),
            )
            for (title, slots), node in zip(made, nodes.values(), strict=True):
                assert title == node["display_name"]
                named = [*node["inputs"].values(), *node["outputs"].values()]
                assert sorted(slots) == sorted(slot["name"] for slot in named), title
            panel = page.locator(".artv-checkpoint-page")
            panel.get_by_text(texts["recommended"]).wait_for()
            assert panel.get_attribute("aria-label") == texts["title"]
            assert panel.get_by_text(texts["settings"]["anchor_level"]).count() == 1
    finally:
        server.post("/settings", {"Comfy.Locale": "en"})


def main() -> None:
    with Server(find_hosts()[0], Path(tempfile.mkdtemp())) as server:
        text = json.dumps(node_definitions(server), ensure_ascii=False, indent=2)
    (LOCALES / "en" / "nodeDefs.json").write_text(text + "\n", encoding="utf-8")
    print(f"{LOCALES / 'en' / 'nodeDefs.json'} from http://{ADDRESS}")


if __name__ == "__main__":
    main()
