"""Workflows in the host's two formats: what its API takes (`workflows/api`), and what people open in the browser.

`templates` writes the browser's files. The tests turn them back and compare.
"""

import copy
import itertools
import json
import re
import uuid
from pathlib import Path
from typing import Any

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}

TITLES = {
    "text_to_video": "1 Text to video",
    "image_to_video": "2 Image to video",
    "multi_prompt_long_video": "3 Several prompts in one video",
    "go_on_from_video": "4 Continue a video",
    "keyframes": "5 Your own pictures at chosen frames",
    "long_video_watched": "6 Long video, watched while it is made",
    "see_the_masks": "7 See what is copied",
    "compare_anchor_mask_noise": "8 Without anchor, mask or noise",
    "sdxl_image_to_video": "9 SDXL to video (needs an SDXL file)",
}
"""The templates from simple to rich, with the titles that people read. A title is the name of a file."""

TINY_PROMPT = "a large red circle moving right on a blue background"
"""In words that the checkpoint `tiny` knows."""

NOTE_TYPE = "Note"
NEEDS_A_FILE = {"sdxl_image_to_video": "CheckpointLoaderSimple"}
"""Templates that do not run as they are opened, and the node whose file people must have; their notes say so."""

Graph = dict[str, dict[str, Any]]
Info = dict[str, Any]


def names() -> list[str]:
    return list(TITLES)


def read_api(name: str) -> Graph:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))


