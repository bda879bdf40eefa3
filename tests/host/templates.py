"""The templates that people open: their titles, notes, places of nodes, and pictures.

`python -m tests.host.templates` (from the repository's root) writes `workflows/*.json` from `workflows/api`, or those
that are named; with `--thumbnails` it also runs them and draws their pictures. Both need a ComfyUI. The template
browser shows a file's name as its title, and asks for a JPEG of the same name, so pictures do not move.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from artv_core.commands.comfyui_server import Result, Server, find_hosts
from artv_core.media import evenly_spaced, read_video

from . import workflow_format
from .workflow_format import TITLES, WORKFLOWS, Graph

NOTE = "note"
COLUMN_GAP, ROW_GAP, TITLE_BAR = 40, 40, 30
NOTE_SIZE = (340, 170)

SIZES = {
    "ARTVLoader": (350, 470),
    "CLIPTextEncode": (340, 170),
    "ARTVMultiPromptScheduler": (430, 720),
    "ARTVMaskedDiffusionSampler": (380, 800),
    "ARTVAnchorFrame": (300, 190),
    "ARTVNoiseAugment": (300, 330),
    "ARTVJournalSettings": (300, 170),
    "ARTVStreamVideo": (300, 170),
    "ARTVDecodeVideo": (300, 440),
    "ARTVDriftReadout": (330, 500),
    "ARTVStepMasks": (340, 460),
    "ARTVKeyframes": (300, 130),
    "PreviewAny": (330, 220),
    "PreviewImage": (340, 360),
    "SaveVideo": (300, 420),
    "CreateVideo": (300, 90),
    "GetVideoComponents": (300, 110),
    "EmptyImage": (300, 140),
    "ImageCompositeMasked": (300, 170),
    "ImageScale": (300, 180),
    "ImageBatch": (300, 80),
    "MaskToImage": (300, 60),
    "VAEEncode": (300, 80),
    "VAEDecode": (300, 80),
    "CheckpointLoaderSimple": (320, 130),
    "EmptyLatentImage": (320, 140),
    "KSampler": (320, 290),
}
"""Width and height of each kind of node, with room for what it shows after a run."""


class Template(NamedTuple):
    """Where a template's nodes are, column by column and from top to bottom, and which of them are folded up."""

    note: str
    columns: Sequence[Sequence[str]]
    folded: Sequence[str] = ()


