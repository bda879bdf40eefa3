"""Reads lists of clips: CSV with a header, or JSONL, with the columns below or those of WebVid.

Reading a list must not lose a word. Whatever other readers drop or join silently (cells beyond the header, quotes that
are not closed, a column given twice) is an error that names the line.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .endings import is_video

COLUMNS = ("path", "caption", "start", "end")
"""The columns of a list; the last two, in seconds, are optional. Other columns are ignored."""

OTHER_NAMES = {
    "path": (
        *("video_path", "video", "videos", "video_file", "video_name", "file_path", "filepath", "file", "file_name"),
        *("filename", "media_path", "media", "clip_path", "clip", "source", "src", "url", "uri", "location"),
    ),
    "caption": (
        *("text", "prompt", "captions", "cap", "description", "desc", "title", "sentence", "label", "txt"),
        *("text_prompt", "long_caption", "short_caption", "name"),
    ),
}
"""What other tools call the columns. They are mentioned in errors, but not read, because such a list may mean something
else by them."""

PAGE_DIR = "page_dir"
WEBVID_LAYOUTS = (
    *("{page}/{video}.mp4", "videos/{page}/{video}.mp4", "../videos/{page}/{video}.mp4"),
    *("{video}.mp4", "videos/{video}.mp4"),
)
"""Where the videos of a WebVid list may be, relative to the list: as WebVid's own scripts place them, or all in one
folder."""

Row = tuple[int, dict[str, Any]]


def read_rows(path: Path, captioned: bool = True) -> Iterator[Row]:
    """For each row of a list that is not blank: the line that it begins on, and its columns with names in lower case.
    If not `captioned`, no column `caption` is needed.

    Raises ValueError, with the number of the line, if the list is malformed.
    """
    return READERS[path.suffix.lower()](path, COLUMNS[: 2 if captioned else 1])


def renaming(column: str, found: Sequence[str] | Mapping[str, Any]) -> str:
    """`; rename its X to COLUMN` if one of `found` is another common name of the column, else ""."""
    other = next((name for name in OTHER_NAMES[column] if name in found), None)
    return "" if other is None else f"; rename its {other} to {column}"


# CSV


def _read_csv(path: Path, needed: Sequence[str]) -> Iterator[Row]:
    webvid = _WebVid(path.parent)
    with path.open(encoding="utf-8-sig", newline="") as file:
        # Spaces after commas are common in lists written by hand; without this, quotes after them would count as text.
        rows = csv.reader(file, strict=True, skipinitialspace=True)
        line = 1
        try:
            header = [name.strip().lower() for name in next(rows, [])]
            if foreign := webvid.lists(header):
                header = webvid.as_header(header)
            columns = _csv_columns(header, path, needed)
            line = rows.line_num + 1
            for row in rows:
                if row:
                    _check_cells(row, header, columns["path"], f"{path} line {line}", numbered=foreign)
                    found = {name: row[at] if at < len(row) else "" for name, at in columns.items()}
                    yield line, webvid.with_path(found) if foreign else found
                line = rows.line_num + 1
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not UTF-8 text; save it as UTF-8") from None
        except csv.Error as error:
            raise ValueError(f"{path} line {line}: {_csv_fault(error)}") from None


def _need(columns: Sequence[str]) -> str:
    return f"needed {'is' if len(columns) == 1 else 'are'} {', '.join(columns)}"


def _csv_columns(header: Sequence[str], path: Path, needed: Sequence[str]) -> dict[str, int]:
    for name in needed:
        if name not in header:
            found = ", ".join(header[:20]) or "nothing"
            advice = renaming(name, header)
            separator = next((sign for sign in (";", "\t", "|") if len(header) == 1 and sign in header[0]), None)
            if separator:
                advice = f"; separate its cells by commas, not by {separator!r}"
            raise ValueError(f"{path} has no column {name} (its first line: {found}); {_need(needed)}{advice}")
    for name in COLUMNS:
        if header.count(name) > 1:
            raise ValueError(f"{path} has {header.count(name)} columns {name}; keep one of them")
    return {name: header.index(name) for name in (*COLUMNS, PAGE_DIR) if name in header}


def _check_cells(row: Sequence[str], header: Sequence[str], path_at: int, where: str, numbered: bool) -> None:
    """Raises ValueError if a comma has split a cell in two, or a quote has joined several rows. `numbered` lists refer
    to videos by numbers only."""
    if any(cell.strip() for cell in row[len(header) :]):
        raise ValueError(
            f"{where} has {len(row)} cells, and the first line {len(header)}; "
            'put quotes around text that has commas in it: "a dog, running"'
        )
    for cell in row:
        for text in cell.splitlines()[1:]:
            cells = text.split(",")
            found = cells[path_at].strip(' "') if len(cells) > max(1, path_at) else ""
            if is_video(found) or (numbered and found.isdigit() and len(cells) >= len(header)):
                raise ValueError(f"{where}: a quote is opened and not closed; it takes in the row {text[:60]!r}")


def _csv_fault(error: csv.Error) -> str:
    text = str(error)
    if "end of data" in text:
        return "a quote is opened and not closed"
    if "expected after" in text:
        return (
            "text or a space stands after a closing quote; remove the space, or write a quote inside of quotes twice: "
            '"a ""red"" square"'
        )
    if "field limit" in text:
        return f"a cell has more than {csv.field_size_limit()} characters; is a quote opened and not closed?"
    return text


# JSONL


def _read_jsonl(path: Path, needed: Sequence[str]) -> Iterator[Row]:
    webvid = _WebVid(path.parent)
    with path.open("rb") as file:
        for line, data in enumerate(file, 1):
            if not data.strip():
                continue
            where = f"{path} line {line}"
            try:
                row = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_Pairs)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where} is not valid JSON: {' '.join(str(error).split())[:200]}") from None
            if not isinstance(row, _Pairs):
                raise ValueError(f"{where} is a {type(row).__name__}, expected an object: path, caption")
            yield line, _fields(row, where, webvid, needed)


class _Pairs(list[tuple[str, Any]]):
    """An object's names and values, including repeated names, which a dict would lose."""


