"""Lists captioned videos in a folder, in a list (CSV, JSONL), or in WebDataset shards.

Nothing is decoded here. A source gives the same entries in the same order on every machine that sees the same files.
"""

import hashlib
import json
import math
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from ..files.file_locks import locked
from ..files.partial_file import replacing
from .endings import VIDEO_ENDINGS, is_video, unread
from .lists import READERS, Row, read_rows
from .shards import INDEX_VERSION, MAX_CAPTION_BYTES, as_caption, collapsed, index_shard, one_line


@dataclass(frozen=True, slots=True)
class Entry:
    """A captioned clip: a video file, or a member of a tar shard, from `start` to `end` (None: its end) in seconds.

    `label` is the file's name within its source; `offset` and `size` say which bytes of a shard are the member's;
    `repeat` counts earlier entries of the same file and seconds (several captions of one video).
    """

    path: Path
    member: str | None
    caption: str
    start: float = 0.0
    end: float | None = None
    label: str = ""
    offset: int = 0
    size: int = 0
    repeat: int = 0

    @property
    def name(self) -> str:
        """A unique name that does not change: `dogs/a.mp4`, `dogs/a.mp4#2.5-7`, `shard-00001.tar/clip7.mp4`. After a
        `#` it says which part of the file is meant, and, after `~`, which of several captions."""
        name = self.label or self.path.as_posix()
        if self.member is not None:
            name = f"{name}/{self.member}"
        part = "" if not self.start and self.end is None else f"{self.start:.10g}-"
        part += "" if self.end is None else f"{self.end:.10g}"
        part += f"~{self.repeat + 1}" if self.repeat else ""
        return f"{name}#{part}" if part else name


