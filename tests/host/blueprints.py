"""The subgraph blueprints in `subgraphs/`: whole ways to a video as one node, in the host's node library.

`python -m tests.host.blueprints` (from the repository's root) makes them on ComfyUI's page, from the templates: it
folds all nodes into a subgraph and puts the settings that people need on its outside. Needs a ComfyUI and a browser.
"""

import json
from typing import Any, NamedTuple

from artv_core.commands.comfyui_server import PACK, find_hosts

from . import browser, front_end, workflow_format

FOLDER = PACK / "subgraphs"


class Blueprint(NamedTuple):
    """A blueprint from a template without the nodes `left_out`. `inputs` and `outputs` are (label, node, name of its
    input or output), from top to bottom. `room` is additional height for the prompt, in pixels."""

    template: str
    description: str
    category: str
    inputs: tuple[tuple[str, str, str], ...]
    outputs: tuple[tuple[str, str, str], ...] = (("video", "4", "video"),)
    left_out: tuple[str, ...] = ()
    room: int = 0


BLUEPRINTS = {
    "Text to Video (ARTV)": Blueprint(
        "text_to_video",
        "Makes a video from a text, one frame at a time. The video is saved in output/video and shown under Assets.",
        "Video generation and editing/Text to video",
        (
            ("prompt", "2", "text"),
            ("frames", "3", "frames"),
            ("width", "3", "width"),
            ("height", "3", "height"),
            ("seed", "3", "seed"),
            ("checkpoint", "1", "checkpoint"),
        ),
    ),
    "Image to Video (ARTV)": Blueprint(
        "sdxl_image_to_video",
        "Makes a video that starts with a picture and does what the text says. The video is saved in "
        "output/video and shown under Assets. The picture is scaled to the video's size.",
        "Video generation and editing/Image to video",
        (
            ("image", "11", "image"),
            ("prompt", "2", "text"),
            ("frames", "3", "frames"),
            ("width", "11", "width"),
            ("height", "11", "height"),
            ("seed", "3", "seed"),
            ("checkpoint", "1", "checkpoint"),
        ),
        left_out=("5", "6", "7", "8", "9", "10"),
    ),
    "Several Prompts to Video (ARTV)": Blueprint(
        "multi_prompt_long_video",
        "Makes one video from several prompts: each begins at the frame that is written before it, and goes on from "
        "the last frame of the one before. The video is saved in output/video and shown under Assets.",
        "Video generation and editing/Text to video",
        (
            ("prompts", "2", "text"),
            ("frames", "3", "frames"),
            ("width", "3", "width"),
            ("height", "3", "height"),
            ("seed", "3", "seed"),
            ("checkpoint", "1", "checkpoint"),
        ),
        left_out=("6",),
        room=120,
    ),
}

FOLD = """({inputs, outputs, name, description, category, room}) => {
    const graph = app.graph
    const {subgraph, node} = graph.convertToSubgraph(new Set(graph.nodes))
    subgraph.name = node.title = name
    for (const chosen of [...subgraph.inputs]) subgraph.removeInput(chosen) // by the page, from what is often changed
    const find = (id) => subgraph.nodes.find(inner => inner.properties.artv_key == id)
    for (const [label, id, slot] of inputs) {
        const inner = find(id)
        const input = inner.inputs.find(one => one.name == slot)
        const made = subgraph.addInput(label, input.type)
        made.connect(input, inner)
    }
    for (const [label, id, slot] of outputs) {
        const inner = find(id)
        const output = inner.outputs.find(one => one.name == slot)
        const made = subgraph.addOutput(label, output.type)
        made.connect(output, inner)
    }
    subgraph.nodes.forEach(inner => { delete inner.properties.artv_key })
    node.pos = [0, 0]
    node.setSize([Math.max(360, node.computeSize()[0]), node.computeSize()[1] + room])
    const made = graph.serialize()
    Object.assign(made.definitions.subgraphs[0], {category, description})
    return made
}"""


def make(page: Any, name: str) -> dict[str, Any]:
    """The file of one blueprint."""
    blueprint = BLUEPRINTS[name]
    workflow = workflow_format.read_ui(blueprint.template)
    gone = {int(key) for key in blueprint.left_out} | {
        node["id"] for node in workflow["nodes"] if node["type"] == workflow_format.NOTE_TYPE
    }
    links = [link for link in workflow["links"] if not {link[1], link[3]} & gone]
    kept = {link[0] for link in links}
    for node in workflow["nodes"]:
        for slot in node["inputs"]:
            slot["link"] = slot["link"] if slot["link"] in kept else None
        for slot in node["outputs"]:
            slot["links"] = [link for link in slot["links"] or [] if link in kept] or None
    workflow |= {"nodes": [node for node in workflow["nodes"] if node["id"] not in gone], "links": links}
    browser.load(page, workflow, name)
    front_end.set_widgets(page, "ARTVDecodeVideo", filename_prefix="video/artv")
    page.evaluate("() => app.graph.nodes.forEach(node => { node.properties.artv_key = String(node.id) })")
    chosen = {"inputs": blueprint.inputs, "outputs": blueprint.outputs, "name": name, "room": blueprint.room}
    made = page.evaluate(FOLD, chosen | {"description": blueprint.description, "category": blueprint.category})
    return {key: value for key, value in made.items() if key != "extra"} | {"extra": {}}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with front_end.opened_alone(find_hosts()[0], front_end.FrontEnd()) as (_, page, _):
        for name in BLUEPRINTS:
            made = make(page, name)
            (FOLDER / f"{name}.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
