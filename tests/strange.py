"""Strange input for every reader of what users give: made by hypothesis from valid input, spoilt so that it gets far.

A reader takes an input or refuses it with one line (ValueError; on the command line exit code 2), soon, with little
memory, and it writes, moves or removes nothing outside the folder that it works in, nor starts a program.
`examine` says what was otherwise. Paths on the command line stay in that folder, for elsewhere would be the user's
right. Nothing is sampled: a command line is taken when all that is left to do is to load weights.
"""

import argparse
import contextlib
import functools
import gc
import io
import json
import os
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import torch
from hypothesis import strategies as st
from PIL import Image

from artv_core import cli
from artv_core.bench import measure as bench_measure
from artv_core.checkpoint import describe_checkpoint, load_checkpoint, read_part, save_checkpoint
from artv_core.commands import comfyui_server as comfyui
from artv_core.commands import demo, demo_comfyui, generate, play
from artv_core.commands.info import info_lines
from artv_core.config import (
    AdapterConfig,
    AnchorConfig,
    ARTVConfig,
    NetworkConfig,
    TextConfig,
    UNetConfig,
    VAEConfig,
    preset,
)
from artv_core.evaluation import evaluate as evaluation_run
from artv_core.files.tensor_file import open_tensor_file
from artv_core.method.frames import Frame
from artv_core.models.artv import ARTV
from artv_core.models.text import TextEncoder
from artv_core.prepare import run as prepare_run
from artv_core.prompts.grammar import MAX_CHARACTERS, parse_prompt_schedule, parse_prompts
from artv_core.prompts.prompt_file import read_prompt_file
from artv_core.run.journal import open_journal
from artv_core.run.journal_file import JournalReader
from artv_core.run.journal_list import journal_table, list_journals, remove_journal
from artv_core.run.pipeline import load_journal, load_latents, pick_device, save_latents

SECONDS = 5.0
"""Of the processor, so that a busy machine does not count."""
MESSAGE = 1000
"""Characters of a refusal, beside what it repeats of the input."""


@dataclass(frozen=True)
class Target:
    """What is tried: `check` takes an input of `inputs` and a folder that `prepare` filled. What is refused is a
    ValueError from `check`; whatever else it raises is a fault. `echoes`: how much of an input a message may hold."""

    inputs: st.SearchStrategy[Any]
    check: Callable[[Any, Path], object]
    prepare: Callable[[Path], object] = lambda folder: None
    echoes: Callable[[Any], int] = lambda value: 0


# What an input did


