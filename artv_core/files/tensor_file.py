"""Reading untrusted safetensors files, and writing safetensors files whole or not at all.

Nothing is ever unpickled. The header is checked before any tensor is read. Every error that a user can cause has one
line.
"""

import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .partial_file import one_line, reason, replacing

# Limits for a header. SD 2's has 150 KB and 6,000 names; notes of a training tool, or a picture, can take megabytes.
_HEADER_LIMIT = 32 * 2**20
_NAMES_LIMIT = 60_000
_NUMBERS_LIMIT = 2**20
_DIMENSIONS_LIMIT = 16
_SIZE_LIMIT = 2**48
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_READ_AT_ONCE = 256 * 2**20

Reader = Callable[[str], Mapping[str, Tensor]]
"""Reads all tensors of the file at a path, such as a host's own loader. The tensors may lie in a memory map."""


@dataclass(frozen=True)
class TensorInfo:
    """What the header says about a tensor. `dtype` is safetensors' name for it, e.g. "F16"."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file with a valid header. If there is a `reader`, it reads the tensors.

    `stored` maps a name in `tensors` to the name in the file, where the two differ. The shape in `tensors` may differ
    from the one in the file only by ones at the end.
    """

    path: Path
    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]
    reader: Reader | None = None
    stored: Mapping[str, str] = field(default_factory=dict)

    def read(self, keys: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield each key with its tensor. Without a `reader`, the tensor lies in the file's memory map: copy it to keep
        it.

        The map is closed now and then, since its pages would otherwise count as memory of this process until the end.
        Raises ValueError on a data type that torch does not have, and if the `reader` returns something other than the
        header says.
        """
        if self.reader is not None:
            yield from self._read_with(self.reader, keys)
            return
        for batch in self._batches(keys):
            with safe_open(self.path, framework="pt", device="cpu") as file:
                for key in batch:
                    yield key, self._shaped(key, self._tensor(file, key))

    def _read_with(self, reader: Reader, keys: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        tensors = reader(str(self.path))
        for key in keys:
            tensor = tensors.get(self.stored.get(key, key))
            if tensor is None:
                raise ValueError(f"{self.path}: cannot read {one_line(key, 160)}: the file was changed meanwhile")
            yield key, self._shaped(key, tensor)

    def _shaped(self, key: str, tensor: Tensor) -> Tensor:
        shape = self.tensors[key].shape
        if tuple(tensor.shape) == shape:
            return tensor
        if _without_last_ones(tensor.shape) != _without_last_ones(shape):
            raise ValueError(f"{self.path}: cannot read {one_line(key, 160)}: the file was changed meanwhile")
        return tensor.reshape(shape)

    def _tensor(self, file: Any, key: str) -> Tensor:
        try:
            return file.get_tensor(self.stored.get(key, key))
        except (SafetensorError, AttributeError) as error:  # AttributeError: this torch lacks the data type
            raise ValueError(f"{self.path}: cannot read {one_line(key, 160)}: {one_line(str(error))}") from None

    def _batches(self, keys: Iterable[str]) -> Iterator[list[str]]:
        batch: list[str] = []
        size = 0
        for key in keys:
            batch.append(key)
            size += 4 * self.tensors[key].count
            if size > _READ_AT_ONCE:
                yield batch
                batch, size = [], 0
        yield batch


def _without_last_ones(shape: Sequence[int]) -> tuple[int, ...]:
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def open_tensor_file(path: str | Path, reader: Reader | None = None) -> TensorFile:
    """Read the header of a safetensors file, but no tensor. `reader` will read the tensors later.

    Raises ValueError if the file is not a valid safetensors file. The length and content of the header are checked
    against limits before anything is parsed, so that a hostile file costs neither memory nor time.
    """
    path = Path(path)
    _check_node(path)
    _check_start(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (it cannot be iterated)
            tensors = {key: TensorInfo(part.get_dtype(), tuple(part.get_shape())) for key, part in slices.items()}
            metadata = file.metadata() or {}
    except SafetensorError as error:
        if "not fully covered" in str(error):
            raise ValueError(f"{path} is damaged: its length does not match its header; copy it again") from None
        raise ValueError(f"{path} is damaged: {one_line(str(error))}") from None
    except OSError as error:
        raise ValueError(f"cannot read {path}: {reason(error)}") from None
    for key, tensor in tensors.items():
        if len(tensor.shape) > _DIMENSIONS_LIMIT or max(tensor.shape, default=0) > _SIZE_LIMIT:
            raise ValueError(f"{path} is damaged: its header gives an impossible shape for {one_line(key, 160)}")
    return TensorFile(path, metadata, tensors, reader)


def tensors_as_file(name: str, tensors: Mapping[str, Tensor]) -> TensorFile:
    """Tensors in memory as a file called `name`, so that they get the same checks as a file. Reading gives the tensors
    themselves. Types that safetensors does not have keep torch's name."""
    infos = {key: TensorInfo(_DTYPE_NAMES.get(t.dtype, str(t.dtype)), tuple(t.shape)) for key, t in tensors.items()}
    return TensorFile(Path(name), {}, infos, reader=lambda _: tensors)


_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


def broken_link(path: str | Path) -> str | None:
    """A line about a broken link at `path` or above it, or None if there is none."""
    for place in (Path(path), *Path(path).parents):
        if os.path.islink(place) and not os.path.exists(place):
            return f"{place} is a broken link: it points to {os.path.realpath(place)}, and there is no such file"
    return None


def _check_node(path: Path) -> None:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise ValueError(broken_link(path) or f"no such file: {path}; give the path of a safetensors file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {reason(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is {_kind_of_node(path)}, expected a safetensors file")
    if status.st_size == 0:
        raise ValueError(f"{path} is empty, expected a safetensors file")


def _kind_of_node(path: Path) -> str:
    return "a folder" if path.is_dir() else "not an ordinary file"


def _check_start(path: Path) -> None:
    start = _read_bytes(path, 0, 64)
    size = path.stat().st_size
    header = int.from_bytes(start[:8], "little")
    opens_as_json = start[8:9] == b"{"
    if opens_as_json and header <= min(size - 8, _HEADER_LIMIT):
        _check_header(path, _read_bytes(path, 8, header))
        return
    kind = _foreign_kind(start)
    if kind:
        raise ValueError(f"{path} is {kind}, expected a safetensors file")
    if opens_as_json and header <= _HEADER_LIMIT:
        raise ValueError(f"{path} is truncated: its header alone takes {header} bytes, the file has {size}")
    if opens_as_json:
        advice = "it is damaged, or its metadata is too large: save it without that"
        raise ValueError(f"{path}: its header claims {header} bytes, at most {_HEADER_LIMIT} are accepted; {advice}")
    raise ValueError(f"{path} is not a safetensors file")


def _check_header(path: Path, header: bytes) -> None:
    """Raises ValueError if the header has more content than any model's: parsing it could take gigabytes."""
    # Every string begins with a quotation mark that no backslash precedes, so this counts at least half of them.
    names = (header.count(b'"') - header.count(b'\\"')) // 2
    if names > _NAMES_LIMIT:
        raise ValueError(f"{path} is damaged: its header contains {names} names; accepted are up to {_NAMES_LIMIT}")
    numbers = len(header) - sum(match.end() - match.start() for match in _STRING.finditer(header))
    if numbers > _NUMBERS_LIMIT:
        raise ValueError(
            f"{path} is damaged: its header contains {numbers} bytes of numbers; accepted are up to {_NUMBERS_LIMIT}"
        )


def _read_bytes(path: Path, start: int, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(count)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {reason(error)}") from None


def _foreign_kind(start: bytes) -> str | None:
    pickled = "which could run code and is never opened; convert it to safetensors"
    if start.startswith(b"PK"):
        return f"a zip archive (a PyTorch .ckpt or .pt file?), {pickled}"
    if start[:1] == b"\x80" and start[1:2] <= b"\x05":
        return f"a pickle, {pickled}"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file it points to; fetch it with git lfs pull"
    if start.startswith(b"GGUF"):
        return "a GGUF file"
    if start.lstrip()[:1] == b"<":
        return "a web page or XML, perhaps saved in place of a download"
    return None


def write_tensor_file(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file. An existing file at `path` is replaced only when the new one is complete. Raises
    ValueError if the file cannot be written (full disk, missing folder)."""
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(plain, temporary, dict(metadata or {}))
        except SafetensorError as error:
            raise OSError(_said(error)) from None


def _said(error: SafetensorError) -> str:
    text = " ".join(str(error).split()).partition("I/O error: ")
    return (text[2] or text[0]).partition(" at path")[0]
