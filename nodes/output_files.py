"""Files that nodes write into the host's output folder, numbered as the host numbers its own."""

import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io

from ..artv_core.media import CONTAINERS, part_beside
from .automatic import Automatic

Prompt = Mapping[str, Any]
"""The queued graph: `{ID: {"class_type": ..., "inputs": ..., "_meta": {"title": ...}}}`."""

_NUMBERS_TRIED = 1000
_PLACEHOLDER = re.compile("%([^%]+)%")
_DATE_PARTS = re.compile("yyyy|yy|MM?|dd?|hh?|mm?|ss?")
_NOT_IN_A_NAME = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')


class OutputFile(NamedTuple):
    """A file to write: its `path`, its `name` and `subfolder` as the host shows them, and the empty file `reserved`
    that holds its number until the file exists."""

    path: str
    name: str
    subfolder: str
    reserved: str

    def release(self) -> None:
        """Remove the empty file, unless a video was written to it."""
        with suppress(OSError):
            if not os.path.getsize(self.reserved):
                os.unlink(self.reserved)


class Naming(NamedTuple):
    """What a prefix can refer to: the size of the frames, (width, height), and values of the graph."""

    size: tuple[int, int] = (0, 0)
    prompt: Prompt | None = None


_UNKNOWN = Naming()


def output_file(prefix: str, suffix: str, naming: Naming = _UNKNOWN) -> OutputFile:
    """The next free number under `prefix`. An empty file `NAME.part.mp4` reserves it, so that no other server or node
    takes it. Creates the folder. Call `release` when the file is written, or use `reserved_files`.

    Raises ValueError if the prefix leads out of the output folder, or if no file can be created there.
    """
    return output_files(prefix, suffix, 1, naming)[0]


def output_files(prefix: str, suffix: str, count: int = 1, naming: Naming = _UNKNOWN) -> list[OutputFile]:
    """Like `output_file`, for `count` files."""
    folder, stem, number, subfolder = _place(prefix, naming)
    files: list[OutputFile] = []
    try:
        for candidate in range(number, number + count + _NUMBERS_TRIED):
            name = f"{stem}_{candidate:05}_{suffix}"
            reserved = _reserve(Path(folder, name))
            if reserved is not None:
                files.append(OutputFile(os.path.join(folder, name), name, subfolder, reserved))
            if len(files) == count:
                return files
    except OSError as error:
        _release(files)
        raise ValueError(f"filename_prefix {prefix!r} cannot be used: {error.strerror or error}") from None
    _release(files)
    raise ValueError(f"filename_prefix {prefix!r}: no free number from {number} on; choose another prefix")


@contextmanager
def reserved_files(prefix: str, suffix: str, count: int = 1, naming: Naming = _UNKNOWN) -> Iterator[list[OutputFile]]:
    """`output_files` as a context manager. When the block ends, the numbers of files that were not written are free
    again."""
    files = output_files(prefix, suffix, count, naming)
    try:
        yield files
    finally:
        _release(files)


def check_prefix(prefix: str) -> None:
    """Raises ValueError if `prefix` leads out of the output folder. Creates nothing."""
    _inside(prefix, prefix)


def _place(prefix: str, naming: Naming) -> tuple[str, str, int, str]:
    """Folder, beginning of the name, first free number, and the folder relative to the output folder."""
    filled = filled_in(prefix, naming.prompt)
    output = _inside(filled, prefix)
    try:
        folder, stem, first, subfolder, _ = folder_paths.get_save_image_path(filled, output, *naming.size)
    except OSError as error:
        raise ValueError(f"filename_prefix {prefix!r} cannot be used: {error.strerror or error}") from None
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise ValueError(_leads_out(prefix)) from None  # the host follows links, and its own message has three lines
    return folder, stem, first, subfolder


def _inside(filled: str, prefix: str) -> str:
    """The output folder. Raises ValueError if `filled` leads out of it."""
    output = os.path.abspath(folder_paths.get_output_directory())
    try:
        inside = os.path.commonpath((output, os.path.abspath(os.path.join(output, filled)))) == output
    except ValueError:  # on another drive
        inside = False
    if not inside:
        raise ValueError(_leads_out(prefix))
    return output


def _leads_out(prefix: str) -> str:
    return f"filename_prefix {prefix!r} leads out of the output folder; give a name inside it"