def examine(target: Target, value: Any, box: "Sandbox") -> tuple[bool, list[str]]:
    """Whether the input was taken, and what was wrong with that."""
    taken, faults, started = False, [], time.process_time()
    try:
        with box.watched():
            target.check(value, box.work)
        taken = True
    except ValueError as error:
        faults += _message_faults(str(error), MESSAGE + target.echoes(value))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        faults.append(f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {str(error)[:300]}")
    if (seconds := time.process_time() - started) > SECONDS:
        faults.append(f"took {seconds:.1f} seconds")
    return taken, faults + box.tidy()


def _message_faults(message: str, longest: int) -> Iterator[str]:
    if not message:
        yield "refused without a message"
    elif not message.isprintable():
        yield f"refused with what is not one line: {message[:300]!r}"
    elif len(message) > longest:
        yield f"refused with {len(message)} characters: {message[:100]!r}"


class Memory:
    """By how much the process was larger, at its largest, than when this was made. That is the kernel's own figure,
    which Linux lets us set back; elsewhere an earlier peak hides what is smaller."""

    def __init__(self) -> None:
        gc.collect()
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        self._start = self._peak()

    def grown(self) -> float:
        """Megabytes."""
        return self._peak() - self._start

    @staticmethod
    def _peak() -> float:
        # The peak of getrusage also holds that of the program that started this one, which cannot be set back.
        with contextlib.suppress(OSError), open("/proc/self/status") as file:
            return int(re.search(r"VmHWM:\s*(\d+)", file.read())[1]) * 1024 / 1e6
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


class Sandbox:
    """Context manager: a folder to work in (`work`, the working folder meanwhile) inside another one, which also holds
    a home and a file that are not to be touched. What an input leaves in `work` is removed by `tidy`."""

    def __init__(self, prepare: Callable[[Path], object]) -> None:
        self._prepare = prepare
        self._writes: list[str] = []

    def __enter__(self) -> "Sandbox":
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="artv-fuzz-"))
            self._root = root = Path(temporary).resolve()
            self.work = root / "work"
            for folder in (self.work, root / "home", root / "temporary"):
                folder.mkdir()
            (root / "outside.artvj").write_text("not to be touched")
            self._prepare(self.work)
            surroundings = {"HOME": str(root / "home"), "TMPDIR": str(root / "temporary"), "COMFYUI_PATH": ""}
            stack.enter_context(patch.dict(os.environ, surroundings))
            stack.enter_context(patch.object(tempfile, "tempdir", None))
            stack.enter_context(patch.object(sys, "dont_write_bytecode", True))
            stack.enter_context(contextlib.chdir(self.work))
            self._before = self._tree()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Note what Python does to files elsewhere while in the block."""
        _watch_for_writes()
        _noted.append(self)
        try:
            yield
        finally:
            _noted.remove(self)

    def note(self, event: str, paths: Sequence[str]) -> None:
        """Called of everything that changes files or starts programs."""
        allowed = (f"{self.work}/", "/dev/")
        if not paths or not all(f"{os.path.abspath(path)}/".startswith(allowed) for path in paths):
            self._writes.append(f"{event} {', '.join(map(repr, paths))}")

    def tidy(self) -> list[str]:
        """Put the folder in order; returns what was written elsewhere, and what was not finished or was spoilt."""
        faults, self._writes = [f"outside its folder: {write}" for write in self._writes], []
        after = self._tree()
        for path in sorted(after.keys() - self._before.keys(), reverse=True):
            if not path.is_relative_to(self.work):
                faults.append(f"outside its folder: wrote {path}")
            if path.suffix == ".partial":
                faults.append(f"left {path.name}")
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return faults + [f"changed or removed {p.name}" for p, state in self._before.items() if after.get(p) != state]

    def _tree(self) -> dict[Path, object]:
        states: dict[Path, object] = {}
        for folder, folders, files in os.walk(self._root):
            states |= dict.fromkeys((Path(folder, name) for name in folders), None)
            for name in files:
                status = os.stat(Path(folder, name), follow_symlinks=False)
                states[Path(folder, name)] = (status.st_size, status.st_mtime_ns)
        return states


_CHANGES = {
    **dict.fromkeys(("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.utime", "os.chown"), 1),
    **dict.fromkeys(("os.rename", "os.link", "os.symlink"), 2),
    **dict.fromkeys(("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect"), 0),
}
"""Audit events, and how many of their first arguments are paths; none: it is never right."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_noted: list[Sandbox] = []


@functools.cache
def _watch_for_writes() -> None:
    sys.addaudithook(_hear)  # stays for as long as the process lives; it does nothing while nobody listens


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if not _noted:
        return
    if event == "open":
        path, _, flags = arguments
        if not isinstance(path, int) and flags & _WRITING:
            _noted[-1].note(event, [os.fsdecode(path)])
    elif event in _CHANGES:
        paths = [os.fsdecode(path) for path in arguments[: _CHANGES[event]] if not isinstance(path, int)]
        _noted[-1].note(event, paths)


# Prompts

any_of = st.sampled_from


def _words(text: str) -> list[str]:
    return text.split(" ")


PIECES = [
    *"0123456789\"'\\:=,[](){}#-+.s\n\r\t \u2028\u201c\u2013\x00\x1b\ud800a\u0663\U0001f98a",
    *('"0": "a fox"', "[0-24: ", "[24-: a]", '{"0": "a"}', ", 7: ", ", '9' = ", "a fox", "# fox\n", "\r\n"),
    *_words('24 3s 1.5s 0: --neg \\u12 \\ud83e\\udd8a \\"'),
    *("9" * 30, "1." + "0" * 60, "0" * 500 + "s", ", " + "9" * 2000 + ": "),
]


