"""The settings of `artv play` as words of a command line: for the command that makes the same video again, and for the
journal, from which an interrupted run goes on."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..run.job import Job

SHARED = (
    *("base", "device", "dtype", "width", "height", "sampler", "cfg_references", "cfg_anchor", "cfg_text"),
    *("first_frame_steps", "cfg_first", "noise_level", "no_mask", "adain", "return_to_anchor", "compile", "graph"),
    *("fp8", "taesd", "reuse_every", "reuse_blocks", "guidance_interval"),
)
"""Options that `artv generate` has too, with the same defaults."""

OWN = ("checkpoint", "steps", "prompt", "seed")
"""Options with other defaults here, or of which a default is chosen when a run begins."""

KEPT_AS = "play"
"""The name of the words among what a journal's header says about its run."""

_OFF = {"graph": "--no-graph"}


def usual_values(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The defaults of the options that decide the frames."""
    return {name: parser.get_default(name) for name in (*SHARED, *OWN)}


def check_resumed(args: argparse.Namespace) -> None:
    """Raises ValueError if an option that decides the frames is given besides `--resume`."""
    for name, usual in args.usual.items():
        if getattr(args, name) != usual:
            option = _OFF.get(name, _option(name))
            raise ValueError(f"--resume and {option} cannot be used together: the run goes on with its own settings")


def words_of(args: argparse.Namespace) -> list[str]:
    """The options that decide the frames, as words that `artv play` reads again."""
    own = [f"{_option(name)}={getattr(args, name)}" for name in OWN]
    own += [] if args.frames is None else [f"--frames={args.frames}"]
    return [*own, *_shared(args)]


def repeat_command(args: argparse.Namespace, job: Job, schedule: Path) -> str:
    """The `artv generate` command that makes the video of `job` again, from its schedule."""
    options, (video,) = job.options, job.videos
    redo = [word for frame, seed in options.redo for word in ("--redo", f"{frame}:{seed}")]
    words = ["--prompts", str(schedule), "--frames", str(options.num_frames), "--seed", str(options.seed), *redo]
    look = ["--checkpoint", args.checkpoint, "--steps", str(options.steps), "--upscale", str(job.upscale)]
    again = video.with_name(f"{video.stem}-again{video.suffix}")
    return command_line(["artv", "generate", *words, *look, *_shared(args), "-o", str(again)])


def command_line(words: Sequence[str], windows: bool = os.name == "nt") -> str:
    """The words on one line that can be pasted into a shell: on Windows, into cmd and PowerShell."""
    line = " ".join(map(_quoted_for_windows, words)) if windows else shlex.join(words)
    return " ".join(line.split("\n"))


def _quoted_for_windows(word: str) -> str:
    return word if re.fullmatch(r"[\w.:/\\=+-]+", word) else f'"{word}"'  # names of files have no quotes there


def _shared(args: argparse.Namespace) -> list[str]:
    words: list[str] = []
    for name in SHARED:
        value = getattr(args, name)
        if value == args.usual[name]:
            continue
        if isinstance(value, bool):
            words.append(_OFF.get(name, _option(name)))
        elif isinstance(value, list | tuple):
            words += [_option(name), *map(str, value)]
        else:
            words.append(f"{_option(name)}={value}")
    return words


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
