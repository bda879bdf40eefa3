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
from .workflow_format import TITLES, WORKFLOWS

NOTE = "note"
COLUMN_GAP, ROW_GAP, TITLE_BAR = 40, 36, 30
NARROW_GAP = 32
"""For templates of five wide columns: older pages have bars beside the canvas, which take room from it."""
FOLDED_HEIGHT = 60
NOTE_SIZE = (340, 180)

SIZES = {
    "ARTVLoader": (350, 470),
    "CLIPTextEncode": (340, 170),
    "ARTVMultiPromptScheduler": (430, 720),
    "ARTVMaskedDiffusionSampler": (380, 800),
    "ARTVAnchorFrame": (300, 196),
    "ARTVNoiseAugment": (300, 330),
    "ARTVJournalSettings": (300, 170),
    "ARTVStreamVideo": (300, 180),
    "ARTVDecodeVideo": (300, 440),
    "ARTVDriftReadout": (440, 540),
    "ARTVStepMasks": (460, 560),
    "ARTVKeyframes": (300, 110),
    "ARTVFitImage": (300, 130),
    "PreviewAny": (330, 220),
    "SaveVideo": (300, 420),
    "CreateVideo": (300, 90),
    "GetVideoComponents": (300, 110),
    "EmptyImage": (300, 155),
    "ImageCompositeMasked": (300, 165),
    "ImageScale": (300, 150),
    "MaskToImage": (300, 60),
    "VAEEncode": (300, 80),
    "VAEDecode": (300, 80),
    "CheckpointLoaderSimple": (320, 130),
    "EmptyLatentImage": (320, 140),
    "KSampler": (320, 290),
}
"""Width and height of each kind of node, with room for what it shows after a run."""


class Template(NamedTuple):
    """Where a template's nodes are, column by column and from top to bottom, and which of them are folded up. A number
    in a column is empty room; `gap` is the room between columns."""

    note: str
    columns: Sequence[Sequence[str | int]]
    folded: Sequence[str] = ()
    gap: int = COLUMN_GAP


START = 110
"""Room at the top of a column, so that wires that pass behind its nodes do not run into their sockets."""

TEMPLATES = {
    "text_to_video": Template(
        """Change the prompt and press Run.
- The model knows 131 things in 18 places; ARTV Loader lists its words.
- Things are moving (left slowly, up right fast, ...), bouncing, pulsing, spinning, swinging, or standing still.
- Change seed for another video, frames for a longer one.""",
        [["1", NOTE], [START, "2"], ["3"], ["4"]],
    ),
    "image_to_video": Template(
        """A picture that moves.
- The folded sampler draws it: a video of one frame.
- For your own, put Load Image in place of "First frame". ARTV Fit Image gives it the video's size.
- Say in the prompt what should happen.""",
        [["1", "5", NOTE], [START, "2", "6", "7", "9", "8"], ["3"], ["4"]],
        folded=["6"],
    ),
    "multi_prompt_long_video": Template(
        """A prompt for each part.
- The number before a prompt is the frame where it starts.
- frames in the sampler is the length of the video.
- Each prompt goes on from the last frame of the one before.""",
        [["1", NOTE, "5"], ["2"], ["3"], ["4", "6"]],
    ),
    "go_on_from_video": Template(
        """More frames for a video.
- The first sampler makes a short video, the second one continues it.
- For your own, put Load Video in place of "Or use Load Video".
- frames includes those of the first video: set it higher.""",
        [["1", "2", NOTE], ["4"], [90, "3", "5", "6", "7", "8", "9"], ["10"], ["11"]],
        gap=NARROW_GAP,
    ),
    "keyframes": Template(
        """Two pictures in one video, at frames 0 and 16.
- The video goes on from each. Here the folded samplers draw them.
- For your own, put Load Image and ARTV Fit Image in place of "First picture (or use Load Image)", and of the second.
- To move one, change its positions, and start a prompt there.""",
        [["1", "5", NOTE], ["2", "6", "8", "14"], ["7", "10", "12", "9", "11", "13"], ["3"], ["4"]],
        gap=NARROW_GAP,
        folded=["6", "14"],
    ),
    "long_video_watched": Template(
        """Watch it grow.
- While it runs, open output/video/long_video_watched_*.part.mp4 in a player.
- Cancel it, or restart ComfyUI, and queue it again: it continues.
- 40: 7 in redo of ARTV Journal makes frame 40 and later ones again, with seed 7.""",
        [["1", NOTE, "4"], ["2", "5"], ["3"], ["6", "7"]],
    ),
    "see_the_masks": Template(
        """White is copied, black is new.
- Press play in "White: copied". Frame 0 is black, because nothing is copied in it.
- The sheet shows the steps of one frame.
- Or tick copied in the sampler.""",
        [["1", "2", NOTE], ["3"], ["5", "6", "7", "4"], ["9", "8"]],
    ),
    "compare_anchor_mask_noise": Template(
        """One seed, four ways.
- As recommended, and without anchor, mask or noise.
- The four look nearly the same at first: unfold the samplers and raise frames in all four.
- Unfold a sampler to see its settings.""",
        [["1", "2", NOTE], ["3"], [START, "5", "6", "10", "11", "8"], ["4", "7"], ["12", "9"]],
        folded=["6", "11", "8"],
    ),
    "sdxl_image_to_video": Template(
        """The only template that needs another file.
- Put sd_xl_base_1.0.safetensors into models/checkpoints.
- SDXL draws the first frame, ARTV moves it.
- "To the video's size" scales the picture to what the ARTV checkpoint is made for.""",
        [["5", "1", NOTE], ["6", "7", "8", "2"], ["9", "10", "11", "12"], ["3"], ["4"]],
    ),
}


