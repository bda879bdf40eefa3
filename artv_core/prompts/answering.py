"""Answers requests of the timeline editor: to read a prompt schedule, or to change its text."""

import json
from collections.abc import Mapping
from typing import Any

from .grammar import MAX_FRAME, MAX_PROMPTS, parse_prompt_schedule
from .prompt_schedule import PromptScheduleError, PromptSegment
from .rewriting import rewrite_schedule
from .style import WantedPrompt

MOST_SLIPS = 3


def answer_schedule(question: Mapping[str, Any]) -> dict[str, Any]:
    """Read a schedule for the timeline editor. With `wanted`, first change its text.

    Question: `text`, `segment_frames`, `fps`, `num_frames`, `blend_frames`, and optionally `wanted`: `{prompts:
    [{source, start, text}], end}`. Answer: `text`, `segments`, `spans`, and `slips` (the first `MOST_SLIPS`, as in
    `PromptSchedule`). If the text cannot be read or changed, the answer is `text` and `error` (`message`, `line`,
    `column`); `line` and `column` are null if a setting or `wanted` is the cause. Raises ValueError on any other
    question.
    """
    text, settings = _asked(question, "text", str, ""), _settings(question)
    blend_frames = _asked(question, "blend_frames", int, 0)
    wanted = None if question.get("wanted") is None else _wanted(question["wanted"])
    try:
        if wanted is not None:
            text = rewrite_schedule(text, *wanted, **settings)
        schedule = parse_prompt_schedule(text, name="text", **settings)
        spans = schedule.spans(blend_frames)
    except PromptScheduleError as error:
        return {"text": text, "error": {"message": error.message, "line": error.line, "column": error.column}}
    except ValueError as error:
        return {"text": text, "error": {"message": str(error), "line": None, "column": None}}
    segments = [
        dict(zip(("start", "end", "text", "line", "column"), _fields(s), strict=True)) for s in schedule.segments
    ]
    slips = [slip._asdict() for slip in schedule.slips[:MOST_SLIPS]]
    return {"text": text, "segments": segments, "spans": [span._asdict() for span in spans], "slips": slips}


def _fields(segment: PromptSegment) -> tuple[int, int | None, str, int, int]:
    return segment.start, segment.end, segment.text, segment.line, segment.column


def _settings(question: Mapping[str, Any]) -> dict[str, Any]:
    fps = question.get("fps")
    is_number = isinstance(fps, (int, float)) and not isinstance(fps, bool) and 0 <= fps <= MAX_FRAME
    if not (fps is None or is_number):
        raise ValueError(f"fps is {_kind(fps)}; accepted are numbers above 0 and up to {MAX_FRAME}, and null")
    frames = {
        name: _asked(question, name, int, default) for name, default in (("segment_frames", 1), ("num_frames", 0))
    }
    return {"fps": fps, **frames}


def _wanted(wanted: Any) -> tuple[list[WantedPrompt], int | None]:
    if not isinstance(wanted, dict) or not isinstance(wanted.get("prompts"), list):
        raise ValueError('wanted is not valid; accepted is {"prompts": [...], "end": null or a frame}')
    if len(wanted["prompts"]) > MAX_PROMPTS:
        raise ValueError(f"got {len(wanted['prompts'])} wanted prompts; accepted are up to {MAX_PROMPTS}")
    end = wanted.get("end")
    return [_wanted_prompt(prompt) for prompt in wanted["prompts"]], end if end is None else _frame(end, "end")


def _wanted_prompt(prompt: Any) -> WantedPrompt:
    if not isinstance(prompt, dict):
        raise ValueError(f'a wanted prompt is {_kind(prompt)}; accepted is {{"source", "start", "text"}}')
    source = prompt.get("source")
    source = source if source is None else _frame(source, "source")
    return WantedPrompt(source, _frame(prompt.get("start"), "start"), _asked(prompt, "text", str, None))


def _asked(question: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    """A text or a number from the question, checked for its type and range."""
    value = question.get(name, default)
    if kind is int:
        return _frame(value, name)
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {_kind(value)}; a text is needed")
    return value


def _frame(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_FRAME:
        raise ValueError(f"{name} is {_kind(value)}; accepted are whole numbers from 0 to {MAX_FRAME}")
    return value


def _kind(value: Any) -> str:
    """A value from a request, for a message: short values themselves, others by their type."""
    shown = json.dumps(value) if value is None or isinstance(value, (bool, int, float)) else type(value).__name__
    return shown if len(shown) <= 20 else f"{shown[:20]}..."
