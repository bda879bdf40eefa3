"""Messages about problems of a prompt."""

from .patterns import EXPRESSION, NEGATIVE
from .written import WrittenPrompt


def text_problem(prompt: WrittenPrompt) -> str | None:
    """What is wrong with a prompt's text, or None."""
    if not prompt.text:
        return f"the prompt of frame {prompt.start} is empty; describe the video"
    return words_problem(prompt.text)


def words_problem(text: str) -> str | None:
    """What is wrong with the words of a prompt, wherever it is written, or None."""
    if NEGATIVE.search(text):
        return "got --neg, which is not supported in prompts; the negative prompt is a separate input, for all frames"
    if expression := EXPRESSION.search(text):
        return f"got {shown(expression[0])}, but prompts cannot have expressions; write a number, as in (fox:1.2)"
    return None


def order_problem(before: WrittenPrompt | None, prompt: WrittenPrompt) -> str | None:
    """What is wrong with a prompt's place after the previous prompt, or None."""
    start = prompt.start
    if before is None:
        return None if start == 0 else f"the first prompt starts at frame {start}; it must start at frame 0"
    if before.timed != prompt.timed:
        return 'either all prompts have a time, as in "24": "text", 24: text or [1s-2s: text], or none has'
    if start <= before.start:
        return f"frame {start} does not come after frame {before.start} of the previous prompt; starts must ascend"
    if before.end is not None and start < before.end:
        return f"frame {start} is still in the previous range, {before.start}-{before.end}; ranges must not overlap"
    if before.end is not None and start > before.end:
        return f"frames {before.end} to {start - 1} have no prompt; the previous range must end where this one starts"
    return None


def length_problem(prompt: WrittenPrompt, num_frames: int) -> str | None:
    """What is wrong with a prompt's place in a video of `num_frames` frames (0: unknown), or None."""
    if num_frames and prompt.start >= num_frames:
        return (
            f"the prompt starts at frame {prompt.start}, but the video ends with frame {num_frames - 1}; "
            "make the video longer, or let the prompt start earlier"
        )
    if num_frames and (prompt.end or 0) > num_frames:
        return f"the range ends at frame {prompt.end}, but the video has {num_frames} frames; {num_frames} is the limit"
    return None


def shown(text: str) -> str:
    """The beginning of a text in quotes, for a message."""
    return repr(clipped(text))


def clipped(text: str) -> str:
    """The beginning of a text."""
    return text if len(text) <= 20 else f"{text[:20]}..."
