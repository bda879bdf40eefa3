"""Prompt files."""

from collections.abc import Callable
from pathlib import Path

from .grammar import parse_prompt_schedule
from .prompt_schedule import ScheduledPrompt

MAX_FILE_BYTES = 1_000_000


def read_prompt_file(
    path: str | Path, segment_frames: int, fps: float | None = None, warn: Callable[[str], None] | None = None
) -> list[ScheduledPrompt]:
    """The prompts of a file. `warn` is called with one line if words look like a time. Raises ValueError if the file
    cannot be read, and the errors of `parse_prompt_schedule`."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read prompt file {path}: {(error.strerror or str(error)).lower()}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"prompt file {path} is larger than {MAX_FILE_BYTES} bytes; split it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"prompt file {path} is not UTF-8 text; save it as UTF-8") from None
    schedule = parse_prompt_schedule(text, segment_frames=segment_frames, fps=fps, name=str(path))
    if warn is not None and (warning := schedule.warning()):
        warn(f"{path}, {warning}")
    return [ScheduledPrompt(segment.start, segment.text) for segment in schedule.segments]
