"""Words of prompts while a video is played: in groups to choose from, which of them are not known, and the direction of
a motion. Not in the paper."""

import re
from collections.abc import Sequence

from ..models.artv import ARTV
from ..models.known_words import unknown_words, words_warning
from ..models.prompt_weights import without_weights

DIRECTIONS = ("left", "right", "up", "down")

GROUPS = {
    "colours": "black white gray grey red orange yellow green blue purple pink brown",
    "looks": "small medium large striped plain",
    "movement": "moving left right up down fast slowly bouncing circling pulsing spinning swinging standing still",
    "places": "background brick city desert floor forest hills meadow night sandy sea sky snowy stars wall waves "
    "wooden clouds",
    "small words": "a an and at before in of on the with",
}
"""Words by what they are for. All others are things."""
THINGS = "things"
_LAST = "small words"
_MANY = 20

_WAY = "(?:left|right|up|down)"
_TURN = re.compile(rf"\bmoving(?:\s+(?:{_WAY}\s+and\s+{_WAY}|(?:up|down)\s+(?:left|right)|{_WAY})\b)?")
_OTHER_MOTION = re.compile(r"\b(?:standing still|bouncing|circling|pulsing|spinning|swinging)\b")
_PLACE = re.compile(r"\s+(?:on|before|in|at|with)\s")


def grouped(vocabulary: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The words of a vocabulary in groups (name, words) that are not empty. Things are first, or last if they are
    many."""
    group_of = {word: name for name, words in GROUPS.items() for word in words.split()}
    names = [THINGS, *(name for name in GROUPS if name != _LAST), _LAST]
    groups: dict[str, list[str]] = {name: [] for name in names}
    places = {word: place for place, word in enumerate(group_of)}
    for word in sorted(vocabulary, key=lambda word: places.get(word, 0)):  # the order of `GROUPS`, things as they are
        groups[group_of.get(word, THINGS)].append(word)
    if len(groups[THINGS]) > _MANY:
        groups[THINGS] = groups.pop(THINGS)
    return [(name, words) for name, words in groups.items() if words]


def knows_directions(vocabulary: Sequence[str]) -> bool:
    """Whether a model with this vocabulary was trained on things that move left, right, up and down."""
    return {"moving", *DIRECTIONS} <= set(vocabulary)


def turned(text: str, direction: str) -> str:
    """The prompt with a motion in another direction: in place of its motion, else before its place, else at its end.
    Raises ValueError on another direction."""
    if direction not in DIRECTIONS:
        raise ValueError(f"the direction is {direction[:20]!r}; accepted are {', '.join(DIRECTIONS)}")
    motion = f"moving {direction}"
    for pattern in (_TURN, _OTHER_MOTION):
        if pattern.search(text):
            return pattern.sub(motion, text, count=1)
    place = _PLACE.search(text)
    if place is None:
        return f"{text} {motion}"
    return f"{text[: place.start()]} {motion}{text[place.start() :]}"


def advice(model: ARTV, text: str) -> list[str]:
    """A line for each thing in a prompt that the model ignores: words beyond its text encoder, and words that it does
    not know."""
    plain, lines = text, []
    try:
        plain = without_weights(text)
    except ValueError:
        return []  # it is refused when it is said
    lost = [] if model.text is None else model.text.lost_words(plain)
    if lost:
        shown = " ".join(lost[:8]) + (f" and {len(lost) - 8} more" if len(lost) > 8 else "")
        lines.append(f"the prompt is too long for the text encoder; these words are ignored: {shown}")
    unknown = unknown_words([text], model.config.vocabulary)
    return [*lines, words_warning(model.config.name, unknown)] if unknown else lines
