"""Nodes for journals of finished frames: when to keep one, how to read its frames back, and a list of them."""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io, ui

from ..artv_core.method.options import GenerateOptions, check_redo
from ..artv_core.run.journal_file import JournalReader
from ..artv_core.run.journal_folder import FOLDER
from ..artv_core.run.journal_list import journal_table, list_journals, readable_size, remove_journal
from ..artv_core.run.recording import JOURNAL_FROM, parse_redo, wants_journal
from . import bridge
from .automatic import Automatic
from .checks import verdict
from .types import ARTVJournal

MODES = ("automatic", "on", "off")
NONE_YET = "(none yet)"
"""The menu entry if there is no journal."""
FRAMES = Automatic(
    "frames",
    "How many frames to load. all: every frame from first_frame on.",
    whole=True,
    most=10**9,
    word="all",
    meaning="every frame from first_frame on",
)


@dataclass(frozen=True)
class JournalSettings:
    """Whether a run keeps a journal, whether it ignores an existing one, and which frames to make again."""

    mode: str = "automatic"
    start_over: bool = False
    redo: tuple[tuple[int, int], ...] = ()

    def folder(self, options: GenerateOptions) -> Path | None:
        """The folder of the run's journal, or None if it has none."""
        wanted = self.mode == "on" or (self.mode == "automatic" and wants_journal(options.num_frames))
        return journal_folder() if wanted else None


def journal_folder() -> Path:
    """The folder of journals in the host's output folder."""
    return Path(folder_paths.get_output_directory()) / FOLDER


class ARTVJournalSettings(io.ComfyNode):
    """Settings of the journal."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The host's description of the node."""
        return bridge.schema(
            node_id="ARTVJournalSettings",
            display_name="ARTV Journal",
            category="ARTV",
            description="Saves every finished frame, so that a run that crashed or was cancelled continues "
            "when you queue it again. The sampler does this by itself for videos of more than "
            f"{JOURNAL_FROM - 1} frames; add this node only to change that.",
            search_aliases=["artv", "resume", "continue", "checkpoint", "crash", "redo", "save frames"],
            inputs=[
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=MODES[0],
                    tooltip=f"When to save frames. automatic: for videos of more than {JOURNAL_FROM - 1} "
                    "frames; on: always; off: never.",
                ),
                io.Boolean.Input(
                    "start_over",
                    default=False,
                    tooltip="Ignores saved frames and starts from frame 0. The old journal is kept.",
                ),
                io.String.Input(
                    "redo",
                    default="",
                    multiline=True,
                    tooltip="Makes frames again with another seed: '120: 7' means seed 7 "
                    "from frame 120 on. Earlier frames come from the journal.",
                ),
            ],
            outputs=[ARTVJournal.Output(display_name="journal", tooltip="For the sampler's journal input.")],
        )

    @classmethod
    def validate_inputs(cls, redo: str | None = None) -> bool | str:
        """Check the frames and seeds of `redo`."""
        return verdict(lambda text: check_redo(parse_redo(text)), redo)

    @classmethod
    def execute(cls, mode: str, start_over: bool, redo: str) -> io.NodeOutput:
        """Collect the settings."""
        if mode not in MODES:  # older hosts do not check menu values
            raise ValueError(f"there is no mode {mode!r}; there are: {', '.join(MODES)}")
        return io.NodeOutput(JournalSettings(mode, start_over, parse_redo(redo)))