def size_and_time(path: Path) -> tuple[int, int]:
    """A file's size and the time of its last change in nanoseconds. Missing files count as empty."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def list_entries(
    source: str | Path, cache: str | Path | None = None, *, captioned: bool = True
) -> tuple[list[Entry], list[str]]:
    """The entries of a source in a fixed order, and a line for each thing that cannot be used, which begins with its
    name.

    A source is one of three things. A folder, at any depth, of videos that each have a caption in a `.txt` of the same
    name, and of `.tar` shards. A `.csv` or `.jsonl` with `path` (relative to the list), `caption` and optionally
    `start` and `end`. Shards: one `.tar`, a pattern such as `clips-{0000..0042}.tar`, or URLs of these (also `pipe:`
    commands), which are downloaded into `cache` once. Indexes of shards are stored in `cache` too; without `cache`,
    downloaded shards go to ~/.cache/artv. If not `captioned`, videos without a caption count too, with an empty one.

    Raises ValueError if there is no such source, a list is malformed, or there is not a single clip.
    """
    text = str(source)
    if _is_pattern(text):
        entries, problems = _from_shards(_expanded(text), cache, captioned)
        sought = "shards (.tar) with videos and captions (.txt or .json)"
    elif Path(text).is_dir():
        entries, problems = _from_folder(Path(text), cache, captioned)
        sought = f"videos ({', '.join(VIDEO_ENDINGS)}) with a caption beside each (.txt), or shards (.tar)"
    elif not Path(text).is_file():
        raise ValueError(f"there is no source {text}; give a folder, a .csv, a .jsonl, or shards (.tar)")
    elif Path(text).suffix.lower() in READERS:
        entries, problems = _from_list(Path(text), read_rows(Path(text), captioned), captioned)
        sought = "rows with a path and a caption"
    else:
        raise ValueError(f"cannot read {text} as a source; accepted are a folder, a .csv, a .jsonl, and shards (.tar)")
    if not entries:
        first = f"; {len(problems)} not usable, the first: {problems[0]}" if problems else ""
        raise ValueError(f"no clips found in {text}: looked for {sought}{first}")
    return entries, problems


def _is_pattern(text: str) -> bool:
    return _is_url(text) or text.lower().endswith(".tar") or ("{" in text and not Path(text).exists())


def _is_url(text: str) -> bool:
    return "://" in text or text.startswith(("pipe:", "file:"))


def _expanded(text: str) -> list[str]:
    from webdataset.shardlists import expand_urls

    return list(expand_urls(text))


# Folders


def _from_folder(root: Path, cache: str | Path | None, captioned: bool) -> tuple[list[Entry], list[str]]:
    entries: list[Entry] = []
    problems: list[str] = []
    for folder, names, fault in _walk(root):
        if fault:
            problems.append(f"{_within(root, folder)}: {fault}")
        passed_over = unread(names)
        for name in names:
            path, label = folder / name, _within(root, folder / name)
            if name in passed_over:
                problems.append(f"{label}: {passed_over[name]}")
            elif name.lower().endswith(".tar"):
                _add_shard(path, label, cache, captioned, entries, problems)
            elif is_video(name):
                caption, problem = _sidecar_caption(path)
                if problem and captioned:
                    problems.append(f"{label}: {problem}")
                else:
                    entries.append(Entry(path, None, caption, label=label))
    return _numbered(entries), problems


def _walk(root: Path) -> Iterator[tuple[Path, list[str], str]]:
    """All folders from `root` down, each with the sorted names of its files, or with the reason why it cannot be read.
    Hidden folders are skipped. Links to folders are followed, each folder once."""
    seen: set[tuple[int, int]] = set()
    unreadable: list[OSError] = []
    for folder, subfolders, files in os.walk(root, onerror=unreadable.append, followlinks=True):
        status = os.stat(folder)
        if status.st_ino and (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield Path(folder), sorted(name for name in files if not name.startswith(".")), ""
    for error in unreadable:
        yield Path(error.filename), [], f"the folder cannot be read ({one_line(error)})"


def _within(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _sidecar_caption(video: Path) -> tuple[str, str]:
    """(caption, "") or ("", what is wrong)."""
    path = video.with_suffix(".txt")
    try:
        with path.open("rb") as file:
            return as_caption(file.read(MAX_CAPTION_BYTES)), ""
    except FileNotFoundError:
        return "", f"there is no caption beside it ({path.name})"
    except (OSError, ValueError) as error:
        return "", f"its caption {path.name} cannot be read ({one_line(error)})"


# Lists


def _from_list(file: Path, rows: Iterable[Row], captioned: bool) -> tuple[list[Entry], list[str]]:
    entries: list[Entry] = []
    problems: list[str] = []
    last, path, label = "", file, ""
    for line, row in rows:
        where = f"{file} line {line}"
        text, caption = (_text(row.get(column), column, where) for column in ("path", "caption"))
        if not text:
            raise ValueError(f"{where}: the path is empty; give each row a video's path")
        start, end = _seconds(row.get("start"), "start", where), _seconds(row.get("end"), "end", where)
        if end is not None and end <= (start or 0):
            raise ValueError(f"{where}: end is {end:g}, accepted are seconds after the start ({start or 0:g})")
        if text != last:  # rows for parts of one video share strings with the row before, to save memory
            last, path, label = text, file.parent / text, os.path.normpath(text).replace(os.sep, "/")
        entry = Entry(path, None, collapsed(caption), start or 0.0, end, label)
        if entry.caption or not captioned:
            entries.append(entry)
        else:
            problems.append(f"{entry.name}: its caption is empty ({where})")
    return _numbered(entries), problems


def _text(value: object, column: str, where: str) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{where}: {column} is {str(value)[:40]}, expected text in quotes")
    text = (value or "").strip()
    try:
        text.encode(errors="surrogateescape" if column == "path" else "strict")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise ValueError(f"{where}: {column} has half a character ({half}); write the whole character") from None
    return text


def _seconds(value: object, column: str, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < 1e9:
        raise ValueError(f"{where}: {column} is {str(value)[:40]!r}, accepted are seconds from 0")
    return seconds


# Shards


def _from_shards(urls: Sequence[str], cache: str | Path | None, captioned: bool) -> tuple[list[Entry], list[str]]:
    entries: list[Entry] = []
    problems: list[str] = []
    for url, label in zip(urls, _labels(urls), strict=True):
        try:
            path = _fetched(url, cache)
        except ValueError as error:
            problems.append(f"{label}: {error}")
        else:
            _add_shard(path, label, cache, captioned, entries, problems)
    return _numbered(entries), problems


def _labels(urls: Sequence[str]) -> list[str]:
    """The URLs without the folders that all of them share."""
    parts = [url.replace("\\", "/").split("/") for url in urls]
    shared = 0
    while all(len(words) > shared + 1 and words[shared] == parts[0][shared] for words in parts):
        shared += 1
    return ["/".join(words[shared:]) for words in parts]


def _fetched(url: str, cache: str | Path | None) -> Path:
    """The local path of a shard, after downloading it if needed. Raises ValueError."""
    if not _is_url(url):
        return Path(url)
    if url.startswith("file:"):
        return Path(url2pathname(urlparse(url).path))
    from webdataset.cache import FileCache

    folder = (Path(cache) if cache is not None else _default_cache()) / "fetched"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = FileCache(str(folder), url_to_name=_fetched_name, validator=tarfile.is_tarfile)
        with locked(folder / f"{_fetched_name(url)}.lock"):
            return Path(files.get_file(url))
    # A transfer can raise different errors, depending on the scheme and on the command that webdataset runs for it.
    except Exception as error:
        raise ValueError(f"cannot fetch {url} ({one_line(error)})") from None


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "artv"


def _fetched_name(url: str) -> str:
    """A readable name that differs for shards of the same name in different places."""
    readable = re.sub(r"[^\w.-]+", "_", url.rpartition("/")[2])[-80:]
    return f"{_digest(url)}-{readable}"


def _add_shard(
    path: Path, label: str, cache: str | Path | None, captioned: bool, entries: list[Entry], problems: list[str]
) -> None:
    try:
        index = _shard_index(path, cache if captioned else None, captioned)
    except (OSError, tarfile.TarError) as error:
        problems.append(f"{label}: it cannot be read as a shard ({one_line(error)})")
        return
    for member, offset, size, caption in index["clips"]:
        entries.append(Entry(path, member, caption, label=label, offset=offset, size=size))
    for member, problem in index["problems"]:
        problems.append(f"{label}/{member}: {problem}" if member else f"{label}: {problem}")


def _shard_index(path: Path, cache: str | Path | None, captioned: bool) -> dict[str, list[Any]]:
    """`clips` (member, offset, size, caption) and `problems` (member, what), cached until the shard changes."""
    if cache is None:
        return index_shard(path, captioned)
    status = path.stat()
    folder = Path(cache) / "shards"
    kept = folder / f"{_digest(f'{INDEX_VERSION} {path.absolute()} {status.st_size} {status.st_mtime_ns}')}.json"
    try:
        return json.loads(kept.read_bytes())
    except (OSError, ValueError):
        pass
    index = index_shard(path)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(kept) as temporary:
        temporary.write_text(json.dumps(index))
    return index


def _numbered(entries: list[Entry]) -> list[Entry]:
    """Number entries that would otherwise share a name, in `repeat`."""
    names: set[str] = set()
    repeats: dict[str, int] = {}
    for position, entry in enumerate(entries):
        name = entry.name
        if name in names:
            repeats[name] = repeats.get(name, 0) + 1
            entries[position] = replace(entry, repeat=repeats[name])
        names.add(name)
    return entries


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=12).hexdigest()
