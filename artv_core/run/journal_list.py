"""Listing and removing journals."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files.partial_file import one_line, reason
from .journal_file import JournalReader
from .journal_folder import lock_journal, lock_path, newest_first, remove_quietly, sidecar_path

_SHOWN = ("checkpoint", "width", "height", "seed", "prompt")


@dataclass(frozen=True)
class JournalInfo:
    """A journal in a list. `num_frames` is the number of complete records, `modified` is in seconds since 1970, `about`
    is from the header."""

    path: Path
    num_frames: int
    num_bytes: int
    modified: float
    shape: tuple[int, int, int, int]
    about: Mapping[str, Any]


def list_journals(folder: str | Path) -> list[JournalInfo]:
    """The journals in a folder, newest first. Other files are ignored."""
    found = []
    for path in newest_first(Path(folder)):
        with suppress(ValueError, OSError), JournalReader(path) as reader:
            info = (reader.num_records, reader.num_bytes, path.stat().st_mtime)
            found.append(JournalInfo(path, *info, reader.header.shape, reader.header.about))
    return found


def remove_journal(path: str | Path) -> None:
    """Remove a journal, and the file beside it that says how its run was steered. Raises ValueError if the file is not
    a journal, is in use or cannot be removed."""
    with JournalReader(path) as reader:
        path = reader.path
    try:
        lock = lock_journal(path)
    except OSError as error:
        raise ValueError(f"cannot remove {path}: {reason(error)}") from None
    if lock is None:
        raise ValueError(f"{path} is in use; stop the run that writes it first")
    try:
        path.unlink()
        remove_quietly(sidecar_path(path))
    except OSError as error:
        raise ValueError(f"cannot remove {path}: {reason(error)}") from None
    finally:
        lock.release()
        remove_quietly(lock_path(path))


def journal_table(journals: Sequence[JournalInfo]) -> str:
    """A text list of journals: name, frames, size, time and contents."""
    if not journals:
        return "no journals"
    total = sum(journal.num_bytes for journal in journals)
    lines = [f"{len(journals)} journal{'s' * (len(journals) > 1)}, {readable_size(total)}"]
    for journal in journals:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(journal.modified))
        what = ", ".join(
            f"{name} {one_line(str(value), 60)}" for name, value in journal.about.items() if name in _SHOWN
        )
        lines.append(
            f"{journal.path.name}  {journal.num_frames} frames  {readable_size(journal.num_bytes)}  {when}  {what}"
        )
    return "\n".join(lines)


def readable_size(num_bytes: int) -> str:
    """A size for display, such as 12.3 MB (units of 1000)."""
    size, units = float(num_bytes), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "bytes" else f"{size:.1f} {units[0]}"