@st.composite
def spoilt(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """Some text taken out, doubled, or put in."""
    text = draw(texts)
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(any_of((1, 3, 20))))
        put = draw(any_of(PIECES) | any_of(("", text[start:end] * 2, text[end:start:-1])))
        text = text[:start] + put + text[end:]
    return text


@st.composite
def written(draw: st.DrawFn) -> str:
    """Prompts in one of the styles, or in several."""
    style, start, parts = draw(st.integers(0, 5)), 0, []
    for _ in range(draw(st.integers(1, 7))):
        end = start + draw(st.integers(1, 40))
        words = " ".join(draw(any_of(("a", "red", "(sly:1.2)", "\\(x\\)", "狐", "--", "it's"))) for _ in range(3))
        quoted = json.dumps(words, ensure_ascii=draw(st.booleans()))
        forms = (words, f"{start}: {words}", f'"{start}": {quoted},', f"[{start}-{end}: {words}]",
                 f"[{start / 8}s-{end / 8}s: {quoted}]", f"{start / 8}s = {quoted}")  # fmt: skip
        parts.append(forms[draw(any_of((style,) * 9 + tuple(range(6))))])
        start = end
    text = draw(any_of(("\n", " ", "\r\n"))).join(parts)
    return f"{{{text}}}" if draw(any_of((False,) * 9 + (True,))) else text


