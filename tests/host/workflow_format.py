"""Workflows in the host's two formats: what its API takes, and what people open in the browser.

`python -m tests.host.workflow_format` (from the repository's root) writes the browser's files from `workflows/api`
anew, or those that are named; with `--thumbnails` it runs them and writes their pictures too. Both need a ComfyUI. The
tests turn the browser's files back and compare.
"""

import copy
import json
import re
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from artv_core.media import evenly_spaced, read_video

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
COLUMN_GAP, ROW_GAP, TOP = 80, 60, 120
WIDTH = 340
TEXT_HEIGHT = 100
SHOWN_WIDTH = {"ARTVLoader": 400, "ARTVMaskedDiffusionSampler": 400, "ARTVMultiPromptScheduler": 480}
SHOWN_HEIGHT = {
    "ARTVLoader": 330,
    "ARTVMultiPromptScheduler": 110,
    "ARTVMaskedDiffusionSampler": 260,
    "ARTVDriftReadout": 380,
    "ARTVDecodeVideo": 320,
    "SaveVideo": 320,
    "LoadVideo": 320,
    "PreviewAny": 200,
}
"""Room for what a node shows after a run, beside what its sockets and widgets need."""

NEEDS_A_FILE = {"sdxl_image_to_video": "CheckpointLoaderSimple"}
"""Templates that do not run as they are opened, and the node whose file people must have; their notes say so."""

NOTES = {
    "text_to_video": "Change the prompt. The shipped tiny model knows sizes (small, medium, large), colours, circle, "
    "square, triangle, star, directions (right, up and left, ...), slowly and fast, and coloured backgrounds. Change "
    "the seed for another video and frames for a longer one. It runs on a CPU in seconds.",
    "image_to_video": "The three image nodes draw the first frame. To animate your own picture, replace "
    "them with Load Image and Upscale Image (64 x 64). Say in the prompt what should "
    "happen.",
    "multi_prompt_long_video": "One prompt for each range of frames; the number is the frame it starts at. Each "
    "later prompt uses the last frame of the previous prompt as its anchor. The length of the "
    "video is frames in the sampler.",
    "long_video_watched": "While it runs, open output/video/long_video_watched_*.part.mp4 in a player: it "
    "grows with each frame. Cancel the run, or close ComfyUI, and queue it again: it "
    "continues where it stopped. In redo, '40: 7' makes all frames from frame 40 on "
    "again, with seed 7.",
    "sdxl_image_to_video": "SDXL draws the first frame, ARTV moves it. This is the only template that needs another "
    "file: put sd_xl_base_1.0.safetensors into models/checkpoints. With an ARTV checkpoint of another size, change the "
    "size in Upscale Image.",
    "go_on_from_video": "The first sampler makes a short video; the second one continues it with another "
    "prompt. To continue your own video, replace Create Video with Load Video; the "
    "frames are scaled to the model's size. frames includes the frames of that video, so "
    "set it to a higher number.",
    "see_the_masks": "The second video shows what was copied: white cells were copied from the previous "
    "frame, dark ones are new.",
    "compare_anchor_mask_noise": "Four videos from one seed: as recommended, without the anchor frame, without the "
    "copy mask, without noise augmentation. The differences grow with the number of frames.",
}

Graph = dict[str, dict[str, Any]]
Info = dict[str, Any]


def names() -> list[str]:
    return sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json"))


def read_api(name: str) -> Graph:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))


def read_ui(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


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
    """Nodes in columns by their depth, and a note above them."""
    columns = _columns(graph)
    heights = dict.fromkeys(range(len(graph)), TOP)
    lefts = _lefts(columns, graph)
    links: list[list[Any]] = []
    nodes = []
    for order, key in enumerate(sorted(graph, key=lambda key: (columns[key], int(key)))):
        node = _ui_node(key, graph[key], info, links)
        node["order"] = order
        node["pos"] = [lefts[columns[key]], heights[columns[key]]]
        heights[columns[key]] += node["size"][1] + ROW_GAP
        nodes.append(node)
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
    widgets = _widget_names(node_info)
    advanced = sum(bool(options.get("advanced")) for _, _, options in _definitions(node_info))
    texts = sum(bool(options.get("multiline")) for _, _, options in _definitions(node_info))
    height = (
        60 + 24 * max(len(sockets), len(node_info["output"])) + 26 * (len(widgets) - advanced) + TEXT_HEIGHT * texts
    )
    height += SHOWN_HEIGHT.get(part["class_type"], 0)
    node = {
        "id": int(key),
        "type": part["class_type"],
        "pos": [0, 0],
        "size": [SHOWN_WIDTH.get(part["class_type"], WIDTH), height],
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


def _columns(graph: Graph) -> dict[str, int]:
    columns: dict[str, int] = {}

    def column(key: str) -> int:
        if key not in columns:
            sources = [value[0] for value in graph[key]["inputs"].values() if isinstance(value, list)]
            columns[key] = 1 + max((column(source) for source in sources), default=-1)
        return columns[key]

    for key in graph:
        column(key)
    return columns


def _lefts(columns: dict[str, int], graph: Graph) -> list[int]:
    """Where each column begins."""
    lefts = [0]
    for column in range(max(columns.values())):
        kinds = [graph[key]["class_type"] for key, its in columns.items() if its == column]
        lefts.append(lefts[-1] + max(SHOWN_WIDTH.get(kind, WIDTH) for kind in kinds) + COLUMN_GAP)
    return lefts


def _note(key: int, order: int, text: str) -> dict[str, Any]:
    return {
        "id": key,
        "type": "Note",
        "pos": [0, -80],
        "size": [760, 130],
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


def main() -> None:
    from artv_core.commands.comfyui_server import Server, find_hosts

    with tempfile.TemporaryDirectory() as folder, Server(find_hosts()[0], Path(folder)) as server:
        info = server.get("/object_info")
        for name in [name for name in sys.argv[1:] if not name.startswith("--")] or names():
            workflow = ui_from_api(read_api(name), info, NOTES[name], name)
            (WORKFLOWS / f"{name}.json").write_text(json.dumps(workflow, indent=2) + "\n", encoding="utf-8")
            if "--thumbnails" in sys.argv:
                _write_thumbnail(server, name)


def _write_thumbnail(server: Any, name: str) -> None:
    """Four frames of the workflow's last video, in reading order."""
    graph = read_api(name)
    result = server.run(without_sdxl(graph) if name == "sdxl_image_to_video" else graph)
    if result.status != "success":
        raise SystemExit(f"{name}: {result.message}")
    shown = [output["images"][0] for output in result.outputs.values() if "images" in output]
    frames = read_video(server.output_file(next(file for file in shown[::-1] if file["filename"].endswith(".mp4"))))
    chosen = [frames[index].permute(1, 2, 0).numpy() for index in evenly_spaced(len(frames), 4)]
    picture = np.concatenate([np.concatenate(chosen[:2], 1), np.concatenate(chosen[2:], 1)], 0)
    Image.fromarray(picture).save(WORKFLOWS / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
