"""What strange input does to us: `python benchmarks/fuzz.py [TARGET ...] [--inputs 100000]`.

Each target takes as many inputs as there are to be, made from valid ones and spoilt here and there, so that they get
far. For each of them the bars are: it is taken, or it is refused with one line (ValueError; on the command line exit
code 2); within a second; with at most 100 MB more than before the first one; and no file is written, moved or removed
outside the folder that it works in, no process started. Paths on the command line stay in that folder, for elsewhere
would be the user's right, and images are asked for in small sizes, for memory goes by the size that was asked for.
Nothing is sampled: a command line is taken when all that is left to do is to load the weights.

Prints what it found; `benchmarks/faults.py` keeps it. An input is known by its target, the seed and its number.
"""

import argparse
import contextlib
import functools
import gc
import io
import itertools
import json
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NoReturn
from unittest.mock import patch

import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from artv_core import cli
from artv_core.bench import measure as bench_measure
from artv_core.checkpoint import describe_checkpoint, load_checkpoint, read_part, save_checkpoint
from artv_core.checkpoint.info import info_lines
from artv_core.commands import comfyui_server as comfyui
from artv_core.commands import demo_comfyui
from artv_core.config import (
    AdapterConfig,
    AnchorConfig,
    ARTVConfig,
    NetworkConfig,
    TextConfig,
    UNetConfig,
    VAEConfig,
)
from artv_core.evaluation import evaluate as evaluation_run
from artv_core.files.tensor_file import open_tensor_file
from artv_core.method.frames import Frame
from artv_core.models.artv import ARTV
from artv_core.prepare import run as prepare_run
from artv_core.prompts.grammar import MAX_CHARACTERS, parse_prompts, parse_schedule
from artv_core.prompts.prompt_file import MAX_FILE_BYTES, read_prompt_file
from artv_core.run.journal import open_journal
from artv_core.run.journal_file import JournalReader
from artv_core.run.journal_list import journal_table, list_journals, remove_journal
from artv_core.run.pipeline import load_journal, load_latents, pick_device, save_latents

INPUTS = 100_000
SECONDS = 1.0
MEGABYTES = 100.0
MESSAGE = 1000
WARM_UP = 50
KEPT_FAULTS = 20

Make = Callable[[Random], Any]
Check = Callable[[Any, Path], object]


