"""Captions longer than the text encoder reads: they are counted and named, as training never sees what is cut."""

from collections.abc import Iterable
from pathlib import Path

from ..config import TextConfig
from ..files.partial_file import replacing
from ..models.text import lost_words

CUT_CAPTIONS = "captions-cut.txt"
"""In the folder of a run, or of prepared clips: a line for each caption that is cut."""


def cut_captions(captions: Iterable[tuple[str, str]], config: TextConfig) -> list[str]:
    """A line for each caption, (clip's name, text), that the encoder reads in part, with the first words that are lost:
    `dog.mp4: 12 of 90 words are not read: ...`."""
    lines = []
    for name, caption in captions:
        lost = lost_words(caption, config)
        if lost:
            more = " ..." if len(lost) > 8 else ""
            words = " ".join(lost[:8])
            lines.append(f"{name}: {len(lost)} of {len(caption.split())} words are not read: {words}{more}")
    return lines


def note_cut_captions(lines: list[str], folder: Path, config: TextConfig, prefix: str = "") -> str:
    """Write the lines to a file in `folder`, or remove the file where there are none. Returns one line to be said, or
    "". Raises ValueError where the file cannot be written."""
    path = folder / f"{prefix}{CUT_CAPTIONS}"
    if not lines:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ValueError(f"cannot remove {path}, which no longer holds: {error.strerror or error}") from None
        return ""
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), "utf-8", "backslashreplace")
    count = "1 caption is" if len(lines) == 1 else f"{len(lines)} captions are"
    more = "; ..." if len(lines) > 2 else ""
    room = config.context_length - 2
    return f"warning: {count} longer than the {room} tokens that are read: {'; '.join(lines[:2])}{more} (all: {path})"
