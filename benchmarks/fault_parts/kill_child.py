"""One video with a journal and a growing file, made to be killed: `kill_child.py FOLDER FAULT`.

FAULT is JSON: `kind` is when to die by SIGKILL, `frame` and `step` where, `share` how much of a write is done first.
Tells on stdout, unbuffered: `ready`; `open JOURNAL FOUND`; `made K` once frame K is sampled and nothing has kept it;
`shown K` once the video has it; `whole` at the end, when `latents.bin` holds the bits of all latents and masks.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from artv_core.media import VideoWriter
from artv_core.media.sink import Sink
from artv_core.method import generate
from artv_core.method.frames import Frame
from artv_core.method.generate import GenerateOptions
from artv_core.run import journal
from artv_core.run.pipeline import Pipeline
from artv_core.run.recording import Recording

PROMPT = "a large red circle moving right fast on a blue background"
OPTIONS = GenerateOptions(num_frames=24, steps=3, seed=11)


@dataclass(frozen=True)
class Fault:
    """When to die."""

    kind: str = "none"
    frame: int = 0
    step: int = 0
    share: float = 0.0

    def is_at(self, kind: str, frame: int = 0, step: int = 0) -> bool:
        """Whether this is the moment. A moment of no frame or step is called 0."""
        return (self.kind, self.frame, self.step) == (kind, frame, step)

    def strike(self, kind: str, frame: int = 0, step: int = 0) -> None:
        """End here, if this is the moment."""
        if self.is_at(kind, frame, step):
            die()

    def part(self, data: bytes) -> bytes:
        """What of a write is done: never all of it."""
        return data[: int(self.share * len(data))]


def main() -> None:
    folder, fault = Path(sys.argv[1]), Fault(**json.loads(sys.argv[2]))
    torch.set_num_threads(1)
    pipeline = Pipeline.from_checkpoint("tiny")
    tell("ready")
    writer = VideoWriter(folder / "out.mp4", 8, growing=True)
    with ExitStack() as stack:
        for target, name, changed in changes(fault, writer):
            stack.enter_context(patch.object(target, name, changed(getattr(target, name))))
        bits = run(pipeline, writer, folder, fault)
    (folder / "latents.bin").write_bytes(bits)
    tell("whole")


def run(pipeline: Pipeline, writer: VideoWriter, folder: Path, fault: Fault) -> bytes:
    """The bits of all latents and masks."""
    bits = b""
    recording = Recording(folder / "journals", on_open=lambda opened: tell(f"open {opened.path.name} {opened.found}"))
    frames = pipeline.frames(
        PROMPT, OPTIONS, on_step=lambda frame, info: fault.strike("step", frame, info.step), recording=recording
    )
    with writer, closing(frames):
        for frame in frames:
            writer.append(frame.image[0])
            tell(f"shown {frame.index}")
            bits += to_bytes(frame.latent) + (b"no mask" if frame.mask is None else to_bytes(frame.mask))
            fault.strike("shown", frame.index)
    return bits


Change = Callable[[Callable[..., Any]], Callable[..., Any]]


def changes(fault: Fault, writer: VideoWriter) -> list[tuple[Any, str, Change]]:
    """What is put around the package's own functions: where, under what name, and how."""
    return [
        (generate, "sample_frame", lambda sample: sampling(sample, fault)),
        (journal.Journal, "_write", lambda write: journal_write(write, fault)),
        (Sink, "_write_out", lambda write_out: video_write(write_out, fault, writer)),
        (os, "fsync", lambda fsync: flushing(fsync, fault)),
        (os, "replace", lambda replace: naming(replace, fault)),
    ]


def sampling(sample: Callable[..., Frame], fault: Fault) -> Callable[..., Frame]:
    def sample_and_tell(model: Any, schedule: Any, inputs: Any, index: int, *rest: Any) -> Frame:
        made = sample(model, schedule, inputs, index, *rest)
        tell(f"made {index}")
        fault.strike("sampled", index)
        return made

    return sample_and_tell


def journal_write(write: Callable[..., None], fault: Fault) -> Callable[..., None]:
    def write_or_die(self: journal.Journal, record: bytes) -> None:
        torn = fault.is_at("journal write", self.count)
        write(self, fault.part(record) if torn else record)
        if torn:
            die()
        fault.strike("journaled", self.count)

    return write_or_die


def video_write(write_out: Callable[..., None], fault: Fault, writer: VideoWriter) -> Callable[..., None]:
    def write_or_die(self: Sink) -> None:
        data = b"".join(self._pending)
        if data and fault.is_at("video write", writer.count):
            self._file.write(fault.part(data))
            die()
        write_out(self)

    return write_or_die


def flushing(fsync: Callable[[int], None], fault: Fault) -> Callable[[int], None]:
    """Where a new journal is flushed to the disk, a part of it has been written."""

    def fsync_or_die(number: int) -> None:
        if fault.is_at("journal torn") and os.readlink(f"/proc/self/fd/{number}").endswith(".artvj.partial"):
            os.ftruncate(number, int(fault.share * os.fstat(number).st_size))
            die()
        fsync(number)

    return fsync_or_die


def naming(replace: Callable[..., None], fault: Fault) -> Callable[..., None]:
    """Where a new journal, or a whole video, is given its name."""

    def replace_or_die(old: Any, new: Any) -> None:
        is_journal, is_whole_video = str(new).endswith(".artvj"), Path(new).name == "out.mp4"
        if is_whole_video:
            fault.strike("video unnamed")
        if is_journal:
            fault.strike("journal unnamed")
        replace(old, new)
        if is_journal:
            fault.strike("journal named")

    return replace_or_die


def to_bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def tell(line: str) -> None:
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    main()