def _fields(row: Sequence[tuple[str, Any]], where: str, webvid: "_WebVid", needed: Sequence[str]) -> dict[str, Any]:
    names = [name.strip().lower() for name, _ in row]
    if foreign := webvid.lists(names):
        names = webvid.as_header(names)
    pairs = list(zip(names, (value for _, value in row), strict=True))
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1 and name in COLUMNS:
            raise ValueError(f"{where} has {name} {count} times; keep one of them")
    fields = dict(pairs)
    for name in needed:
        advice = renaming(name, fields)
        if name not in fields and (advice or name == "path"):
            found = ", ".join(list(fields)[:20]) or "nothing"
            raise ValueError(f"{where} has no {name} (it has: {found}); {_need(needed)}{advice}")
    return webvid.with_path(fields) if foreign else fields


# WebVid


class _WebVid:
    """Turns the columns of WebVid's own lists (videoid, page_dir, name) into `path` and `caption`.

    The first video found decides in which of the known layouts all others are expected.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layout: str | None = None

    def lists(self, names: Sequence[str]) -> bool:
        """Whether a list with these columns is one of WebVid's."""
        return "path" not in names and "videoid" in names and ("name" in names or "caption" in names)

    def as_header(self, names: Sequence[str]) -> list[str]:
        """The column names, with those for `path` and `caption` replaced."""
        usual = {"videoid": "path"} if "caption" in names else {"videoid": "path", "name": "caption"}
        return [usual.get(name, name) for name in names]

    def with_path(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The columns of a row, with the video's path instead of its number."""
        video, page = (str(fields.get(name) or "").strip() for name in ("path", PAGE_DIR))
        if not video:
            return fields
        layout = self.layout
        if layout is None:
            layout = self.layout = next((way for way in WEBVID_LAYOUTS if self._lies(way, page, video)), None)
        return fields | {"path": _placed(layout or WEBVID_LAYOUTS[0], page, video)}

    def _lies(self, layout: str, page: str, video: str) -> bool:
        return (self.folder / _placed(layout, page, video)).is_file()


def _placed(layout: str, page: str, video: str) -> str:
    return layout.format(page=page, video=video).lstrip("/").replace("//", "/")


READERS = {".csv": _read_csv, ".jsonl": _read_jsonl}
