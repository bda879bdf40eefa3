r"""Weights in prompts, with the same meaning as in ComfyUI: `a (red circle:1.3) and a (square)`.

Words in parentheses count 1.1 times as much, words in `((...))` 1.21 times. Words in `(...:1.3)` count exactly 1.3
times, even inside other parentheses. `\(` and `\)` are literal parentheses. An unclosed parenthesis is literal too, and
so is text after a colon that is not a number.
"""

import math
from typing import NamedTuple

STEP = 1.1
"""The factor of a pair of parentheses without a number."""

MAX_WEIGHT = 1000.0
MAX_DEPTH = 100

_OPEN, _CLOSE = "\0\2", "\0\1"  # stand for escaped parentheses while the others are parsed


class WeightedText(NamedTuple):
    """A part of a prompt without weight syntax, and its weight (1 = normal)."""

    text: str
    weight: float


def read_weights(prompt: str) -> list[WeightedText]:
    """Split a prompt into its parts, in order; none is empty. Raises ValueError on a weight that is not finite or
    beyond `MAX_WEIGHT`, and on parentheses nested deeper than `MAX_DEPTH`."""
    escaped = prompt.replace("\\)", _CLOSE).replace("\\(", _OPEN)
    return [WeightedText(_literal(text), weight) for text, weight in _weighted(escaped, 1.0, 0) if text]


def without_weights(prompt: str) -> str:
    """The prompt's words without weight syntax. Raises the errors of `read_weights`."""
    return "".join(part.text for part in read_weights(prompt))


def escape_parentheses(text: str) -> str:
    """Escape the parentheses in `text`, so that a prompt with it contains them literally."""
    return text.replace("(", "\\(").replace(")", "\\)")


def _literal(text: str) -> str:
    return text.replace(_CLOSE, ")").replace(_OPEN, "(")


def _weighted(text: str, weight: float, depth: int) -> list[tuple[str, float]]:
    if depth > MAX_DEPTH:
        raise ValueError(f"parentheses in a prompt are nested more than {MAX_DEPTH} deep; write a weight: (fox:2)")
    found: list[tuple[str, float]] = []
    for part in _split(text):
        if len(part) >= 2 and part[0] == "(" and part[-1] == ")":
            inner, own = _own_weight(part[1:-1])
            found += _weighted(inner, weight * STEP if own is None else own, depth + 1)
        else:
            found.append((part, weight))
    return found


def _split(text: str) -> list[str]:
    """Split a text into outermost pairs of parentheses and the text between them."""
    parts, begin, depth = [], 0, 0
    for at, character in enumerate(text):
        if character == "(":
            if depth == 0:
                parts.append(text[begin:at])
                begin = at
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                parts.append(text[begin : at + 1])
                begin = at + 1
    return [part for part in [*parts, text[begin:]] if part]


def _own_weight(inner: str) -> tuple[str, float | None]:
    """Split the content of a pair of parentheses into text and the number after the last colon (None if there is
    none)."""
    words, colon, number = inner.rpartition(":")
    if not (colon and words):
        return inner, None
    try:
        weight = float(number)
    except ValueError:
        return inner, None
    if not math.isfinite(weight) or abs(weight) > MAX_WEIGHT:
        raise ValueError(
            f"the weight {number.strip()[:20]} in a prompt is not valid; accepted are numbers from {-MAX_WEIGHT:g} to "
            f"{MAX_WEIGHT:g}, as in (fox:1.3)"
        )
    return words, weight
