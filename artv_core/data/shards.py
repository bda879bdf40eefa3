"""Indexes a tar shard: its clips with their captions and positions, and everything that is left out, with the reason.

A member's name is split at a known ending (a video's, .txt, .json), so names may contain dots: the caption of
`ep1.05-10.mp4` is `ep1.05-10.txt`. WebDataset splits at the first dot instead. To allow for that, `000.txt` is also the
caption of `000.left.mp4`, unless there is `000.left.txt` or `000.mp4`.
"""

import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .clips import may_pass
from .endings import NO_VIDEO, ends_as_unread, is_video
from .lists import renaming

INDEX_VERSION = 3
"""Version of the index; raise it when indexing finds more or other things than before."""

MAX_CAPTION_BYTES = 1 << 20
CAPTION_ENDINGS = (".txt", ".json")
_META_MEMBER = re.compile(r"__[^/]*__($|/)")  # members that webdataset ignores


def index_shard(path: Path, captioned: bool = True) -> dict[str, list[Any]]:
    """`clips` (member, offset, size, caption) and `problems` (member, what), both in the shard's order. If not
    `captioned`, a clip may lack a caption; it is then empty. Raises OSError or TarError if it is not a shard."""
    index: dict[str, list[Any]] = {"clips": [], "problems": []}
    with tarfile.open(path, "r:") as tar:
        members: list[tarfile.TarInfo] = []
        try:
            members.extend(member for member in tar if not (member.isdir() or _META_MEMBER.search(member.name)))
            whole = _ends_here(path, tar.offset)
        except (OSError, tarfile.TarError) as error:
            if may_pass(error):
                raise
            whole = False
        if not whole:
            index["problems"].append(("", "the shard ends early; what comes before is used"))
        samples = list(_samples(members))
        loose = {stem: found for sample in samples if not sample.videos for stem, found in sample.captions.items()}
        length = os.path.getsize(path)
        used = {
            _add_clip(tar, video, sample, loose, length, captioned, index)
            for sample in samples
            for video in sample.videos
        }
    for sample in samples:
        index["problems"] += [(name, NO_VIDEO) for name in _unread_members(sample, loose, used)]
    return index


def _ends_here(path: Path, offset: int) -> bool:
    """Whether the mark of a tar's end is at `offset`: zeros, and nothing but zeros after them. Python's tarfile also
    stops, without an error, where a header is damaged or cut off."""
    with path.open("rb") as file:
        file.seek(offset)
        end = file.read(1 << 20)
    return len(end) >= tarfile.BLOCKSIZE and not any(end)


@dataclass
class _Sample:
    """Consecutive members that share a name up to its first dot."""

    base: str
    videos: list[tarfile.TarInfo]
    captions: dict[str, tarfile.TarInfo]  # by (name before .txt or .json) + that ending
    others: list[tarfile.TarInfo]
    names: set[str]


def _samples(members: Sequence[tarfile.TarInfo]) -> Iterator[_Sample]:
    sample: _Sample | None = None
    for member in members:
        folder, _, name = member.name.rpartition("/")
        if name.startswith("._"):  # extra files that macOS writes beside a file
            continue
        base = f"{folder}/{name.partition('.')[0]}"
        if sample is None or base != sample.base or member.name in sample.names:
            if sample is not None:
                yield sample
            sample = _Sample(base, [], {}, [], set())
        sample.names.add(member.name)
        if is_video(name):
            sample.videos.append(member)
        elif name.lower().endswith(CAPTION_ENDINGS):
            sample.captions[_lowered(member.name)] = member
        else:
            sample.others.append(member)
    if sample is not None:
        yield sample


def _lowered(name: str) -> str:
    """The name with its ending in lower case."""
    stem, dot, ending = name.rpartition(".")
    return stem + dot + ending.lower()


