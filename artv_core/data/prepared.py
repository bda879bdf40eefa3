"""Clips that `artv prepare` has prepared: latents and text embeddings in WebDataset shards, with an index.

A prepared folder contains `dataset.json` (the settings it was made with), `index.npz` (columns with a row for each
clip) and `shards/*.tar`. A clip is three members of a shard: KEY.npy (latents [T, C, h, w], float16), KEY.context.npy
(the caption's embedding [L, D], float16) and KEY.json (caption, source, seconds, scores). The format is not in the
paper.
"""

import hashlib
import json
import os
import tarfile
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from ..files.partial_file import replacing
from .clips import BrokenClip, ClipIndex

FORMAT, VERSION = "artv-prepared", 1
MANIFEST, INDEX, SHARDS = "dataset.json", "index.npz", "shards"
HALF = np.dtype("<f2")

_COLUMNS = {"frames": np.int32, "latents": np.int64, "context": np.int64, "json": np.int64, "json_size": np.int32}
_NEEDED = ("version", "clips", "fps", "buckets", "model", "vae", "text", "shards")
_OPEN_SHARDS = 32


def fingerprint(module: nn.Module) -> str:
    """SHA-256 of a module's weights as float16, over names, shapes and bytes in the order of the names.

    Weights read from a float16 file and from a float32 file have the same fingerprint; a bfloat16 copy has another.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        half = tensor.detach().to("cpu", torch.float16).contiguous()
        digest.update(f"{name} {list(half.shape)}\n".encode())
        digest.update(half.numpy().astype(HALF, copy=False).tobytes())
    return digest.hexdigest()


# Writing


@dataclass(frozen=True)
class ReadyClip:
    """The content of a shard for one clip: `latents` [T, C, h, w] and `context` [L, D], both float16, and facts for
    JSON, which must include "name" and "caption"."""

    latents: np.ndarray
    context: np.ndarray
    facts: Mapping[str, Any]


@dataclass
class ShardRecord:
    """A finished shard: the name of its file, the bucket of its clips, how they were made (`key`), and where in the
    file each one is.

    `rows` has a list for each column: number of frames, byte offsets of the latents and of the embedding, and offset
    and size of the JSON. `left_out` lists (name, reason) of clips that could not be read; `passing`: one of them
    because the drive or the system failed.
    """

    file: str
    bucket: int
    key: str
    size: int = 0
    sha256: str = ""
    names: list[str] = field(default_factory=list)
    rows: dict[str, list[int]] = field(default_factory=lambda: {column: [] for column in _COLUMNS})
    left_out: list[tuple[str, str]] = field(default_factory=list)
    passing: bool = False


def write_shard(path: Path, record: ShardRecord, clips: Iterable[ReadyClip]) -> None:
    """Write `clips` to a tar at `path`, and then its record to a `.json` beside it. Each file is written completely or
    not at all.

    The same clips give the same bytes. Raises ValueError if a file cannot be written.
    """
    with replacing(path) as partial:
        _write_tar(partial, path.stem, clips, record)
        _read_back(partial, record)
    with replacing(path.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(vars(record)), encoding="utf-8")


def read_record(path: Path, key: str | None = None) -> ShardRecord | None:
    """The record that `write_shard` wrote beside the tar at `path`. None if there is no such shard, if its size has
    changed, or if it was made with another `key`."""
    try:
        record = ShardRecord(**json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
        whole = path.stat().st_size == record.size
    except (OSError, ValueError, TypeError):
        return None
    return record if whole and key in (None, record.key) else None


def write_dataset(
    folder: Path, manifest: Mapping[str, Any], records: Sequence[ShardRecord], null_context: np.ndarray
) -> None:
    """Write `index.npz` and then `dataset.json`, which marks the folder as finished."""
    columns: dict[str, Any] = {**_columns(records), "null_context": null_context}
    with replacing(folder / INDEX) as partial, partial.open("wb") as file:
        np.savez(file, **columns)
    shards = [
        {"file": record.file, "clips": len(record.names), "bytes": record.size, "sha256": record.sha256}
        for record in records
    ]
    with replacing(folder / MANIFEST) as partial:
        text = json.dumps({"format": FORMAT, "version": VERSION, **manifest, "shards": shards}, indent=1)
        partial.write_text(text + "\n", encoding="utf-8")


def _write_tar(path: Path, stem: str, clips: Iterable[ReadyClip], record: ShardRecord) -> None:
    from webdataset import TarWriter

    with path.open("wb") as file, TarWriter(file, user="artv", group="artv", mtime=0) as tar:
        for number, clip in enumerate(clips):
            facts = json.dumps(clip.facts).encode()
            arrays = {"npy": clip.latents.astype(HALF), "context.npy": clip.context.astype(HALF)}
            tar.write({"__key__": f"{stem}-{number:05d}", "json": facts, **arrays})
            record.names.append(clip.facts["name"])
            record.rows["frames"].append(len(clip.latents))


def _read_back(path: Path, record: ShardRecord) -> None:
    """Note the offsets, read from the finished file."""
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            if member.name.endswith(".json"):
                record.rows["json"].append(member.offset_data)
                record.rows["json_size"].append(member.size)
                continue
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            column = "context" if member.name.endswith(".context.npy") else "latents"
            record.rows[column].append(member.offset_data + file.tell())
    with path.open("rb") as file:
        record.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    record.size = path.stat().st_size


def _columns(records: Sequence[ShardRecord]) -> dict[str, np.ndarray]:
    counts = [len(record.names) for record in records]
    columns = {
        name: np.concatenate([np.asarray(record.rows[name], kind) for record in records] or [np.empty(0, kind)])
        for name, kind in _COLUMNS.items()
    }
    columns["shard"] = np.repeat(np.arange(len(records), dtype=np.int32), counts)
    columns["bucket"] = np.repeat(np.asarray([record.bucket for record in records], np.int16), counts)
    names = [name.encode(errors="surrogateescape") for record in records for name in record.names]
    columns["names"] = np.frombuffer(b"".join(names), np.uint8)
    columns["name_ends"] = np.cumsum([len(name) for name in names], dtype=np.int64)
    return columns


# Reading


def open_prepared(path: str | Path, *, vae: str | None = None, text: str | None = None) -> "PreparedClips":
    """The clips of a prepared folder. `vae` and `text` are fingerprints of the model that will be trained on them.

    Raises ValueError if there is no finished dataset, if it has another format or is damaged, or if it was made with
    another VAE or text encoder.
    """
    folder = Path(path).parent if Path(path).name == MANIFEST else Path(path)
    manifest = _read_manifest(folder)
    for kind, wanted in (("vae", vae), ("text", text)):
        made_with = manifest[kind]["fingerprint"]
        if wanted is not None and wanted != made_with:
            whose = {"vae": "VAE", "text": "text encoder"}[kind]
            raise ValueError(
                f"{folder} was prepared with another {whose} ({made_with[:12]}, from {manifest['model']}) than this "
                f"model's ({wanted[:12]}): prepare the clips again with this model, or train the other model"
            )
    columns = _read_index(folder)
    if len(columns["frames"]) != manifest["clips"]:
        raise ValueError(f"{folder}: {INDEX} and {MANIFEST} do not fit together; run the same artv prepare again")
    return PreparedClips(folder, manifest, columns)


def is_prepared(path: str | Path) -> bool:
    """Whether this folder was made by `artv prepare`, finished or not."""
    folder = Path(path).parent if Path(path).name == MANIFEST else Path(path)
    return (folder / MANIFEST).is_file() or ((folder / SHARDS).is_dir() and (folder / "work").is_dir())


class PreparedClips:
    """A `ClipSource` of latents. It reads only the requested frames of a clip, by their place in the shard. Few shards
    are open at a time, and every process opens its own."""

    holds_latents = True

    def __init__(self, folder: Path, manifest: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> None:
        self.folder, self.manifest, self._columns = folder, manifest, columns
        self.fps = float(manifest["fps"])
        self.null_context = torch.from_numpy(columns["null_context"].astype(np.float32))
        """The empty caption's embedding [L, D], float32."""
        self.index = ClipIndex(
            num_frames=columns["frames"],
            bucket=columns["bucket"],
            group=columns["shard"],
            buckets=tuple((height, width) for height, width in manifest["buckets"]),
        )
        self._shards = [(folder / SHARDS / shard["file"], int(shard["bytes"])) for shard in manifest["shards"]]
        self._open = _OpenFiles()

    def __reduce__(self) -> tuple[Any, ...]:
        return open_prepared, (self.folder,)

    def name(self, clip: int) -> str:
        """The name of the clip's source: path, member, seconds."""
        ends, names = self._columns["name_ends"], self._columns["names"]
        return names[ends[clip - 1] if clip else 0 : ends[clip]].tobytes().decode(errors="surrogateescape")

    def caption(self, clip: int) -> str:
        """Its caption. Raises BrokenClip."""
        return str(self.facts(clip)["caption"])

    def facts(self, clip: int) -> dict[str, Any]:
        """Everything that was noted about the clip: caption, name, seconds, motion and CLIP score. Raises
        BrokenClip."""
        data = self._read(clip, int(self._columns["json"][clip]), int(self._columns["json_size"][clip]))
        try:
            return dict(json.loads(data))
        except ValueError:
            raise self._broken(clip, "is damaged") from None

    def frames(self, clip: int, positions: Sequence[int]) -> Tensor:
        """Latents at `positions`, [n, C, h, w] float32 in the core's scale. Raises BrokenClip."""
        count = int(self.index.num_frames[clip])
        if any(not 0 <= position < count for position in positions):
            raise ValueError(f"{self.name(clip)} has frames 0 to {count - 1}, asked for {list(positions)}")
        height, width = self.index.buckets[self.index.bucket[clip]]
        factor = int(self.manifest["vae"]["factor"])
        shape = (int(self.manifest["vae"]["channels"]), height // factor, width // factor)
        size, start = int(np.prod(shape)) * HALF.itemsize, int(self._columns["latents"][clip])
        return torch.stack([self._numbers(clip, start + position * size, shape) for position in positions])

    def context(self, clip: int) -> Tensor:
        """The caption's embedding [L, D], float32. Raises BrokenClip."""
        return self._numbers(clip, int(self._columns["context"][clip]), tuple(self.null_context.shape))

    def _numbers(self, clip: int, offset: int, shape: tuple[int, ...]) -> Tensor:
        data = self._read(clip, offset, int(np.prod(shape)) * HALF.itemsize)
        numbers = torch.from_numpy(np.frombuffer(data, HALF).astype(np.float32)).reshape(shape)
        if not torch.isfinite(numbers).all():
            raise self._broken(clip, "contains numbers that are infinite or not a number")
        return numbers

    def _read(self, clip: int, offset: int, size: int) -> bytes:
        path, whole = self._shards[self._columns["shard"][clip]]
        try:
            data, length = self._open.read(path, offset, size)
        except OSError as error:
            raise self._broken(clip, f"cannot be read: {(error.strerror or str(error)).lower()}") from None
        if length != whole or len(data) != size:
            raise self._broken(clip, f"has {length} bytes, expected {whole}")
        return data

    def _broken(self, clip: int, fault: str) -> BrokenClip:
        path, _ = self._shards[self._columns["shard"][clip]]
        return BrokenClip(f"{self.name(clip)}: shard {path} {fault}; remove it, and artv prepare makes it again")


class _OpenFiles:
    """Keeps the most recently read files open. A child process opens its own, because it would share their file
    position."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, BinaryIO] = OrderedDict()
        self._process = os.getpid()
        self._lock = threading.Lock()

    def read(self, path: Path, offset: int, size: int) -> tuple[bytes, int]:
        """Up to `size` bytes from `offset`, and the length of the whole file. Raises OSError."""
        if self._process != os.getpid():
            self.__init__()  # type: ignore[misc]
        with self._lock:
            file = self._files.pop(path, None) or path.open("rb", buffering=0)
            self._files[path] = file
            if len(self._files) > _OPEN_SHARDS:
                self._files.popitem(last=False)[1].close()
            file.seek(offset)
            return file.read(size), os.fstat(file.fileno()).st_size


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        unfinished = (
            "it is unfinished: run the same artv prepare again" if is_prepared(folder) else "artv prepare makes it"
        )
        raise ValueError(f"{folder} contains no {MANIFEST}; {unfinished}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read {path}: {str(error).splitlines()[0]}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{path} is another kind of file; expected the {MANIFEST} that artv prepare writes")
    missing = [name for name in _NEEDED if name not in manifest]
    if missing:
        raise ValueError(f"{path} is damaged: it lacks {', '.join(missing)}; run the same artv prepare again")
    if manifest["version"] != VERSION:
        raise ValueError(f"{path} is of version {manifest['version']!r}, this release reads {VERSION}: prepare again")
    return manifest


def _read_index(folder: Path) -> dict[str, np.ndarray]:
    path = folder / INDEX
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {
                name: file[name] for name in (*_COLUMNS, "shard", "bucket", "names", "name_ends", "null_context")
            }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"cannot read {path}: {reason}; run the same artv prepare again") from None
    return columns
