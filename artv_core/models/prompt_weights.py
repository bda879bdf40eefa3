r"""Weights in prompts, with the meaning that they have in ComfyUI: `a (red circle:1.3) and a (square)`.

Words in parentheses count 1.1 times as much, those in `((...))` 1.21 times, and those in `(...:1.3)` exactly 1.3 times,
whatever surrounds them. `\(` and `\)` are parentheses to be read as such. A parenthesis that is never closed, and a
number that is none, are words.
"""

import math
from typing import NamedTuple

STEP = 1.1
"""What a pair of parentheses without a number multiplies by."""

MAX_WEIGHT = 1000.0
MAX_DEPTH = 100

_OPEN, _CLOSE = "\0\2", "\0\1"  # escaped parentheses while the others are read


class WeightedText(NamedTuple):
    """A part of a prompt, as it is to be read, and how much it counts (1: as usual)."""

    text: str
    weight: float


def read_weights(prompt: str) -> list[WeightedText]:
    """The parts of a prompt in their order; none is empty. Raises ValueError, one line, on a weight that is no finite
    number or beyond `MAX_WEIGHT`, and on parentheses nested deeper than `MAX_DEPTH`."""
    escaped = prompt.replace("\\)", _CLOSE).replace("\\(", _OPEN)
    return [WeightedText(_literal(text), weight) for text, weight in _weighted(escaped, 1.0, 0) if text]


def without_weights(prompt: str) -> str:
    """The prompt's words alone. Raises as `read_weights`."""
    return "".join(part.text for part in read_weights(prompt))


def escape_parentheses(text: str) -> str:
    """A prompt from which all of `text` is read as it stands, parentheses too."""
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
    """Outermost pairs of parentheses, and what stands between them."""
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
    """What stands in a pair of parentheses, and the number after its last colon (None: there is none)."""
    words, colon, number = inner.rpartition(":")
    if not (colon and words):
        return inner, None
    try:
        weight = float(number)
    except ValueError:
        return inner, None
    if not math.isfinite(weight) or abs(weight) > MAX_WEIGHT:
        raise ValueError(
            f"the weight {number.strip()[:20]} in a prompt cannot be; accepted are numbers from {-MAX_WEIGHT:g} to "
            f"{MAX_WEIGHT:g}, as in (fox:1.3)"
        )
    return words, weight
