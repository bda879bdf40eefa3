"""Files that nodes write: in the host's output folder, numbered as the host numbers its own."""

import json
import os
from typing import Any, NamedTuple

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io

from ..artv_core.media import CONTAINERS


class OutputFile(NamedTuple):
    """A file to write: its `path`, and its `name` and `subfolder` as the host shows them."""

    path: str
    name: str
    subfolder: str


def output_file(prefix: str, suffix: str) -> OutputFile:
    """The next free number under `prefix`; the folder is made. Raises ValueError, one line, where the prefix leads out
    of the output folder or its folder cannot be made."""
    return output_files(prefix, suffix)[0]


def output_files(prefix: str, suffix: str, count: int = 1) -> list[OutputFile]:
    """As `output_file`, so many with numbers that follow one another."""
    output = os.path.abspath(folder_paths.get_output_directory())
    target = os.path.abspath(os.path.join(output, prefix))
    if os.path.commonpath((output, target)) != output:
        raise ValueError(f"filename_prefix {prefix!r} leads out of the output folder; give a name inside it")
    try:
        folder, stem, first, subfolder, _ = folder_paths.get_save_image_path(prefix, output)
    except OSError as error:
        raise ValueError(f"filename_prefix {prefix!r} cannot be used: {error.strerror or error}") from None
    names = [f"{stem}_{number:05}_{suffix}" for number in range(first, first + count)]
    return [OutputFile(os.path.join(folder, name), name, subfolder) for name in names]


def video_file_inputs() -> list[io.Input]:
    """What a node that writes videos asks for: frame rate, where to, which kind, and how large."""
    return [
        io.Float.Input("fps", default=8.0, min=0.01, max=1000.0, step=0.5, tooltip="Frames per second of the video."),
        io.String.Input(
            "filename_prefix",
            default="video/ARTV",
            tooltip="Folder and beginning of the file's name, inside the output folder.",
        ),
        io.Combo.Input(
            "format",
            options=[suffix.removeprefix(".") for suffix in CONTAINERS],
            default="mp4",
            tooltip="The kind of file. All hold H.264 video.",
        ),
        io.Int.Input(
            "upscale",
            default=1,
            min=1,
            max=16,
            tooltip="Each pixel becomes a square of so many pixels, without blur. 4 makes the tiny model's 64 pixels "
            "easy to see.",
        ),
    ]


def video_suffix(format: str) -> str:
    """Of the menu's entry, `.mp4` of `mp4`. Raises ValueError where there is none, since older hosts check no menus."""
    if f".{format}" not in CONTAINERS:
        raise ValueError(f"there is no format {format!r}; there are: {', '.join(CONTAINERS)}")
    return f".{format}"


def graph_metadata(hidden: Any) -> dict[str, str]:
    """The prompt and the workflow as the host's own Save Video stores them, unless it was told not to."""
    if args.disable_metadata or hidden is None:
        return {}
    stored = dict(hidden.extra_pnginfo or {})
    if hidden.prompt is not None:
        # What the host notes down for its cache is no part of the prompt, and may tell of the machine.
        stored["prompt"] = {
            key: {name: value for name, value in node.items() if name != "is_changed"}
            for key, node in hidden.prompt.items()
        }
    return {name: json.dumps(value) for name, value in stored.items()}
