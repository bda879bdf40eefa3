"""Finds captions that are longer than the text encoder reads. They are counted and named, because training never sees
what is cut off."""

from collections.abc import Iterable
from pathlib import Path

from ..config import TextConfig
from ..files.partial_file import replacing
from ..models.text import lost_words

CUT_CAPTIONS = "captions-cut.txt"
"""A file in the folder of a run, or of prepared clips, with a line for each caption that is cut."""


def cut_captions(captions: Iterable[tuple[str, str]], config: TextConfig) -> list[str]:
    """A line for each caption, given as (clip's name, text), that the encoder does not read to its end, with the first
    words that are lost: `dog.mp4: 12 of 90 words are not read: ...`."""
    lines = []
    for name, caption in captions:
        lost = lost_words(caption, config)
        if lost:
            more = " ..." if len(lost) > 8 else ""
            words = " ".join(lost[:8])
            lines.append(f"{name}: {len(lost)} of {len(caption.split())} words are not read: {words}{more}")
    return lines


def note_cut_captions(lines: list[str], folder: Path, config: TextConfig, prefix: str = "") -> str:
    """Write the lines to a file in `folder`, or remove the file if there are no lines. Returns a one-line warning to
    print, or "". Raises ValueError if the file cannot be written."""
    path = folder / f"{prefix}{CUT_CAPTIONS}"
    if not lines:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ValueError(f"cannot remove {path}, which is out of date: {error.strerror or error}") from None
        return ""
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), "utf-8", "backslashreplace")
    count = "1 caption is" if len(lines) == 1 else f"{len(lines)} captions are"
    more = "; ..." if len(lines) > 2 else ""
    room = config.context_length - 2
    return f"warning: {count} longer than the {room} tokens that are read: {'; '.join(lines[:2])}{more} (all: {path})"
