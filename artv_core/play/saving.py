"""Saves what was played: the video, and a text file with its schedule that makes the same video again. Not in the
paper."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..files.partial_file import replacing
from ..method.options import GenerateOptions
from ..prompts.prompt_schedule import PromptSchedule, PromptSegment
from ..run.job import Job
from ..run.journal_file import JournalReader
from ..run.outputs import Outputs
from ..run.pipeline import Pipeline

LEAST_SIDE = 256
"""Smaller videos are enlarged to at least this number of pixels along both sides."""


@dataclass(frozen=True)
class Take:
    """What was played: the first `count` frames of a journal, and what they were made from. `prompts` are (frame,
    text), `options` has the seeds. `repeat` gives the command that makes the file `video` again from `schedule`."""

    journal: Path
    count: int
    prompts: tuple[tuple[int, str], ...]
    options: GenerateOptions
    folder: Path
    repeat: Callable[[Job, Path], str]


def save_take(pipeline: Pipeline, take: Take) -> Iterator[tuple[Path, int]]:
    """Write `NAME.mp4`, then `NAME.txt`, in the take's folder. Yields the video's path and how many frames are written,
    after each of them: whoever asks for the next decides when there is time. The files are there after the last one.
    Raises ValueError if a file cannot be written, or if the journal has fewer frames."""
    video = _free_name(take.folder)
    job = _job(pipeline, take, video)
    done = 0
    with JournalReader(take.journal) as journal, Outputs(job) as outputs:
        for frame in journal.frames(limit=take.count):
            outputs.append(pipeline.decode(frame))
            done += 1
            yield video, done
        if done < take.count:
            raise ValueError(f"{take.journal} has only {done} of {take.count} frames that can be read")
    with replacing(video.with_suffix(".txt")) as path:
        path.write_text(_text(take, job, video), encoding="utf-8")


def _job(pipeline: Pipeline, take: Take, video: Path) -> Job:
    config, options = pipeline.model.config, take.options
    smaller = min(options.height or LEAST_SIDE, options.width or LEAST_SIDE)
    return Job(
        prompts=[list(prompt) for prompt in take.prompts],  # type: ignore[misc]
        options=dataclasses.replace(options, num_frames=take.count),
        videos=[video],
        fps=config.fps,
        upscale=max(1, -(-LEAST_SIDE // smaller)),
        checkpoint=config.name,
    )


def _text(take: Take, job: Job, video: Path) -> str:
    """A prompt file (see `prompts.grammar`): what is not a prompt is a comment."""
    starts = [start for start, _ in take.prompts]
    segments = zip(take.prompts, [*starts[1:], None], strict=True)
    schedule = PromptSchedule(tuple(PromptSegment(start, end, text) for (start, text), end in segments))
    redo = [f"# {frame}: {seed}" for frame, seed in take.options.redo]
    seeds = ["# other seeds from these frames on (redo):", *redo] if redo else []
    command = take.repeat(job, video.with_suffix(".txt"))
    about = [f"# {take.count} frames, seed {take.options.seed}", *seeds, "# this makes the same video again:"]
    return "\n".join([*about, f"# {command}", "", schedule.canonical(), ""])


def _free_name(folder: Path) -> Path:
    """A name for a video that neither it nor its text file has yet."""
    stem, number = time.strftime("play-%Y%m%d-%H%M%S"), 1
    while True:
        path = folder / f"{stem}{'' if number == 1 else f'-{number}'}.mp4"
        if not path.exists() and not path.with_suffix(".txt").exists():
            return path
        number += 1
