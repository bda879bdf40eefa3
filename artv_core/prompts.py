"""Prompt files: which text holds from which frame. Plain text in, (start, text) pairs out; nothing is evaluated.

Two styles, one prompt a line; blank lines and lines that begin with `#` are passed over:

    a red circle moving right         0: a red circle moving right
    a red circle moving up            24 = "a red circle moving up"
                                      "48": "a red circle standing still",

On the left the prompts follow one another, a segment's length each; on the right each names its first frame.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

MAX_FILE_BYTES = 1_000_000
MAX_FRAME = 10**9

_KEYED = re.compile(r"""(?P<quote>"?)(?P<frame>\d+)(?P=quote)\s*[:=]\s*(?P<value>.*)""")
_QUOTED = re.compile(r'"(?P<text>(?:[^"\\]|\\.)*)"\s*,?')


class ScheduledPrompt(NamedTuple):
    """From frame `start` (absolute) to the next prompt, the text is `text`."""

    start: int
    text: str


def read_prompt_file(path: str | Path, segment_frames: int) -> list[ScheduledPrompt]:
    """The prompts of a file, as `parse_prompts`. Raises ValueError, one line, where it cannot be read besides."""
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
    return parse_prompts(text, segment_frames, str(path))


def parse_prompts(text: str, segment_frames: int, name: str = "prompts") -> list[ScheduledPrompt]:
    """Prompts in either style, in order. `segment_frames` is how long each prompt of a file without frames lasts.

    Raises ValueError, naming `name` and the line, for no prompt at all, an empty prompt, the two styles in one file, a
    first prompt that does not start at frame 0, and starts that do not ascend.
    """
    prompts: list[ScheduledPrompt] = []
    keyed: bool | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _KEYED.fullmatch(line)
        fail = _failure(name, number)
        if keyed not in (None, match is not None):
            raise fail("either all prompts name their first frame (as in `24: text`), or none does")
        keyed = match is not None
        prompt = _keyed_prompt(match, fail) if match else ScheduledPrompt(len(prompts) * segment_frames, line)
        _check_order(prompts, prompt, fail)
        prompts.append(prompt)
    if not prompts:
        raise ValueError(f"{name} holds no prompt; write one on each line")
    return prompts


def _keyed_prompt(match: re.Match[str], fail: Callable[[str], ValueError]) -> ScheduledPrompt:
    frame, value = match["frame"], match["value"]
    if len(frame) > len(str(MAX_FRAME)) or int(frame) > MAX_FRAME:
        raise fail(f"frame {frame[:20]} is beyond {MAX_FRAME}")
    if match["quote"] or value.startswith('"'):
        quoted = _QUOTED.fullmatch(value)
        if quoted is None:
            raise fail('expected one prompt in double quotes after the frame, as in "24": "text",')
        value = re.sub(r"\\(.)", r"\1", quoted["text"]).strip()
    if not value:
        raise fail(f"the prompt of frame {int(frame)} is empty")
    return ScheduledPrompt(int(frame), value)


def _check_order(before: list[ScheduledPrompt], prompt: ScheduledPrompt, fail: Callable[[str], ValueError]) -> None:
    if not before and prompt.start != 0:
        raise fail(f"the first prompt starts at frame {prompt.start}; it must start at frame 0")
    if before and prompt.start <= before[-1].start:
        raise fail(f"frame {prompt.start} does not come after frame {before[-1].start} of the prompt before")


def _failure(name: str, number: int) -> Callable[[str], ValueError]:
    return lambda message: ValueError(f"{name}, line {number}: {message}")