def _add_clip(
    tar: tarfile.TarFile,
    video: tarfile.TarInfo,
    sample: _Sample,
    loose: dict[str, tarfile.TarInfo],
    length: int,
    captioned: bool,
    index: dict[str, list[Any]],
) -> tarfile.TarInfo | None:
    """Add a clip or a problem to `index`. `loose` are captions of samples without a video. Returns the member that is
    the caption, if there is one."""
    fault, caption, text = _video_fault(video, length), None, ""
    try:
        stems = {_stem(other.name) for other in sample.videos}
        caption = _caption_of(_stem(video.name), stems, sample.captions, loose)
        if caption is None:
            raise ValueError(_lacking(_stem(video.name), sample))
        text = "" if fault else _read_caption(tar, caption)
    except (OSError, ValueError, KeyError, tarfile.TarError, RecursionError) as error:
        if may_pass(error):
            raise
        if captioned:
            fault = fault or f"its caption cannot be read ({one_line(error)})"
    if fault:
        index["problems"].append((video.name, fault))
    else:
        index["clips"].append((video.name, video.offset_data, video.size, text))
    return caption


def _lacking(name: str, sample: _Sample) -> str:
    """Why a video with this name has no caption, with files that may be meant as one."""
    alike = [Path(caption).name for caption in sample.captions if caption.startswith(f"{name}.")]
    if alike:
        return f"it must be called {Path(name).name}.txt or .json; there is {', '.join(alike[:3])}"
    beside = ", ".join(sorted({Path(other.name).suffix or other.name for other in sample.others}))
    return "there is neither .txt nor .json beside it" + (f", only {beside}" if beside else "")


def _unread_members(
    sample: _Sample, loose: dict[str, tarfile.TarInfo], used: set[tarfile.TarInfo | None]
) -> Iterator[str]:
    """Members that look like a video that cannot be read, or have a caption that belongs to no video."""
    stems = {_stem(video.name) for video in sample.videos}
    for other in sample.others:
        stem = _stem(other.name) or other.name
        caption = _caption_of(stem, set(), sample.captions, loose)
        if ends_as_unread(other.name, stem in stems) or (caption is not None and caption not in used):
            yield other.name


def _video_fault(video: tarfile.TarInfo, length: int) -> str:
    if video.issym() or video.islnk():
        return f"it is a link to {video.linkname}; put the file itself into the shard"
    if not video.isreg() or video.issparse():
        return "it is not stored as an ordinary file"
    if Path(video.name).name.startswith("."):
        return "its name begins with a dot; such files are passed over"
    return "the shard ends within it" if video.offset_data + video.size > length else ""


def _caption_of(
    name: str, videos: set[str], captions: dict[str, tarfile.TarInfo], loose: dict[str, tarfile.TarInfo]
) -> tarfile.TarInfo | None:
    """The caption of this name (.txt or .json): beside the video or, in a shard with all videos first, later in the
    shard; else that of the nearest shorter name that is not another video's."""
    while True:
        for found in (captions, loose):
            for ending in CAPTION_ENDINGS:
                if name + ending in found:
                    return found[name + ending]
        folder, slash, short = name.rpartition("/")
        shorter = short.rpartition(".")[0]
        name = folder + slash + shorter
        if not shorter or name in videos:
            return None


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _read_caption(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    """The text of a caption. Raises ValueError if there is none in it."""
    file = tar.extractfile(member)
    data = file.read(MAX_CAPTION_BYTES) if file is not None else b""
    if member.name.lower().endswith(".txt"):
        return as_caption(data)
    fields = json.loads(data)
    caption = fields.get("caption") if isinstance(fields, dict) else None
    if not isinstance(caption, str):
        raise ValueError(
            "there is no text under caption" + renaming("caption", fields if isinstance(fields, dict) else {})
        )
    return as_caption(caption.encode())


def as_caption(data: bytes) -> str:
    """Text without line breaks and double spaces. Raises ValueError if there is none."""
    try:
        text = collapsed(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    if not text:
        raise ValueError("it is empty")
    return text


def collapsed(text: str) -> str:
    """The text with every run of white space replaced by one space."""
    return " ".join(text.split())


def one_line(error: Exception) -> str:
    """An error's text on one line of at most 200 characters."""
    return (getattr(error, "strerror", None) or " ".join(str(error).split()))[:200] or type(error).__name__