# Places


def arrange(workflow: dict[str, Any], template: Template) -> None:
    """Place the nodes of a workflow in the template's columns. All nodes of a column are as wide as its widest."""
    by_key = {str(node["id"]): node for node in workflow["nodes"]}
    by_key[NOTE] = next(node for node in workflow["nodes"] if node["type"] == workflow_format.NOTE_TYPE)
    left = 0
    for column in template.columns:
        sizes = {
            key: NOTE_SIZE if key == NOTE else SIZES[by_key[key]["type"]] for key in column if isinstance(key, str)
        }
        width, top = max(width for width, _ in sizes.values()), 0
        for key in column:
            if isinstance(key, int):
                top += key
                continue
            folded = key in template.folded
            by_key[key] |= {"size": [width, FOLDED_HEIGHT if folded else sizes[key][1]], "pos": [left, top]}
            by_key[key]["flags"] = {"collapsed": True} if folded else {}
            top += (0 if folded else sizes[key][1]) + TITLE_BAR + ROW_GAP
        left += width + template.gap


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
    """A template's picture: cells, and a sentence below them, where the page puts no badge."""

    def __init__(self, text: str, band: int = BAND) -> None:
        self.image = Image.new("RGB", (SIDE, SIDE), PAPER)
        self._draw, self._band = ImageDraw.Draw(self.image), band
        self._text(text, (SIDE // 2, SIDE - band // 2), 30)

    def cells(self, pictures: Sequence[np.ndarray], across: int, labels: Sequence[str] = ()) -> "Card":
        """Fill the room above the sentence with square pictures, `across` in a row, centred."""
        down = -(-len(pictures) // across)
        side = min((SIDE - GAP) // across, (SIDE - self._band - GAP) // down) - GAP
        left = (SIDE - across * (side + GAP) + GAP) // 2
        top = (SIDE - self._band - down * (side + GAP)) // 2
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


def moving(frames: Frames, start: int = 0) -> Frames:
    """Four frames that follow one another closely enough to see where things go."""
    return frames[start : start + 8 : 2]


CARDS: dict[str, Callable[[dict[str, Frames]], Card]] = {
    "text_to_video": lambda made: Card("“a sailboat\nmoving left slowly”").cells(moving(made["4"], 4), 2),
    "image_to_video": lambda made: Card("One picture moves").cells(moving(made["4"]), 2, ["your picture"]),
    "multi_prompt_long_video": lambda made: Card("Right, a bounce,\nthen left").cells(
        [made["4"][index] for start in (4, 20, 36) for index in range(start, start + 6, 2)], 3
    ),
    "go_on_from_video": lambda made: Card("Continue a video").cells(
        [made["11"][index] for index in (3, 7, 10, 13)], 2, ["yours", "yours", "new", "new"]
    ),
    "keyframes": lambda made: Card("Your own pictures\nat chosen frames").cells(
        [made["4"][index] for index in (0, 4, 16, 20)], 2, ["yours", "", "yours", ""]
    ),
    "long_video_watched": lambda made: Card("Long, and watched\nwhile it is made").cells(pick(made["3"], 16), 4),
    "see_the_masks": lambda made: Card("White is copied,\nblack is new").cells(
        [picture for pair in zip(made["4"][4:13:8], made["8"][4:13:8], strict=True) for picture in pair], 2
    ),
    "compare_anchor_mask_noise": lambda made: Card("One seed, four ways", 56).cells(
        [made[key][-1] for key in ("4", "7", "9", "12")], 2, ["as recommended", "no anchor", "no mask", "no noise"]
    ),
    "sdxl_image_to_video": lambda made: Card("SDXL draws it,\nARTV moves it").cells(
        moving(made["4"]), 2, ["first picture"]
    ),
}


def draw(name: str, server: Server) -> None:
    """Run a template and write its picture. ARTV draws SDXL's picture too, because SDXL's file is not here."""
    graph = workflow_format.read_api(name)
    result = server.run(with_own_picture(graph) if name in workflow_format.NEEDS_A_FILE else graph)
    if result.status != "success":
        raise SystemExit(f"{name}: {result.message}")
    CARDS[name](videos(server, result)).image.save(WORKFLOWS / f"{TITLES[name]}.jpg", quality=90)


def with_own_picture(graph: workflow_format.Graph) -> workflow_format.Graph:
    """The SDXL workflow with the nodes that draw the picture in image_to_video in place of SDXL's."""
    drawing = {key: workflow_format.read_api("image_to_video")[key] for key in ("5", "6", "7")}
    drawing["5"]["inputs"]["text"] = graph["2"]["inputs"]["text"]
    rest = {key: part for key, part in graph.items() if key not in ("5", "6", "7", "8", "9")}
    return rest | {"5": drawing["5"], "6": drawing["6"], "10": drawing["7"]}


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


if __name__ == "__main__":
    main()