TEXT = spoilt(written()) | st.lists(any_of(PIECES), min_size=1, max_size=40).map("".join)
LONGEST = st.builds(
    lambda start, piece: start + piece * (MAX_CHARACTERS // len(piece)),
    any_of(("", "0: ", '0: "', "[0-1: ", '{"0": ', '"')),
    any_of(PIECES),
)
SETTINGS = st.fixed_dictionaries(
    {
        "segment_frames": any_of((1, 8, 16, 1_000_000, 10**30)),
        "fps": any_of((None, 8.0, 23.976, 0.01, 1e-320, 1e308, 1000)),
        "num_frames": any_of((0, 0, 1, 100, 10**12)),
    }
)


def check_schedule(value: tuple[str, dict[str, Any]], folder: Path) -> None:
    """What is read and written down is read as it was."""
    text, settings = value
    schedule = parse_prompt_schedule(text, **settings)
    if parse_prompt_schedule(schedule.canonical(), segment_frames=1) != schedule:
        raise AssertionError("the canonical text is read as another schedule")


@st.composite
def prompt_files(draw: st.DrawFn) -> bytes:
    """Such text in bytes of several kinds, or any bytes."""
    if draw(any_of((False,) * 9 + (True,))):
        return draw(st.binary(max_size=200))
    encoding = draw(any_of(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")))
    content = bytearray(draw(TEXT).encode(encoding, "surrogatepass" if "utf" in encoding else "replace"))
    for _ in range(draw(any_of((0, 0, 1, 3))) if content else 0):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content)


def check_prompt_file(content: bytes, folder: Path) -> None:
    """From a file, as the command line does."""
    path = folder / "prompts.txt"
    path.write_bytes(content)
    if read_prompt_file(path, 16, 8.0) != parse_prompts(content.decode("utf-8-sig"), 16, fps=8.0):
        raise AssertionError("the file is read as other prompts than its text")


# Tensor files

_UNET = UNetConfig(
    model_channels=8, channel_mult=(1,), num_res_blocks=1, attention_levels=(), head_channels=8, context_dim=8,
    norm_groups=8,
)  # fmt: skip
_NETWORK = NetworkConfig(_UNET, AdapterConfig(num_blocks=1), AnchorConfig(patch_size=1, grid=1, width=8))
SMALL = ARTVConfig(
    name="small",
    noise=_NETWORK,
    vae=VAEConfig(kind="taesd", scale=1.0),
    text=TextConfig(width=8, layers=1, heads=1, context_length=4, layer="last"),
    size=(64, 64),
    vocabulary=("a", "fox"),
)
"""The smallest model; its file has noise network and branches alone."""

_LAYERS = ("Conv2d", "Linear", "GroupNorm", "LayerNorm", "Embedding")
_NO_WEIGHTS = {
    name: type(name, (getattr(torch.nn, name),), {"reset_parameters": lambda self: None}) for name in _LAYERS
}
Plain = type("Plain", (), _NO_WEIGHTS)
"""Layers for which no first weights are drawn, as a host's: a model is built the sooner."""

HOSTILE_JSON = (
    *_words("null true -1 0 1 2 3 7 8 16 64 1000 0.5 -0.0 1e308 1e400 NaN Infinity -Infinity 01 [ { ] , [] {} [[]]"),
    *_words('[0] [0,0] [1,1,1] [1,2,4,4] [1,1,1,1,1,1,1,1] [0,1,2,3] [-1] [1.0] ["1"] {"a":1,"a":2}'),
    *_words('"F16" "F32" "F64" "I64" "U8" "BOOL" "C64" "F4" "F6_E2M3" "F8_E4M3" "" "a" "kl" "\\n\\u001b[31m"'),
    *(str(2**power + off) for power in (31, 32, 62, 63, 64) for off in (-1, 0)),
    *(f"[{2**62}, 0]", f"[{2**63}, 0]", f"[0, {2**64 - 1}]", f"[{2**32}, {2**32}]"),
    *("9" * 400, "9" * 5000, "[" * 100_000, '{"a":' * 100_000, '"\\ud800"', f'"{"x" * 5000}"'),
    *("[" * depth + "]" * depth for depth in (100, 940, 985)),
    *("[0" + ",0" * 3000 + "]", "[1" + ",1" * 20 + "]"),
)
HOSTILE_KEYS = (
    *_words("latents a 狐 __metadata__ null_context vae_scale vae_shift betas lora_unet model_ema.decay"),
    *_words("model.diffusion_model.x first_stage_model.x taesd_encoder.0.weight cond_stage_model.transformer.x"),
    *("", "a\nb\x1b", "x" * 5000),
)
HOSTILE_METADATA = (*_words("artv_config artv_parts artv_base artv_latents seed made_with format"), "a\n\x1b[31m")
HOSTILE_TEXTS = (
    *_words('unet unet,branches,vae mask,text kitchen 0 -1 1e5 \u0663 {} [] {"steps":[[]]} 999999999999999999999'),
    *("", "unet," * 3000, "\n\x1b[31m\u202e", "a " * 3000, "{" * 100_000, "x" * 200_000),
)
STARTS = (b"", b"PK\x03\x04", b"\x80\x02", b"GGUF", b"version https://git-lfs", b"<html>", b" ", b"{", b"\0")
LENGTHS = (0, 1, 7, 8, 2**20, 4 * 2**20 + 1, 10**8, 2**31, 2**32, 2**62, 2**63, 2**64 - 1)


@functools.cache
def whole_checkpoint(*parts: str) -> bytes:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.safetensors"
        base = "small.safetensors" if parts else None
        save_checkpoint(ARTV(SMALL, text=False, vae=False), path, parts=parts or None, base=base)
        return path.read_bytes()


@functools.cache
def whole_latents() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "latents.safetensors"
        save_latents(path, [torch.zeros(1, 4, 8, 8)] * 3, 7, json.dumps({"steps": 4, "sampler": "euler"}))
        return path.read_bytes()


class Marks:
    """Stand-ins for what `json.dumps` could not write: any JSON, valid or not, in any place."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._texts: dict[str, str] = {}

    def hostile(self) -> str:
        mark = f"<mark {len(self._texts)}>"
        self._texts[json.dumps(mark)] = self._draw(any_of(HOSTILE_JSON))
        return mark

    def filled(self, value: Any) -> str:
        text = json.dumps(value)
        for mark, replacement in self._texts.items():
            text = text.replace(mark, replacement)
        return text


@st.composite
def spoilt_files(draw: st.DrawFn, whole: Callable[[], bytes]) -> bytes:
    """A tensor file whose configuration, header or bytes are spoilt."""
    if draw(any_of((False,) * 19 + (True,))):
        return draw(any_of(STARTS)) + draw(st.binary(max_size=300))
    length = struct.unpack("<Q", whole()[:8])[0]
    header, body, marks = json.loads(whole()[8 : 8 + length]), whole()[8 + length :], Marks(draw)
    for _ in range(draw(any_of((0, 1, 1, 1, 2, 3)))):
        draw(any_of((_spoil_config, _spoil_config, _spoil_tensor, _spoil_tensor, _spoil_metadata)))(draw, header, marks)
    text = bytearray(marks.filled(header).encode("utf-8", "surrogatepass"))
    for _ in range(draw(any_of((0, 0, 0, 0, 1, 3)))):
        text[draw(st.integers(0, len(text) - 1))] = draw(st.integers(0, 255) | any_of(b'0123456789"\\{}[],:'))
    claimed = draw(any_of((len(text),) * 40 + (*LENGTHS, len(text) + 1, len(text) - 1)))
    content = struct.pack("<Q", claimed) + text + body
    return content[: draw(any_of((len(content),) * 9 + (draw(st.integers(0, len(content))),)))]


def _spoil_config(draw: st.DrawFn, header: dict[str, Any], marks: Marks) -> None:
    """One or two fields of the configuration, or all its text. Of numbers often a near one, which may well fit."""
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict):
        return
    config, inner = asdict(SMALL), Marks(draw)
    for _ in range(draw(any_of((1, 1, 2)))):
        part, name = _place(draw, config)
        near = isinstance(part[name], int) and draw(st.booleans())
        part[name] = part[name] * draw(any_of((0, 1, 2, 8, -1))) + draw(any_of((0, 1, -1))) if near else inner.hostile()
    if draw(any_of((False,) * 9 + (True,))):
        config[draw(any_of(HOSTILE_KEYS))] = 1
    text = inner.filled(config)
    metadata["artv_config"] = draw(any_of((text,) * 9 + (draw(any_of(HOSTILE_JSON)),)))


def _place(draw: st.DrawFn, part: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """An object in `part`, or `part` itself, and the name of something in it."""
    name = draw(any_of(list(part)))
    return _place(draw, part[name]) if isinstance(part[name], dict) and part[name] else (part, name)


def _spoil_tensor(draw: st.DrawFn, header: dict[str, Any], marks: Marks) -> None:
    """A field of a tensor, its name, or the whole of it."""
    key = draw(any_of([key for key in header if key != "__metadata__"] or ["a"]))
    tensor, way = header.get(key), draw(st.integers(0, 5))
    if not isinstance(tensor, dict) or way == 0:
        header[key] = marks.hostile()
    elif way == 1:
        header[draw(any_of(HOSTILE_KEYS))] = header.pop(key)
    elif way == 2:
        kind = draw(any_of(("F32", "F16", "F6_E2M3", "F4")))
        header[draw(any_of(HOSTILE_KEYS))] = {"dtype": kind, "shape": marks.hostile(), "data_offsets": [0, 0]}
    elif way == 3:
        del header[key]
    else:
        tensor[draw(any_of(("dtype", "shape", "data_offsets", "more")))] = marks.hostile()


def _spoil_metadata(draw: st.DrawFn, header: dict[str, Any], marks: Marks) -> None:
    """An entry, or all of them."""
    metadata, way = header.get("__metadata__"), draw(st.integers(0, 9))
    if not isinstance(metadata, dict) or way == 0:
        header["__metadata__"] = marks.hostile()
    elif way < 3 and metadata:
        del metadata[draw(any_of(list(metadata)))]
    else:
        strange = marks.hostile() if way < 6 else draw(any_of(HOSTILE_TEXTS))
        metadata[draw(any_of(HOSTILE_METADATA))] = strange


def _print_info(path: Path) -> None:
    for line in info_lines(describe_checkpoint(path)):
        if not line.isprintable():
            raise AssertionError(f"a line of `artv info` is {line[:300]!r}")


def _read_some(path: Path) -> None:
    file = open_tensor_file(path)
    for _ in file.read(list(file.tensors)[:5]):
        pass


READERS: dict[str, Callable[[Path], object]] = {
    "load": lambda path: load_checkpoint(path, operations=Plain),
    "base": lambda path: load_checkpoint(path.with_name("branches.safetensors"), base=path, operations=Plain),
    "info": _print_info,
    "tensors": _read_some,
    "part": lambda path: read_part(path, "vae", base=path),
}
"""What reads such a file. Each input is for one of them."""


def prepare_checkpoint(folder: Path) -> None:
    TextEncoder(preset("tiny").text)  # the first one imports what is large
    (folder / "small.safetensors").write_bytes(whole_checkpoint())
    (folder / "branches.safetensors").write_bytes(whole_checkpoint("branches"))


def check_checkpoint(value: tuple[str, bytes], folder: Path) -> None:
    path = folder / "spoilt.safetensors"
    path.write_bytes(value[1])
    READERS[value[0]](path)


def check_latents(content: bytes, folder: Path) -> None:
    """What is read can be gone on from."""
    path = folder / "spoilt.safetensors"
    path.write_bytes(content)
    saved = load_latents(path)
    if saved.latents.ndim != 5 or not saved.latents.isfinite().all() or saved.seed < 0:
        raise AssertionError(f"took latents {list(saved.latents.shape)} with seed {saved.seed}")


# Journals

JOURNALED = (1, 2, 2, 2)
"""Shape of a frame's latent."""


class _Run:
    """Stands for what decides the frames of the journal that is spoilt."""

    common = "run"

    def frame(self, index: int) -> bytes:
        return bytes([index % 256])


@functools.cache
def whole_journal() -> bytes:
    """Three frames."""
    with tempfile.TemporaryDirectory() as folder:
        with open_journal(folder, _Run(), JOURNALED, {"scale": 1.0, "seed": 7}) as journal:
            for index in range(3):
                journal.append(Frame(index, torch.full(JOURNALED, float(index)), None))
        return journal.path.read_bytes()


@st.composite
def journals(draw: st.DrawFn) -> bytes:
    """A journal, spoilt; its header mostly with the checksum that it should have."""
    if draw(any_of((False,) * 19 + (True,))):
        return draw(any_of((b"", b"ARTVJRN1", b"PK", bytes(20)))) + draw(st.binary(max_size=300))
    length = struct.unpack("<I", whole_journal()[8:12])[0]
    fields, records = json.loads(whole_journal()[12 : 12 + length]), bytearray(whole_journal()[16 + length :])
    marks = Marks(draw)
    for _ in range(draw(any_of((0, 0, 0, 0, 1, 2)))):
        part, name = _place(draw, fields)
        part[name] = marks.hostile()
    if draw(any_of((False,) * 5 + (True,))):
        fields["shape"] = [draw(any_of((0, 1, 1, 2, 4, -1, 64, 2**20, 2**62, 1.0, True, None))) for _ in range(4)]
    text = marks.filled(fields).encode("utf-8", "surrogatepass")
    text = draw(any_of((text,) * 30 + (b"[" * 60_000, b'{"a":' * 10_000, b'"' + b"x" * 65_000, b"{}x")))
    for _ in range(draw(any_of((0, 0, 1, 3)))):
        records[draw(st.integers(0, len(records) - 1))] = draw(st.integers(0, 255))
    claimed = draw(any_of((len(text),) * 19 + (0, 2**31, 2**32 - 1, len(text) + 1)))
    start = b"ARTVJRN1" + struct.pack("<I", claimed) + text
    checksum = draw(any_of((zlib.crc32(start),) * 19 + (0,)))
    content = start + struct.pack("<I", checksum) + records
    return content[: draw(any_of((len(content), len(content), draw(st.integers(0, len(content))))))]


def check_journal(content: bytes, folder: Path) -> None:
    """What can be read is read; and it is in no run's way."""
    path = folder / "journals" / "spoilt.artvj"
    path.write_bytes(content)
    if len(journal_table(list_journals(path.parent)).splitlines()) > 2:
        raise AssertionError("more than one line of the list")
    with patch.object(os, "fsync"):  # no power is cut here, and the disk would take most of the time
        _run_beside(path)
    load_journal(path)
    remove_journal(path)


def _run_beside(path: Path) -> None:
    """A run takes the frames that are sound, and makes the others."""
    with open_journal(path.parent, _Run(), JOURNALED, {}, num_frames=4) as journal:
        frames = list(journal.frames())
        if [frame.index for frame in frames] != list(range(journal.found)):
            raise AssertionError(f"found {journal.found} frames, read {len(frames)}")
        if any(frame.latent.shape != JOURNALED for frame in frames):
            raise AssertionError("frames of another shape")
        for index in range(journal.found, 4):
            journal.append(Frame(index, torch.full(JOURNALED, float(index)), None))
    with JournalReader(journal.path) as reader:
        if reader.count_sound() != 4:
            raise AssertionError("the frames that were appended are not there")


# The command line

MADE_WITH = (
    *_words('[] 1 "steps" null ["steps"] {"steps":[[]],"sampler":null} {"steps":NaN} { 狐'),
    *("9" * 5000, "[" * 100_000, '{"steps":' + "[" * 940 + "]" * 940 + "}", '{"sampler":"' + "x\\n" * 50_000 + '"}'),
)
"""What saved latents may say that they were made with; it is read before anything is sampled."""

NUMBERS = (
    *_words("1 2 3 8 16 64 0 -1 100 256 257 999 1000 0.5 7.5 1e3 0x10 1_6 \u0663 nan inf -inf 1e999 1e-320 -- -"),
    *(str(2**power + off) for power in (63, 64) for off in (-1, 0)),
    *("", " 5 ", "9" * 30, "9" * 400, "-" + "9" * 400, "9" * 5000),
)
PATHS = (
    *_words("out.mp4 out.mp4 out.mkv b.MOV out.gif out . folder folder/out.mp4 a/b.mp4 new new/folder new.safetensors"),
    *_words("picture.png picture.png latents.safetensors latents.safetensors small.safetensors prompts.txt empty.png"),
    *_words("none.txt link host small.safetensors/x.mp4 -x 狐.mp4 /dev/full /dev/null/x.mp4 spoilt.safetensors"),
    *(f"latents-{number}.safetensors" for number in range(len(MADE_WITH))),
    *("", "x" * 300, "x" * 300 + ".mp4", "a\nb.mp4", "\udcff.mp4"),
)
TEXTS = (
    *(
        "a fox",
        "a red circle",
        "",
        " ",
        "\n",
        "a fox " * 50,
        "狐\u202e\x1b[31m",
        "\udcff",
        "%s %(prog)s {0}",
        "1:9" * 40,
    ),
    *_words("-- -1 * euler ddim cpu auto cuda cuda:9 cpu:x mps meta tiny huge none 0:1 4:5 5: : @prompts.txt"),
    *_words("small.safetensors spoilt.safetensors"),
)
NAMES = ("../outside.artvj", "/etc/hostname", "outside.artvj", "a/../picture.png", "picture.png", "", ".", "..", "*")
"""Of files in a folder that was named: these may not lead out of it."""


class _LeftToSample(Exception):  # noqa: N818 (no error)
    """All that is left to do would load weights or start a program: the input was taken."""


def prepare_arguments(folder: Path) -> None:
    prepare_checkpoint(folder)
    (folder / "latents.safetensors").write_bytes(whole_latents())
    (folder / "spoilt.safetensors").write_bytes(whole_checkpoint()[:-9])
    for number, made_with in enumerate(MADE_WITH):
        save_latents(folder / f"latents-{number}.safetensors", [torch.zeros(1, 4, 8, 8)], 7, made_with)
    Image.new("RGB", (20, 30), "red").save(folder / "picture.png")
    (folder / "empty.png").touch()
    (folder / "prompts.txt").write_text("0: a fox\n24: a hare\n")
    (folder / "link").symlink_to("nowhere")
    (folder / "folder").mkdir()
    (folder / "host/comfy_api").mkdir(parents=True)
    (folder / "host/main.py").touch()
    (folder / "host/requirements.txt").touch()


_parser = functools.cache(cli.build_parser)


@functools.cache
def commands() -> dict[str, list[argparse.Action]]:
    """The commands there are and what each takes, from the parser itself: what is added there is tried here."""
    actions = next(a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {name: parser._actions for name, parser in actions.choices.items()}


@st.composite
def arguments(draw: st.DrawFn) -> list[str]:
    """A command with some of its options, each with values of its kind more often than not."""
    every = [*commands(), "paint", "", "--version", "--help"]
    command = draw(any_of(["generate"] * len(every) + every))
    words, actions = [command], commands().get(command, commands()["generate"])
    if command == "generate" and draw(any_of((True,) * 19 + (False,))):
        words += [draw(any_of(TEXTS[:2])), "-o", draw(any_of(PATHS[:4]))]
        words += draw(any_of([["--checkpoint", "small.safetensors"]] * 19 + [[]]))
    for action in draw(st.lists(any_of(actions), max_size=5)):
        words += _argument(draw, action)
    for word in draw(any_of(([],) * 9 + (draw(st.lists(any_of((*TEXTS, *PATHS, *NUMBERS)), max_size=2)),))):
        words.insert(draw(st.integers(0, len(words))), word)
    return [word.replace("\0", "") for word in words]  # no operating system passes that on


def _argument(draw: st.DrawFn, action: argparse.Action) -> list[str]:
    kinds: dict[Any, Sequence[Any]] = {int: NUMBERS, float: NUMBERS, Path: PATHS}
    pool = list(action.choices) if action.choices else kinds.get(action.type, TEXTS)
    if action.dest == "remove":
        return [action.option_strings[0], draw(any_of(NAMES)), draw(any_of(NAMES))]
    if action.dest in ("checkpoint", "base"):
        pool = (*PATHS, *TEXTS)
    pool = draw(any_of([pool] * 19 + [(*TEXTS, *PATHS, *NUMBERS)]))
    values = [] if action.nargs == 0 else [str(draw(any_of(pool)))]
    if not action.option_strings:
        return values
    name = draw(any_of(action.option_strings))
    return [f"{name}={values[0]}"] if values and draw(any_of((False, False, True))) else [name, *values]


def check_arguments(words: list[str], folder: Path) -> None:
    """As a user does, up to where weights would be loaded, clips looked at, frames timed, or ComfyUI started."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(cli, "build_parser", _parser))
        for command in (demo, generate, play):
            stack.enter_context(patch.object(command, "load_pipeline", _checked_device))
        for place, name in ((demo_comfyui, "run_workflows"), (prepare_run, "prepare"), (bench_measure, "measured"),
                            (evaluation_run, "evaluate_videos")):  # fmt: skip
            stack.enter_context(patch.object(place, name, _left_to_sample))
        stack.enter_context(patch.object(comfyui.Host, "missing", lambda host: []))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            code = cli.main(words)
        except _LeftToSample:
            code = None
    lines = err.getvalue().split("\n")[:-1]
    other = [line for line in lines if not line.startswith("artv: ")]
    if other or code not in (None, 0, cli.USER_ERROR):
        raise AssertionError(f"exit code {code}, {other[:2]}")
    if code == cli.USER_ERROR:
        if not lines or out.getvalue():
            raise AssertionError(f"exit code {code}, said {lines[:2]}, printed {out.getvalue()[:100]!r}")
        raise ValueError("".join(letter if letter.isprintable() else "?" for letter in lines[-1]))


def _checked_device(args: argparse.Namespace, *_: Any) -> NoReturn:
    pick_device(args.device)
    raise _LeftToSample


def _left_to_sample(*_: Any) -> NoReturn:
    raise _LeftToSample


# What there is to try. Another reader of files or text gets a line here: what makes inputs, and what checks one.
TARGETS = {
    "schedule": Target(st.tuples(TEXT, SETTINGS), check_schedule),
    "longest schedule": Target(st.tuples(LONGEST, SETTINGS), check_schedule),
    "prompt file": Target(prompt_files(), check_prompt_file),
    "checkpoint": Target(st.tuples(any_of(list(READERS)), spoilt_files(whole_checkpoint)), check_checkpoint,
                         prepare_checkpoint),
    "latents": Target(spoilt_files(whole_latents), check_latents),
    "journal": Target(journals(), check_journal, lambda folder: (folder / "journals").mkdir()),
    "arguments": Target(arguments(), check_arguments, prepare_arguments, lambda words: sum(map(len, words))),
}  # fmt: skip