def read_ui(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{TITLES[name]}.json").read_text(encoding="utf-8"))


def with_tiny(graph: Graph, checkpoint: str = "tiny (shipped)") -> Graph:
    """The same graph with `tiny`, or another of its kind, in the loader, and prompts in its words: other things in
    another place, which move as before. Twice as fast as with `small`."""
    graph = copy.deepcopy(graph)
    for part in graph.values():
        if part["class_type"] == "ARTVLoader":
            part["inputs"]["checkpoint"] = checkpoint
        elif isinstance(part["inputs"].get("text"), str):
            part["inputs"]["text"] = CAPTION.sub(_in_words_of_tiny, part["inputs"]["text"])
    return graph


CAPTION = re.compile(
    r"\ban? [a-z ]+? (moving [a-z ]+? (?:slowly|fast)|bouncing|standing still) (?:on|in|before) [a-z ]+"
)


def _in_words_of_tiny(caption: re.Match[str]) -> str:
    motion = caption[1].replace("bouncing", "moving up slowly")
    return f"a large red circle {motion} on a blue background"


def without_sdxl(graph: Graph) -> Graph:
    """The SDXL workflow with a drawn picture in place of SDXL's: a red square on blue."""
    graph = copy.deepcopy(graph)
    for key in ("5", "6", "7", "8", "9"):
        del graph[key]
    picture = {"height": 256, "batch_size": 1}
    graph["5"] = {"class_type": "EmptyImage", "inputs": {"width": 256, "color": 0x2060C0, **picture}}
    graph["6"] = {"class_type": "EmptyImage", "inputs": {"width": 96, "color": 0xD02020, **picture, "height": 96}}
    pasted = {"destination": ["5", 0], "source": ["6", 0], "x": 32, "y": 80, "resize_source": False}
    graph["10"] = {"class_type": "ImageCompositeMasked", "inputs": pasted}
    return graph


def is_own(kind: str) -> bool:
    """Whether a node is this pack's, so that every one of its inputs is known here. Newer hosts give theirs more."""
    return kind.startswith("ARTV")


def known_inputs(graph: Graph, other: Graph) -> dict[str, Any]:
    """Class and inputs of each node of a graph to compare with another one. Of the host's own nodes these are their
    wires, and of their widgets those that the other graph has too."""
    return {
        key: (part["class_type"], {name: value for name, value in part["inputs"].items() if _counts(name, part, other)})
        for key, part in graph.items()
    }


def _counts(name: str, part: dict[str, Any], other: Graph) -> bool:
    twins = [node["inputs"] for node in other.values() if node["class_type"] == part["class_type"]]
    return is_own(part["class_type"]) or isinstance(part["inputs"][name], list) or any(name in one for one in twins)


def api_from_ui(workflow: dict[str, Any], info: Info) -> Graph:
    """What the browser would queue, but for inputs that the host's own nodes got since the workflow was made."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph: Graph = {}
    for node in workflow["nodes"]:
        if node["type"] not in info:
            continue  # a note
        widgets, values = _widget_names(info[node["type"]]), node.get("widgets_values", [])
        assert len(widgets) == len(values) or (len(widgets) > len(values) and not is_own(node["type"])), node["type"]
        inputs = {name: value for name, value in zip(widgets, values, strict=False) if name}
        inputs |= {slot["name"]: sources[slot["link"]] for slot in node.get("inputs", []) if slot["link"] is not None}
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def ui_from_api(graph: Graph, info: Info, note: str, name: str) -> dict[str, Any]:
    """All nodes in one place, in the order in which they can run, and a note."""
    depths = _depths(graph)
    links: list[list[Any]] = []
    nodes = []
    for order, key in enumerate(sorted(graph, key=lambda key: (depths[key], int(key)))):
        nodes.append(_ui_node(key, graph[key], info, links) | {"order": order})
    _connect_outputs(nodes, links)
    last = max(int(key) for key in graph)
    nodes.append(_note(last + 1, len(nodes), note))
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"artv/{name}")),
        "revision": 0,
        "last_node_id": last + 1,
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _definitions(node_info: Info) -> list[tuple[str, Any, dict[str, Any]]]:
    groups = [node_info["input"].get(group, {}) for group in ("required", "optional")]
    return [(name, entry[0], entry[1] if len(entry) > 1 else {}) for group in groups for name, entry in group.items()]


def _is_widget(kind: Any, options: dict[str, Any]) -> bool:
    return (isinstance(kind, list) or options.get("widgetType", kind) in WIDGETS) and not options.get("forceInput")


def _widget_names(node_info: Info) -> list[str]:
    """Names in the order of a node's stored values; empty where the browser adds a value of its own."""
    widgets = []
    for name, kind, options in _definitions(node_info):
        if _is_widget(kind, options):
            widgets.append(name)
            extra = options.get("control_after_generate") or name in ("seed", "noise_seed")
            uploads = any(options.get(upload) for upload in ("image_upload", "video_upload"))
            widgets += [""] * (bool(extra) + uploads)
    return widgets


def _ui_node(key: str, part: dict[str, Any], info: Info, links: list[list[Any]]) -> dict[str, Any]:
    node_info, given = info[part["class_type"]], part["inputs"]
    sockets = []
    for name, kind, options in _definitions(node_info):
        if _is_widget(kind, options):
            continue
        link = None
        if name in given:
            source, slot = given[name]
            link = len(links) + 1
            links.append([link, int(source), slot, int(key), len(sockets), kind])
        sockets.append({"name": name, "type": kind, "link": link})
    # The host's own nodes may have got inputs since the workflow was made.
    widgets = list(itertools.takewhile(lambda name: not name or name in given, _widget_names(node_info)))
    node = {
        "id": int(key),
        "type": part["class_type"],
        "pos": [0, 0],
        "size": [0, 0],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": sockets,
        "outputs": [
            {"name": output_name, "type": kind, "links": None}
            for output_name, kind in zip(node_info["output_name"], node_info["output"], strict=True)
        ],
        "properties": {"Node name for S&R": part["class_type"]},
        "widgets_values": [_stored(name, given, node_info) for name in widgets],
    }
    title = part.get("_meta", {}).get("title")
    return node | ({"title": title} if title else {}) | _colours(part["class_type"])


def _colours(kind: str) -> dict[str, str]:
    """Those that the front end gives a new node."""
    script = (WORKFLOWS.parent / "js" / "appearance.js").read_text(encoding="utf-8")
    family = re.search(rf"\b{kind}: \[(\w+)", script)
    found = family and re.search(rf'{family[1]} = {{ color: "(.+?)", bgcolor: "(.+?)" }}', script)
    return {"color": found[1], "bgcolor": found[2]} if found else {}


def _stored(name: str, given: dict[str, Any], node_info: Info) -> Any:
    if name:
        return given[name]
    uploads = {"image_upload": "image", "video_upload": "video"}
    for _, _, options in _definitions(node_info):
        for upload, value in uploads.items():
            if options.get(upload):
                return value
    return "fixed"  # what happens to the seed after a run


def _connect_outputs(nodes: list[dict[str, Any]], links: list[list[Any]]) -> None:
    by_id = {node["id"]: node for node in nodes}
    for link, source, slot, *_ in links:
        output = by_id[source]["outputs"][slot]
        output["links"] = [*(output["links"] or []), link]


def _depths(graph: Graph) -> dict[str, int]:
    """How many nodes lie before each node, on the longest way."""
    depths: dict[str, int] = {}

    def depth(key: str) -> int:
        if key not in depths:
            sources = [value[0] for value in graph[key]["inputs"].values() if isinstance(value, list)]
            depths[key] = 1 + max((depth(source) for source in sources), default=-1)
        return depths[key]

    for key in graph:
        depth(key)
    return depths


def _note(key: int, order: int, text: str) -> dict[str, Any]:
    return {
        "id": key,
        "type": NOTE_TYPE,
        "pos": [0, 0],
        "size": [0, 0],
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": "What to change",
        "properties": {},
        "widgets_values": [text],
        "color": "#432",
        "bgcolor": "#653",
    }