def _reserve(path: Path) -> str | None:
    """Create the empty file that reserves a number. It is beside the file itself, so there is never an empty file with
    the final name. Returns None if the number is taken. Raises OSError."""
    kept = part_beside(path)
    try:
        kept.open("x").close()
    except FileExistsError:
        return None
    if path.exists():
        kept.unlink()
        return None
    return str(kept)


def _release(files: list[OutputFile]) -> None:
    for file in files:
        file.release()


def filled_in(prefix: str, prompt: Prompt | None) -> str:
    """`prefix` with `%date:FORMAT%` and `%NODE.INPUT%` filled in, as the host's page does for the host's own nodes.

    FORMAT may contain yyyy, yy, MM, dd, hh, mm and ss (or one letter, without a leading zero). NODE is a title or a
    class in the graph, INPUT one of its values. Unknown placeholders stay as they are; the host fills in `%width%` and
    others.
    """

    def fill(found: re.Match[str]) -> str:
        value = _value(found[1], prompt or {})
        return found[0] if value is None else value

    return _PLACEHOLDER.sub(fill, prefix)


def _value(text: str, prompt: Prompt) -> str | None:
    if text.startswith("date:"):
        now = time.localtime()
        return _DATE_PARTS.sub(lambda part: _date_part(part[0], now), text.removeprefix("date:"))
    name, _, key = text.rpartition(".")
    for node in prompt.values():
        value = node.get("inputs", {}).get(key)
        titles = ((node.get("_meta") or {}).get("title"), node.get("class_type"))
        if name in titles and isinstance(value, str | int | float):
            return _NOT_IN_A_NAME.sub("_", str(value))
    return None


def _date_part(part: str, now: time.struct_time) -> str:
    if part[0] == "y":
        return f"{now.tm_year:04}"[-len(part) :]
    values = {"M": now.tm_mon, "d": now.tm_mday, "h": now.tm_hour, "m": now.tm_min, "s": now.tm_sec}
    return str(values[part[0]]).zfill(len(part))


def video_file_inputs() -> list[io.Input]:
    """The inputs of a node that writes videos: frame rate, file name, format, and enlargement."""
    return [
        io.Float.Input("fps", default=8.0, min=0.01, max=1000.0, step=0.5, tooltip="Frames per second of the video."),
        io.String.Input(
            "filename_prefix",
            default="video/ARTV",
            tooltip="Folder and start of the file's name, inside the output folder. Placeholders such as "
            "%date:yyyy-MM-dd% and %ARTVLoader.checkpoint% are filled in.",
        ),
        io.Combo.Input(
            "format",
            options=[suffix.removeprefix(".") for suffix in CONTAINERS],
            default="mp4",
            tooltip="The kind of file. All contain H.264 video.",
        ),
        UPSCALE.input(),
    ]


SEEN_WELL = 256
"""In pixels. A video with a shorter side is hard to see, so that `upscale` auto enlarges it."""

UPSCALE = Automatic(
    "upscale",
    "Enlarges the video without blur: each pixel becomes a square this many pixels wide. auto: small videos become "
    f"at least {SEEN_WELL} pixels wide and high; 1 keeps their size.",
    whole=True,
    most=16,
    meaning=f"{SEEN_WELL} pixels",
)


def enlargement(upscale: Any, size: tuple[int, int]) -> int:
    """How many times a video of `size` [width, height] is enlarged, if `upscale` is what was typed or came
    from a wire. Raises ValueError as `UPSCALE.check`."""
    UPSCALE.check(upscale)
    number = UPSCALE.whole_number(upscale)
    return min(int(UPSCALE.most), math.ceil(SEEN_WELL / max(1, min(size)))) if number is None else number


def video_suffix(format: str) -> str:
    """The ending for a menu entry, such as `.mp4` for `mp4`. Raises ValueError for an unknown entry, because older
    hosts do not check menu values."""
    if f".{format}" not in CONTAINERS:
        raise ValueError(f"there is no format {format!r}; there are: {', '.join(CONTAINERS).replace('.', '')}")
    return f".{format}"


def graph_metadata(hidden: Any) -> dict[str, str]:
    """The prompt and the workflow as the host's own Save Video stores them, unless the user turned that off."""
    if args.disable_metadata or hidden is None:
        return {}
    stored = dict(hidden.extra_pnginfo or {})
    if hidden.prompt is not None:
        # The host's notes for its cache are not part of the prompt, and may reveal things about the machine.
        stored["prompt"] = {
            key: {name: value for name, value in node.items() if name != "is_changed"}
            for key, node in hidden.prompt.items()
        }
    return {name: json.dumps(value) for name, value in stored.items()}