TEMPLATES = {
    "text_to_video": Template(
        "Change the prompt. The shipped tiny model knows sizes (small, medium, large), colours, circle, square, "
        "triangle, star, directions (right, up and left, ...), slowly and fast, and coloured backgrounds. Change the "
        "seed for another video and frames for a longer one. It runs on a CPU in seconds.",
        [["1"], [NOTE, "2"], ["3"], ["4"]],
    ),
    "image_to_video": Template(
        "The three image nodes draw the first frame. To animate your own picture, replace them with Load Image and "
        "Upscale Image (64 x 64). Say in the prompt what should happen.",
        [["1", NOTE], ["5", "6", "7", "8"], ["2"], ["3"], ["4"]],
    ),
    "multi_prompt_long_video": Template(
        "One prompt for each range of frames; the number is the frame it starts at. Each later prompt uses the last "
        "frame of the previous prompt as its anchor. The length of the video is frames in the sampler.",
        [["1", NOTE, "5"], ["2"], ["3"], ["4", "6"]],
    ),
    "go_on_from_video": Template(
        "The first sampler makes a short video; the second one continues it with another prompt. To continue your own "
        "video, replace Create Video with Load Video; the frames are scaled to the model's size. frames includes the "
        "frames of that video, so set it to a higher number.",
        [["1", "2", NOTE], ["4"], ["3", "5", "6", "7", "8", "9"], ["10"], ["11"]],
    ),
    "keyframes": Template(
        "The video shows your pictures at frames 0 and 16 and goes on from each. The image nodes draw the two "
        "pictures: replace them with Load Image and Upscale Image (64 x 64). Change the frames in positions, and let a "
        "prompt start at each.",
        [["1", NOTE, "5", "8"], ["2", "6"], ["7", "9", "10", "11", "12"], ["3"], ["4"]],
    ),
    "long_video_watched": Template(
        "While it runs, open output/video/long_video_watched_*.part.mp4 in a player: it grows with each frame. Cancel "
        "the run, or close ComfyUI, and queue it again: it continues where it stopped. In redo, '40: 7' makes all "
        "frames from frame 40 on again, with seed 7.",
        [["1", NOTE], ["2"], ["4", "5"], ["3"], ["6", "7"]],
    ),
    "see_the_masks": Template(
        "The second video shows what was copied: white cells were copied from the previous frame, dark ones are new. "
        "The sheet shows the same for each denoising step of one frame.",
        [["1", NOTE], ["2"], ["3"], ["5", "6", "7", "9"], ["4", "8"]],
    ),
    "compare_anchor_mask_noise": Template(
        "Four videos from one seed: as recommended, without the anchor frame, without the copy mask, without noise "
        "augmentation. With this small model they differ little at first; make more frames to see more. Unfold a "
        "sampler to see its settings.",
        [["1", "2", NOTE], ["3"], ["5", "6", "10", "11", "8"], ["4", "7"], ["12", "9"]],
        folded=["6", "11", "8"],
    ),
    "sdxl_image_to_video": Template(
        "SDXL draws the first frame, ARTV moves it. This is the only template that needs another file: put "
        "sd_xl_base_1.0.safetensors into models/checkpoints. With an ARTV checkpoint of another size, change the size "
        "in Upscale Image.",
        [["1", NOTE, "2"], ["5", "6", "7", "8"], ["9", "10", "11", "12"], ["3"], ["4"]],
    ),
}


# Places


def arrange(workflow: dict[str, Any], template: Template) -> None:
    """Place the nodes of a workflow in the template's columns, each as wide as its widest node."""
    by_key = {str(node["id"]): node for node in workflow["nodes"]}
    by_key[NOTE] = next(node for node in workflow["nodes"] if node["type"] == "Note")
    left = 0
    for column in template.columns:
        top = 0
        for key in column:
            node = by_key[key]
            node["size"] = list(NOTE_SIZE if key == NOTE else SIZES[node["type"]])
            node["pos"] = [left, top]
            node["flags"] = {"collapsed": True} if key in template.folded else {}
            top += (0 if key in template.folded else node["size"][1]) + TITLE_BAR + ROW_GAP
        left += max(by_key[key]["size"][0] for key in column) + COLUMN_GAP


def write(name: str, info: workflow_format.Info) -> None:
    """Write the browser's file of a template."""
    template = TEMPLATES[name]
    workflow = workflow_format.ui_from_api(workflow_format.read_api(name), info, template.note, name)
    arrange(workflow, template)
    path = WORKFLOWS / f"{TITLES[name]}.json"
    path.write_text(json.dumps(workflow, indent=2) + "\n", encoding="utf-8")


# Pictures

SIDE, GAP, BAND = 480, 4, 84
INK, PAPER = "#f2f2f2", "#1b1d22"

Frames = list[np.ndarray]


def font(size: int) -> Any:
    """Pillow's own font."""
    return ImageFont.load_default(size)


