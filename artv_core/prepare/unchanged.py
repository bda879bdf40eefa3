"""Refuses to replace finished shards unless the user asks for it with --redo."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.prepared import SHARDS, read_record
from ..data.sources import Entry
from ..files.changes import changes
from .options import PrepareOptions


def check_unchanged(options: PrepareOptions, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError if shards made with other settings would be replaced without --redo."""
    try:
        before = json.loads((options.output / "work/settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if options.redo or not any((options.output / SHARDS).glob("clips-*.tar")):
        return
    if found := changes(_flat(before), _flat(settings)):
        raise ValueError(
            f"{options.output} was made with other settings ({'; '.join(found)[:400]}): choose another folder, or "
            "add --redo, which replaces what depends on them and keeps the rest"
        )


def check_still_there(
    options: PrepareOptions,
    shards: Iterable[Path],
    entries: Sequence[Entry],
    records: Iterable[Mapping[str, Any]],
) -> None:
    """Raises ValueError if one of these `shards`, which are about to be replaced, is finished and has clips of a video
    that is not there any more, or cannot be read. `records` are the scores of the entries."""
    finished = filter(None, (read_record(path.with_suffix(".tar")) for path in shards))
    lost = {_file(name): name for record in finished for name in record.names}
    if lost:
        for entry, record in zip(entries, records, strict=True):
            if "broken" not in record:
                lost.pop(_file(entry.name), None)
    if lost:
        videos = "1 video" if len(lost) == 1 else f"{len(lost)} videos"
        raise ValueError(
            f"{options.output} has clips of {videos} that cannot be found or read in {options.source} now, such as "
            f"{next(iter(lost.values()))}; bring them back (is a drive missing?), or add --redo, which removes their "
            "clips"
        )


def _file(name: str) -> str:
    """A clip's name without the part of the file that is meant."""
    return name.partition("#")[0]


def _flat(settings: Mapping[str, Any]) -> dict[str, str]:
    """Each setting of each step as text, and each part of a setting that has parts. A setting that two steps share is
    the same in both."""
    flat: dict[str, str] = {}
    for step in settings.values():
        for name, value in step.items() if isinstance(step, dict) else ():
            parts = {f"{name} {part}": one for part, one in value.items()} if isinstance(value, dict) else {name: value}
            flat |= {part: json.dumps(one) for part, one in parts.items()}
    return flat