class ARTVLoadJournal(io.ComfyNode):
    """Loads the frames of a run, finished or not."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The host's description of the node."""
        return bridge.schema(
            node_id="ARTVLoadJournal",
            display_name="ARTV Load Frames",
            category="ARTV",
            description="Loads the saved frames of a run that finished, was cancelled or was cut off. Decode them, "
            "or connect them to the references of a sampler to continue.",
            search_aliases=["artv", "journal", "load frames", "load latent", "resume", "recover"],
            inputs=[
                io.Combo.Input(
                    "journal",
                    options=_names() or [NONE_YET],
                    tooltip="A saved run in output/artv_journals; the latest is listed first. Press R to see new ones.",
                ),
                io.Int.Input(
                    "first_frame", default=0, min=0, max=10**9, tooltip="The first frame to load, counted from 0."
                ),
                FRAMES.input(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent", is_output_list=True, tooltip="The frames. One LATENT for each video."
                ),
                io.Mask.Output(
                    display_name="copy_mask",
                    is_output_list=True,
                    tooltip="What was copied from the previous frame, as a small mask with one value for each cell "
                    "(8x8 pixels): 1 is copied, 0 is new.",
                ),
                io.String.Output(
                    display_name="about", tooltip="What the journal contains. Show it with Preview as Text."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, frames: Any = None) -> bool | str:
        """Check the number of frames."""
        return verdict(FRAMES.check, frames)

    @classmethod
    def execute(cls, journal: str, first_frame: int, frames: Any) -> io.NodeOutput:
        """Copy one frame after another from the file into the result."""
        count_wanted = FRAMES.whole_number(frames)
        with JournalReader(_path(journal)) as reader:
            scale, shift = _host_scale(reader.header.about, journal)
            end = reader.count_sound(None if count_wanted is None else first_frame + count_wanted)
            batch, channels, height, width = reader.header.shape
            latents = torch.zeros(batch, max(0, end - first_frame), channels, height, width)
            masks = torch.zeros(batch, max(0, end - first_frame), height, width)
            count = 0
            for frame in reader.frames(first_frame, end):
                latents[:, count] = frame.latent / scale + shift
                if frame.mask is not None:
                    masks[:, count] = frame.mask[:, 0]
                count += 1
            about = _about(reader, first_frame, count)
        if not count:
            raise ValueError(f"journal {journal} has no frame {first_frame}; it contains {end} frames")
        return io.NodeOutput([{"samples": video[:count]} for video in latents], [m[:count] for m in masks], about)

    @classmethod
    def fingerprint_inputs(cls, journal: str | None, first_frame: int, frames: Any) -> tuple[int, int] | None:
        """Makes the host read a journal again when it has grown. A name that a wire provides is None here."""
        if journal is None:
            return None
        status = os.stat(_path(journal))
        return status.st_mtime_ns, status.st_size


class ARTVJournals(io.ComfyNode):
    """Lists and removes journals."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The host's description of the node."""
        return bridge.schema(
            node_id="ARTVJournals",
            display_name="ARTV List Journals",
            category="ARTV",
            description="Lists the saved runs in the output folder with their sizes, and removes those you name.",
            search_aliases=["artv", "journal", "disk space", "clean up"],
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "remove",
                    default="",
                    multiline=True,
                    tooltip="Names of saved runs to delete, one per line, as in the list. This cannot be undone.",
                )
            ],
            outputs=[
                io.String.Output(
                    display_name="list",
                    tooltip="Name, frames, size, time and prompts of each saved run. Show it with Preview as Text.",
                )
            ],
        )

    @classmethod
    def execute(cls, remove: str) -> io.NodeOutput:
        """Remove what is named, then list what is left."""
        named, names = filter(None, map(str.strip, remove.splitlines())), _names()
        lines = [_removed(name) if name in names else f"{name[:100]} is not there" for name in dict.fromkeys(named)]
        lines.append(journal_table(list_journals(journal_folder())))
        return io.NodeOutput("\n".join(lines), ui=ui.PreviewText("\n".join(lines)))

    @classmethod
    def fingerprint_inputs(cls, remove: str) -> float:
        """Never the same, because journals change without any change in the graph."""
        return time.time()


def _removed(name: str) -> str:
    """Remove a journal. Returns a line about it: one that stays does not keep the others."""
    try:
        remove_journal(journal_folder() / name)
    except ValueError as error:
        return f"{name} was not removed: {error}"
    return f"{name} was removed"


def _names() -> list[str]:
    return [journal.path.name for journal in list_journals(journal_folder())]


def _path(name: str) -> Path:
    """The path of a journal. Raises ValueError for any name that is not in the list, because a name is not a path."""
    names = _names()
    if name not in names:
        raise ValueError(
            f"there is no journal {name[:100]!r} in output/{FOLDER}; there are: {', '.join(names) or 'none'}"
        )
    return journal_folder() / name


def _host_scale(about: Mapping[str, Any], name: str) -> tuple[float, float]:
    """Scale and shift from the core's latents to the host's. Raises ValueError if the journal does not contain them."""
    scale, shift = about.get("scale"), about.get("shift")
    numbers = [value for value in (scale, shift) if isinstance(value, int | float) and math.isfinite(value)]
    if len(numbers) != 2 or not scale:
        raise ValueError(
            f"journal {name} does not say in what scale its latents are, so it cannot be loaded; choose another journal"
        )
    return float(numbers[0]), float(numbers[1])


def _about(reader: JournalReader, first: int, count: int) -> str:
    header = reader.header
    lines = [
        f"{reader.path.name}: {reader.num_records} frames, {readable_size(reader.num_bytes)}",
        f"loaded: frames {first} to {first + count - 1}, {header.shape[0]} video(s)",
        *(f"{key}: {str(value)[:200]}" for key, value in header.about.items() if key != "settings"),
    ]
    return "\n".join(lines)