class Card:
    """A template's picture: a sentence at the top, cells below."""

    def __init__(self, text: str, band: int = BAND) -> None:
        self.image = Image.new("RGB", (SIDE, SIDE), PAPER)
        self._draw, self._band = ImageDraw.Draw(self.image), band
        self._text(text, (SIDE // 2, band // 2), 26)

    def cells(self, pictures: Sequence[np.ndarray], across: int, labels: Sequence[str] = ()) -> "Card":
        """Fill the room below the sentence with square pictures, `across` in a row, centred."""
        down = -(-len(pictures) // across)
        side = min((SIDE - GAP) // across, (SIDE - self._band - GAP) // down) - GAP
        left = (SIDE - across * (side + GAP) + GAP) // 2
        top = self._band + (SIDE - self._band - down * (side + GAP)) // 2
        for index, picture in enumerate(pictures):
            x, y = left + (index % across) * (side + GAP), top + (index // across) * (side + GAP)
            small = side > picture.shape[0]
            cell = Image.fromarray(picture).resize(
                (side, side), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
            )
            self.image.paste(cell, (x, y))
            if index < len(labels) and labels[index]:
                self._label(labels[index], (x, y + side), side)
        return self

    def _label(self, text: str, corner: tuple[int, int], width: int) -> None:
        x, y = corner
        self._draw.rectangle((x, y - 30, x + width - 1, y - 1), fill=PAPER)
        self._text(text, (x + width // 2, y - 16), 20)

    def _text(self, text: str, centre: tuple[int, int], size: int) -> None:
        self._draw.multiline_text(centre, text, fill=INK, font=font(size), anchor="mm", align="center", spacing=6)


def pick(frames: Frames, count: int) -> Frames:
    """Frames evenly spaced over a video."""
    return [frames[index] for index in evenly_spaced(len(frames), count)]


CARDS: dict[str, Callable[[dict[str, Frames]], Card]] = {
    "text_to_video": lambda made: Card("“a large red circle\nmoving right”").cells(pick(made["4"], 4), 2),
    "image_to_video": lambda made: Card("One picture moves").cells(pick(made["4"], 4), 2, ["your picture"]),
    "multi_prompt_long_video": lambda made: Card("Right, then up, then left").cells(pick(made["4"], 9), 3),
    "go_on_from_video": lambda made: Card("Continue a video").cells(
        [*pick(made["11"][:8], 2), *pick(made["11"][8:], 2)], 2, ["yours", "yours", "new", "new"]
    ),
    "keyframes": lambda made: Card("Your own pictures\nat chosen frames").cells(
        [made["4"][index] for index in (0, 8, 16, 24)], 2, ["yours", "", "yours", ""]
    ),
    "long_video_watched": lambda made: Card("Long, and watched\nwhile it is made").cells(pick(made["3"], 16), 4),
    "see_the_masks": lambda made: Card("White is copied,\nblack is new").cells(
        [picture for pair in zip(made["4"][4:13:8], made["8"][4:13:8], strict=True) for picture in pair], 2
    ),
    "compare_anchor_mask_noise": lambda made: Card("One seed, four ways", 56).cells(
        [made[key][-1] for key in ("4", "7", "9", "12")], 2, ["as recommended", "no anchor", "no mask", "no noise"]
    ),
    "sdxl_image_to_video": lambda made: Card("SDXL draws it,\nARTV moves it").cells(
        pick(made["4"], 4), 2, ["SDXL's picture"]
    ),
}


def draw(name: str, server: Server) -> None:
    """Run a template and write its picture. SDXL's picture is replaced by a drawn one, because its file is not here."""
    graph = workflow_format.read_api(name)
    result = server.run(workflow_format.without_sdxl(graph) if name in workflow_format.NEEDS_A_FILE else graph)
    if result.status != "success":
        raise SystemExit(f"{name}: {result.message}")
    CARDS[name](videos(server, result)).image.save(WORKFLOWS / f"{TITLES[name]}.jpg", quality=90)


def videos(server: Server, result: Result) -> dict[str, Frames]:
    """The frames of each node's video file, by the node's key."""
    found: dict[str, Frames] = {}
    for key, output in result.outputs.items():
        files = [file for file in output.get("images", ()) if file["filename"].endswith(".mp4")]
        if files:
            found[key] = [frame.permute(1, 2, 0).numpy() for frame in read_video(server.output_file(files[0]))]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--thumbnails", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Server(find_hosts()[0], Path(folder)) as server:
        info = server.get("/object_info")
        for name in args.names or TITLES:
            write(name, info)
            if args.thumbnails:
                draw(name, server)


def known_sizes(graph: Graph) -> set[str]:
    """Kinds of nodes in a graph that have no entry in `SIZES`."""
    return {part["class_type"] for part in graph.values()} - SIZES.keys()


if __name__ == "__main__":
    main()