@dataclass(frozen=True)
class Target:
    """What is fuzzed: `make` an input from dice, `check` it in a folder that `prepare` filled. What is refused is a
    ValueError from `check`; whatever else it raises is a fault. `echoes`: how much of an input a message may hold."""

    make: Make
    check: Check
    prepare: Callable[[Path], None] = lambda folder: None
    echoes: Callable[[Any], int] = lambda value: 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"by default all: {', '.join(TARGETS)}")
    parser.add_argument("--inputs", type=int, default=INPUTS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not set(args.targets) <= set(TARGETS):
        parser.error(f"the targets are: {', '.join(TARGETS)}")
    torch.set_num_threads(1)
    found = {name: run_target(name, args.inputs, args.seed) for name in args.targets or TARGETS}
    print(json.dumps(found, indent=1))
    sys.exit(int(any(measured["faults"] for measured in found.values())))


# Running


@dataclass
class Outcome:
    """What became of one input."""

    accepted: bool = False
    refused: bool = False
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


def make_input(name: str, number: int, seed: int = 0) -> Any:
    return TARGETS[name].make(Random(f"{name} {seed} {number}"))


def run_target(name: str, count: int, seed: int = 0, seconds_limit: float = 3600.0) -> dict[str, Any]:
    """Try `count` inputs, or as many as the time allows."""
    target = TARGETS[name]
    done, accepted, refused, slowest, megabytes = 0, 0, 0, 0.0, 0.0
    faults: list[str] = []
    with Sandbox(target.prepare) as box:
        for number in range(WARM_UP):  # libraries are loaded with the first ones
            examine(target, make_input(name, number, seed + 1), box)
        started, memory = time.perf_counter(), Memory()
        while done < count and time.perf_counter() - started < seconds_limit:
            value = make_input(name, done, seed)
            memory.begin()  # making an input takes memory too
            outcome = examine(target, value, box)
            grown = memory.grown()
            if grown > MEGABYTES:
                outcome.faults.append(f"memory grew by {grown:.0f} MB")
                memory = Memory()
            accepted += outcome.accepted
            refused += outcome.refused
            slowest, megabytes = max(slowest, outcome.seconds), max(megabytes, grown)
            faults += [f"input {done}: {fault}" for fault in outcome.faults]
            done += 1
        seconds = time.perf_counter() - started
    return {
        "inputs": done,
        "accepted": accepted,
        "refused": refused,
        "seconds": round(seconds, 1),
        "slowest_seconds": round(slowest, 3),
        "memory_mb": round(megabytes, 1),
        "faults": faults[:KEPT_FAULTS] + ([f"and {len(faults) - KEPT_FAULTS} more"] if faults[KEPT_FAULTS:] else []),
    }


def examine(target: Target, value: Any, box: "Sandbox") -> Outcome:
    """Try one input. What takes too long is tried again, for other programs may have had the processor."""
    outcome = _attempt(target, value, box)
    for _ in range(2):
        if outcome.seconds > SECONDS:
            outcome.seconds = min(outcome.seconds, _attempt(target, value, box).seconds)
    if outcome.seconds > SECONDS:
        outcome.faults.append(f"took {outcome.seconds:.1f} seconds")
    return outcome


def _attempt(target: Target, value: Any, box: "Sandbox") -> Outcome:
    outcome = Outcome()
    started = time.perf_counter()
    try:
        with box.watched():
            target.check(value, box.work)
        outcome.accepted = True
    except ValueError as error:
        outcome.refused = True
        outcome.faults += _message_faults(str(error), MESSAGE + target.echoes(value))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        outcome.faults.append(f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {str(error)[:300]}")
    outcome.seconds = time.perf_counter() - started
    outcome.faults += box.tidy()
    return outcome


def _message_faults(message: str, longest: int) -> Iterator[str]:
    if not message:
        yield "refused without a message"
    elif not message.isprintable():
        yield f"refused with what is not one line: {message[:300]!r}"
    elif len(message) > longest:
        yield f"refused with {len(message)} characters: {message[:100]!r}"


class Memory:
    """By how much the process was larger, at its largest since `begin`, than when this was made. That is the kernel's
    own figure, which Linux lets us begin anew; elsewhere an earlier peak hides what is smaller."""

    def __init__(self) -> None:
        gc.collect()
        self.begin()
        self._start = self._peak()

    def begin(self) -> None:
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")

    def grown(self) -> float:
        """Megabytes."""
        return self._peak() - self._start

    @staticmethod
    def _peak() -> float:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


class Sandbox:
    """Context manager: a folder to work in (`work`, the working folder meanwhile) inside another one, which also holds
    a home and a file that are not to be touched. What an input leaves in `work` is removed by `tidy`."""

    def __init__(self, prepare: Callable[[Path], None]) -> None:
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
        changed = [path.name for path, state in self._before.items() if after.get(path) != state]
        return faults + [f"changed or removed {name}" for name in changed]

    def _tree(self) -> dict[Path, object]:
        states: dict[Path, object] = {}
        folders = [str(self._root)]
        while folders:
            for entry in os.scandir(folders.pop()):
                status = entry.stat(follow_symlinks=False)
                is_folder = entry.is_dir(follow_symlinks=False)
                states[Path(entry.path)] = None if is_folder else (status.st_size, status.st_mtime_ns)
                folders += [entry.path] * is_folder
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
        if isinstance(path, int) or not flags & _WRITING:
            return
        _noted[-1].note(event, [os.fsdecode(path)])
    elif event in _CHANGES:
        paths = [os.fsdecode(path) for path in arguments[: _CHANGES[event]] if not isinstance(path, int)]
        _noted[-1].note(event, paths)


# Dice


def _often(dice: Random, share: float) -> bool:
    return dice.random() < share


def _noise(dice: Random, longest: int) -> bytes:
    return random.Random(dice.randrange(2**32)).randbytes(dice.randrange(longest))


def _spoilt_text(dice: Random, text: str, pieces: Sequence[str]) -> str:
    """Some text taken out, doubled, or put in."""
    for _ in range(dice.randrange(1, 4)):
        start = dice.randrange(len(text) + 1)
        end = min(len(text), start + dice.choice((1, 1, 3, 20)))
        put = dice.choice((dice.choice(pieces), "", text[start:end] * 2, text[end:start:-1]))
        text = text[:start] + put + text[end:]
    return text


def _words(text: str) -> list[str]:
    return text.split(" ")


# Prompt schedules

PIECES = [
    *"0123456789\"'\\:=,[](){}#-+.s\n\r\t \u2028\u201c\u2013\x00\x1b\ud800a\u0663\U0001f98a",
    *('"0": "a fox"', "[0-24: ", "[24-: a]", '{"0": "a"}', ", 7: ", ", '9' = ", "a fox", "# fox\n", "\r\n"),
    *_words('24 3s 1.5s 0: --neg \\u12 \\ud83e\\udd8a \\"'),
    *("9" * 30, "1." + "0" * 60, "0" * 500 + "s", ", " + "9" * 2000 + ": "),
]
SETTINGS = {
    "segment_frames": (1, 8, 16, 1_000_000, 10**30),
    "fps": (None, 8.0, 23.976, 0.01, 1e-320, 1e308, 1000),
    "num_frames": (0, 0, 1, 100, 10**12),
}


def make_schedule(dice: Random) -> tuple[str, dict[str, Any]]:
    """Prompts in one of the styles or in several, often spoilt, now and then as long as can be."""
    settings = {name: dice.choice(values) for name, values in SETTINGS.items()}
    if _often(dice, 0.0005):
        piece = dice.choice(PIECES)
        start = dice.choice(("", "0: ", '0: "', "[0-1: ", '{"0": ', '"'))
        return start + piece * (MAX_CHARACTERS // len(piece)), settings
    if _often(dice, 0.3):
        return "".join(dice.choices(PIECES, k=dice.randrange(1, 40))), settings
    text = _schedule_text(dice)
    return (_spoilt_text(dice, text, PIECES) if _often(dice, 0.7) else text), settings


def _schedule_text(dice: Random) -> str:
    lengths = [dice.randrange(1, 40) for _ in range(dice.randrange(1, 8))]
    starts = [sum(lengths[:index]) for index in range(len(lengths) + 1)]
    style = dice.randrange(6)
    written = []
    for start, end in itertools.pairwise(starts):
        words = " ".join(dice.choices(("a", "red", "fox", "(sly:1.2)", "\\(x\\)", "狐", "--", "it's"), k=3))
        quoted = json.dumps(words, ensure_ascii=_often(dice, 0.5))
        kind = dice.randrange(6) if _often(dice, 0.1) else style
        forms = (words, f"{start}: {words}", f'"{start}": {quoted},', f"[{start}-{end}: {words}]",
                 f"[{start / 8}s-{end / 8}s: {quoted}]", f"{start / 8}s = {quoted}")  # fmt: skip
        written.append(forms[kind])
    text = dice.choice(("\n", "\n", " ", "\r\n")).join(written)
    return f"{{{text}}}" if _often(dice, 0.1) else text


def check_schedule(value: tuple[str, dict[str, Any]], folder: Path) -> None:
    """What is read and written down is read as it was."""
    text, settings = value
    schedule = parse_schedule(text, **settings)
    if parse_schedule(schedule.canonical(), segment_frames=1) != schedule:
        raise AssertionError("the canonical text is read as another schedule")


def make_prompt_file(dice: Random) -> bytes:
    """Such text in bytes of several kinds."""
    if _often(dice, 0.001):
        return b"a\n" * (MAX_FILE_BYTES // 2 + dice.randrange(2))
    if _often(dice, 0.1):
        return _noise(dice, 200)
    text, _ = make_schedule(dice)
    encoding = dice.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"))
    content = bytearray(text.encode(encoding, "surrogatepass" if "utf" in encoding else "replace"))
    for _ in range(dice.choice((0, 0, 1, 3)) if content else 0):
        content[dice.randrange(len(content))] = dice.randrange(256)
    return bytes(content)


def check_prompt_file(content: bytes, folder: Path) -> None:
    """From a file, as the command line does."""
    path = folder / "prompts.txt"
    path.write_bytes(content)
    read = read_prompt_file(path, 16, 8.0)
    if read != parse_prompts(content.decode("utf-8-sig"), 16, fps=8.0):
        raise AssertionError("the file is read as other prompts than its text")


# Tensor files

_UNET = UNetConfig(
    model_channels=8,
    channel_mult=(1,),
    num_res_blocks=1,
    attention_levels=(),
    head_channels=8,
    context_dim=8,
    norm_groups=8,
)
_NETWORK = NetworkConfig(_UNET, AdapterConfig(num_blocks=1), AnchorConfig(patch_size=1, grid=1, width=8))
SMALL = ARTVConfig(
    name="small",
    noise=_NETWORK,
    vae=VAEConfig(kind="taesd", scale=1.0),
    text=TextConfig(width=8, layers=1, heads=1, context_length=4, layer="last"),
    size=(64, 64),
    vocabulary=("a", "fox"),
)
"""The smallest model; its file, which has noise network and branches alone, is spoilt in every way."""


class _Plain:
    """Layers for which no first weights are drawn, as a host's: a model is built the sooner."""

    Conv2d = type("Conv2d", (torch.nn.Conv2d,), {"reset_parameters": lambda layer: None})
    Linear = type("Linear", (torch.nn.Linear,), {"reset_parameters": lambda layer: None})
    GroupNorm = type("GroupNorm", (torch.nn.GroupNorm,), {"reset_parameters": lambda layer: None})
    LayerNorm = type("LayerNorm", (torch.nn.LayerNorm,), {"reset_parameters": lambda layer: None})
    Embedding = type("Embedding", (torch.nn.Embedding,), {"reset_parameters": lambda layer: None})


HOSTILE_JSON = (
    *_words("null true -1 0 1 2 3 7 8 16 64 1000 0.5 -0.0 1e308 1e400 NaN Infinity -Infinity 01 [ { ] , [] {} [[]]"),
    *_words('[0] [0,0] [1,1,1] [1,2,4,4] [1,1,1,1,1,1,1,1] [0,1,2,3] [-1] [1.0] ["1"] {"a":1,"a":2}'),
    *_words(
        '"F16" "F32" "F64" "I64" "U8" "BOOL" "C64" "F4" "F6_E2M3" "F8_E4M3" "F8_E8M0" "" "a" "kl" "\\n\\u001b[31m"'
    ),
    *(str(2**power + off) for power in (31, 32, 62, 63, 64) for off in (-1, 0)),
    *(f"[{2**62}, 0]", f"[{2**63}, 0]", f"[0, {2**64 - 1}]", f"[{2**32}, {2**32}]"),
    *("9" * 400, "9" * 5000, "[" * 100_000, '{"a":' * 100_000, '"\\ud800"', f'"{"x" * 5000}"'),
    *("[" * depth + "]" * depth for depth in (100, 940, 985)),
    *("[0" + ",0" * 3000 + "]", "[1" + ",1" * 20 + "]"),
)
HOSTILE_KEYS = (
    *_words("latents a 狐 __metadata__ null_context vae_scale vae_shift betas lora_unet model_ema.decay"),
    *_words("model.diffusion_model.x model.diffusion_model.a.anchor_to_k.b first_stage_model.x taesd_encoder.0.weight"),
    *_words("cond_stage_model.transformer.x conditioner.embedders.0"),
    *("", "a\nb\x1b", "x" * 5000),
)
HOSTILE_METADATA = (
    *_words("artv_config artv_parts artv_base artv_latents seed made_with format"),
    *("a\n\x1b[31m", "x" * 300),
)
HOSTILE_TEXTS = (
    *_words('unet unet,branches,vae mask,text kitchen 0 -1 1e5 \u0663 {} [] {"steps":[[]]} 999999999999999999999'),
    *("", "unet," * 3000, "," * 3000, "\n\x1b[31m\u202e", "a " * 3000, "{" * 100_000, "x" * 200_000),
)
STARTS = (b"", b"PK\x03\x04", b"\x80\x02", b"GGUF", b"version https://git-lfs", b"<html>", b" ", b"{", b"\0")
LENGTHS = (0, 1, 2, 7, 8, 2**20, 4 * 2**20, 4 * 2**20 + 1, 10**8, 2**31, 2**32, 2**62, 2**63, 2**64 - 1)


@functools.cache
def _whole_checkpoint(*parts: str) -> bytes:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.safetensors"
        base = "small.safetensors" if parts else None
        save_checkpoint(ARTV(SMALL, text=False, vae=False), path, parts=parts or None, base=base)
        return path.read_bytes()


@functools.cache
def _whole_latents() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "latents.safetensors"
        save_latents(path, [torch.zeros(1, 4, 8, 8)] * 3, 7, json.dumps({"steps": 4, "sampler": "euler"}))
        return path.read_bytes()


def make_checkpoint(dice: Random) -> tuple[str, bytes]:
    """For a reader, a checkpoint that is spoilt: its configuration, its header, its bytes."""
    return dice.choice(list(READERS)), _spoilt_file(dice, _whole_checkpoint())


def make_latents(dice: Random) -> bytes:
    """Saved latents, spoilt."""
    return _spoilt_file(dice, _whole_latents())


def _spoilt_file(dice: Random, whole: bytes) -> bytes:
    if _often(dice, 0.05):
        return dice.choice(STARTS) + _noise(dice, 300)
    if _often(dice, 0.02):
        return _crowded_file(dice)
    length = struct.unpack("<Q", whole[:8])[0]
    header, body = json.loads(whole[8 : 8 + length]), bytearray(whole[8 + length :])
    marks = _Marks()
    for _ in range(dice.choice((0, 1, 1, 1, 2, 3))):
        dice.choice((_spoil_config, _spoil_config, _spoil_tensor, _spoil_tensor, _spoil_metadata))(dice, header, marks)
    if _often(dice, 0.1):
        body = body[: dice.randrange(len(body))] + _noise(dice, 50)
    text = bytearray(marks.filled(json.dumps(header)).encode("utf-8", "surrogatepass"))
    for _ in range(dice.choice((0, 0, 0, 0, 1, 3))):
        text[dice.randrange(len(text))] = dice.choice((dice.randrange(256), *b'0123456789"\\{}[],:'))
    claimed = dice.choice((*LENGTHS, len(text) + 1, len(text) - 1)) if _often(dice, 0.05) else len(text)
    content = struct.pack("<Q", claimed) + text + body
    return content[: dice.randrange(len(content))] if _often(dice, 0.05) else content


class _Marks:
    """Stand-ins for what `json.dumps` could not write: any JSON, valid or not, in any place."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        mark = f"<mark {len(self._texts)}>"
        self._texts[json.dumps(mark)] = text
        return mark

    def filled(self, text: str) -> str:
        for mark, replacement in self._texts.items():
            text = text.replace(mark, replacement)
        return text


def _spoil_config(dice: Random, header: dict[str, Any], marks: _Marks) -> None:
    """One or two fields of the configuration, or all its text. Of numbers often a near one, which may well fit."""
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict):
        return
    if _often(dice, 0.1):
        metadata["artv_config"] = dice.choice(HOSTILE_JSON)
        return
    config, inner = asdict(SMALL), _Marks()
    for _ in range(dice.choice((1, 1, 2))):
        part, name = _place(dice, config)
        if isinstance(part[name], int) and _often(dice, 0.5):
            part[name] = part[name] * dice.choice((0, 1, 2, 8, -1)) + dice.choice((0, 0, 1, -1))
        else:
            part[name] = inner(dice.choice(HOSTILE_JSON))
    if _often(dice, 0.1):
        config[dice.choice(HOSTILE_KEYS)] = 1
    text = inner.filled(json.dumps(config))
    metadata["artv_config"] = _spoilt_text(dice, text, PIECES) if _often(dice, 0.05) else text


def _place(dice: Random, part: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """An object in `part`, or `part` itself, and the name of something in it."""
    name = dice.choice(list(part))
    inside = isinstance(part[name], dict) and _often(dice, 0.8)
    return _place(dice, part[name]) if inside else (part, name)


def _spoil_tensor(dice: Random, header: dict[str, Any], marks: _Marks) -> None:
    """A field of a tensor, its name, or the whole of it."""
    key = dice.choice([key for key in header if key != "__metadata__"] or ["a"])
    tensor = header.get(key)
    if not isinstance(tensor, dict) or _often(dice, 0.1):
        header[key] = marks(dice.choice(HOSTILE_JSON))
    elif _often(dice, 0.2):
        header[dice.choice(HOSTILE_KEYS)] = header.pop(key)
    elif _often(dice, 0.2):
        empty = {"dtype": dice.choice(("F32", "F16", "F6_E2M3", "F4")), "shape": [0], "data_offsets": [0, 0]}
        empty["shape"] = marks(dice.choice(HOSTILE_JSON)) if _often(dice, 0.7) else [0]
        header[dice.choice(HOSTILE_KEYS)] = empty
    elif _often(dice, 0.2):
        del header[key]
    else:
        tensor[dice.choice(("dtype", "shape", "data_offsets", "more"))] = marks(dice.choice(HOSTILE_JSON))


def _spoil_metadata(dice: Random, header: dict[str, Any], marks: _Marks) -> None:
    """An entry, or all of them."""
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or _often(dice, 0.05):
        header["__metadata__"] = marks(dice.choice(HOSTILE_JSON))
    elif _often(dice, 0.2) and metadata:
        del metadata[dice.choice(list(metadata))]
    else:
        strange = marks(dice.choice(HOSTILE_JSON))
        metadata[dice.choice(HOSTILE_METADATA)] = strange if _often(dice, 0.3) else dice.choice(HOSTILE_TEXTS)


def _crowded_file(dice: Random) -> bytes:
    """A header with very much of one thing: now and then up to the limits and beyond them."""
    size = dice.choice((1000, 1000, 1000, 10_000, 10_000, 100_000)) if _often(dice, 0.95) else 2**20
    size *= dice.choice((1, 1, 3, 4))

    def configured(text: str) -> str:
        return json.dumps({"__metadata__": {"artv_config": text}})

    entry = ',"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    parts = {
        "tensors": lambda: "{" + "".join(entry % index for index in range(size // 50))[1:] + "}",
        "shape": lambda: '{"a":{"dtype":"U8","shape":[0' + ",0" * (size // 2) + '],"data_offsets":[0,0]}}',
        "unknown": lambda: '{"a":{"x":[[]' + ",[]" * (size // 3) + "]}}",
        "metadata": lambda: '{"__metadata__":{"":""' + "".join(f',"{i}":""' for i in range(size // 8)) + "}}",
        "text": lambda: '{"__metadata__":{"a":"' + "a " * (size // 2) + '"}}',
        "escapes": lambda: '{"__metadata__":{"a":"' + '\\"' * (size // 2),
        "config": lambda: configured('{"vocabulary":[""' + ',""' * (size // 3) + "]}"),
        "depth": lambda: '{"a":' + "[" * size,
        "config depth": lambda: configured('{"size":' + "[" * size),
    }
    header = parts[dice.choice(list(parts))]().encode()
    return struct.pack("<Q", len(header)) + header


def check_checkpoint(value: tuple[str, bytes], folder: Path) -> None:
    reader, content = value
    path = folder / "spoilt.safetensors"
    path.write_bytes(content)
    READERS[reader](path)


def _load(path: Path) -> None:
    load_checkpoint(path, operations=_Plain)


def _print_info(path: Path) -> None:
    for line in info_lines(describe_checkpoint(path)):
        if not line.isprintable():
            raise AssertionError(f"a line of `artv info` is {line[:300]!r}")


def _read_some(path: Path) -> None:
    file = open_tensor_file(path)
    for _ in file.read(list(file.tensors)[:5]):
        pass


def _read_part(path: Path) -> None:
    read_part(path, "vae", base=path)


def _load_as_base(path: Path) -> None:
    load_checkpoint(path.with_name("branches.safetensors"), base=path, operations=_Plain)


READERS: dict[str, Callable[[Path], object]] = {
    "load": _load,
    "base": _load_as_base,
    "info": _print_info,
    "tensors": _read_some,
    "part": _read_part,
}
"""What reads such a file. Each input is for one of them."""


def prepare_checkpoint(folder: Path) -> None:
    import open_clip  # noqa: F401 (what a text encoder is built with: it is large, and loaded when first needed)

    (folder / "small.safetensors").write_bytes(_whole_checkpoint())
    (folder / "branches.safetensors").write_bytes(_whole_checkpoint("branches"))


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
def _whole_journal() -> bytes:
    """Three frames."""
    with tempfile.TemporaryDirectory() as folder:
        with open_journal(folder, _Run(), JOURNALED, {"scale": 1.0, "seed": 7}) as journal:
            for index in range(3):
                journal.append(Frame(index, torch.full(JOURNALED, float(index)), None))
        return journal.path.read_bytes()


def make_journal(dice: Random) -> bytes:
    """A journal, spoilt; its header mostly with the checksum that it should have."""
    if _often(dice, 0.05):
        return dice.choice((b"", b"ARTVJRN1", b"PK", bytes(20))) + _noise(dice, 300)
    whole = _whole_journal()
    length = struct.unpack("<I", whole[8:12])[0]
    fields, records = json.loads(whole[12 : 12 + length]), bytearray(whole[16 + length :])
    marks = _Marks()
    for _ in range(dice.choice((0, 0, 1, 1, 2))):
        part, name = _place(dice, fields)
        part[name] = marks(dice.choice(HOSTILE_JSON))
    if _often(dice, 0.3):
        fields["shape"] = [dice.choice((0, 1, 1, 2, 2, 4, -1, 64, 2**20, 2**62, 1.0, True, None)) for _ in range(4)]
    text = marks.filled(json.dumps(fields)).encode("utf-8", "surrogatepass")
    if _often(dice, 0.05):
        text = dice.choice((b"[" * 60_000, b'{"a":' * 10_000, b'"' + b"x" * 65_000, b"{}" + _noise(dice, 50)))
    for _ in range(dice.choice((0, 0, 1, 3))):
        records[dice.randrange(len(records))] = dice.randrange(256)
    claimed = dice.choice((0, 2**31, 2**32 - 1, len(text) + 1)) if _often(dice, 0.05) else len(text)
    start = b"ARTVJRN1" + struct.pack("<I", claimed) + text
    checksum = dice.randrange(2**32) if _often(dice, 0.05) else zlib.crc32(start)
    content = start + struct.pack("<I", checksum) + records
    return content[: dice.randrange(len(content))] if _often(dice, 0.3) else content


def prepare_journal(folder: Path) -> None:
    """Where the journals lie."""
    (folder / "journals").mkdir()


def check_journal(content: bytes, folder: Path) -> None:
    """What can be read is read; for every fourth input also: it is in no run's way."""
    path = folder / "journals" / "spoilt.artvj"
    path.write_bytes(content)
    if len(journal_table(list_journals(path.parent)).splitlines()) > 2:
        raise AssertionError("more than one line of the list")
    if zlib.crc32(content) % 4 == 0:
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
        for frame in frames:
            if frame.latent.shape != JOURNALED:
                raise AssertionError(f"frame {frame.index} is {list(frame.latent.shape)}")
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
    *_words("none.txt link host small.safetensors/x.mp4 -x 狐.mp4 /dev/full /dev/null/x.mp4"),
    *(f"{kind}-{number}.safetensors" for kind in ("spoilt", "latents") for number in range(len(MADE_WITH))),
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
    *_words("small.safetensors spoilt-0.safetensors"),
)
NAMES = ("../outside.artvj", "/etc/hostname", "outside.artvj", "a/../picture.png", "picture.png", "", ".", "..", "*")
"""Of files in a folder that was named: these may not lead out of it."""


class _LeftToSample(Exception):  # noqa: N818 (no error)
    """All that is left to do would load weights or start a program: the input was taken."""


def prepare_arguments(folder: Path) -> None:
    prepare_checkpoint(folder)
    (folder / "latents.safetensors").write_bytes(_whole_latents())
    for number, made_with in enumerate(MADE_WITH):
        (folder / f"spoilt-{number}.safetensors").write_bytes(make_checkpoint(Random(number))[1])
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
def _commands() -> dict[str, list[argparse.Action]]:
    """The commands there are and what each takes, from the parser itself: what is added there is fuzzed here."""
    actions = next(a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {name: parser._actions for name, parser in actions.choices.items()}


def make_arguments(dice: Random) -> list[str]:
    """A command with some of its options, each with values of its kind more often than not."""
    commands = _commands()
    command = "generate" if _often(dice, 0.6) else dice.choice([*commands, "paint", "", "--version", "--help"])
    words = [command]
    actions = commands.get(command, commands["generate"])
    if command == "generate" and _often(dice, 0.95):
        words += [dice.choice(TEXTS[:2]), "-o", dice.choice(PATHS[:4])]
        words += ["--checkpoint", "small.safetensors"] if _often(dice, 0.95) else []
    for action in dice.choices(actions, k=dice.choice((0, 1, 1, 2, 2, 3, 5))):
        words += _argument(dice, action)
    while _often(dice, 0.1):
        words.insert(dice.randrange(len(words) + 1), dice.choice((*TEXTS, *PATHS, *NUMBERS)))
    return [word.replace("\0", "") for word in words]  # no operating system passes that on


def _argument(dice: Random, action: argparse.Action) -> list[str]:
    pool: Sequence[Any] = TEXTS
    if action.choices:
        pool = list(action.choices)
    elif action.type in (int, float):
        pool = NUMBERS
    elif action.type is Path:
        pool = PATHS
    elif action.dest == "remove":
        return [action.option_strings[0], *dice.choices(NAMES, k=2)]
    elif action.dest in ("checkpoint", "base"):
        pool = (*PATHS, *TEXTS)
    pool = (*TEXTS, *PATHS, *NUMBERS) if _often(dice, 0.05) else pool
    values = [] if action.nargs == 0 else [str(dice.choice(pool)) for _ in range(1 + _often(dice, 0.1))]
    if not action.option_strings:
        return values
    name = dice.choice(action.option_strings)
    return [f"{name}={values[0]}"] if values and _often(dice, 0.3) else [name, *values]


def check_arguments(words: list[str], folder: Path) -> None:
    """As a user does, up to where weights would be loaded, clips looked at, frames timed, or ComfyUI started."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(cli, "build_parser", _parser))
        stack.enter_context(patch.object(cli, "load_pipeline", _checked_device))
        stack.enter_context(patch.object(demo_comfyui, "run_workflows", _left_to_sample))
        stack.enter_context(patch.object(prepare_run, "prepare", _left_to_sample))
        stack.enter_context(patch.object(bench_measure, "measured", _left_to_sample))
        stack.enter_context(patch.object(evaluation_run, "evaluate_videos", _left_to_sample))
        stack.enter_context(patch.object(comfyui.Host, "missing", lambda host: []))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            code = cli.main(words)
        except _LeftToSample:
            code = None
    lines = err.getvalue().split("\n")[:-1]
    strange = [line for line in lines if not line.startswith("artv: ")]
    if strange or code not in (None, 0, cli.USER_ERROR):
        raise AssertionError(f"exit code {code}, {strange[:2]}")
    if code == cli.USER_ERROR:
        if not lines or out.getvalue():
            raise AssertionError(f"exit code {code}, said {lines[:2]}, printed {out.getvalue()[:100]!r}")
        raise ValueError("".join(letter if letter.isprintable() else "?" for letter in lines[-1]))


def _checked_device(args: argparse.Namespace, *_: Any) -> NoReturn:
    pick_device(args.device)
    raise _LeftToSample


def _left_to_sample(*_: Any) -> NoReturn:
    raise _LeftToSample


# What there is to fuzz. Another reader of files or text gets a line here: how to make inputs, and how to check one.
TARGETS = {
    "schedule": Target(make_schedule, check_schedule),
    "prompt file": Target(make_prompt_file, check_prompt_file),
    "checkpoint": Target(make_checkpoint, check_checkpoint, prepare_checkpoint),
    "latents": Target(make_latents, check_latents),
    "journal": Target(make_journal, check_journal, prepare_journal),
    "arguments": Target(make_arguments, check_arguments, prepare_arguments, lambda words: sum(map(len, words))),
}


if __name__ == "__main__":
    main()
