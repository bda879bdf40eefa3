"""Prompt files."""

from pathlib import Path

from .grammar import parse_prompts
from .prompt_schedule import ScheduledPrompt

MAX_FILE_BYTES = 1_000_000


def read_prompt_file(path: str | Path, segment_frames: int, fps: float | None = None) -> list[ScheduledPrompt]:
    """The prompts of a file, as `parse_prompts`. Raises ValueError, one line, also where the file cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read prompt file {path}: {(error.strerror or str(error)).lower()}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"prompt file {path} is larger than {MAX_FILE_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"prompt file {path} is not UTF-8 text") from None
    return parse_prompts(text, segment_frames, str(path), fps)
