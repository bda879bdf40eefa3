"""Words of prompts that a model with a closed vocabulary does not know. Such a model was trained on captions of few
words; it ignores all others. Not in the paper."""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from difflib import SequenceMatcher, get_close_matches
from typing import NamedTuple

from .prompt_weights import without_weights

MOST_SHOWN = 8
"""The number of unknown words that a message names."""

MOST_LETTERS = 24
# Ratios of difflib: "grey" is close to "gray", and "boat" partly to "sailboat".
_CLOSE, _PARTLY = 0.75, 0.65
_CANDIDATES = 5
_ENDINGS = re.compile(r"(?<=[^\W\d_])['\u2019](?:s|t|re|ve|m|ll|d)\b")  # tokens of their own
_COMMENT_BEGINS = re.compile(r"/[*/]")
_WORD = re.compile(r"[^\W\d_]+|\d+")


class UnknownWord(NamedTuple):
    """A word in lower case, and the known word that is close to it, if there is one."""

    word: str
    near: str | None = None


def words_of(text: str) -> list[str]:
    """The words of a prompt in lower case, in order, without the syntax of weights."""
    with suppress(ValueError):  # whoever encodes the text tells what is wrong with its weights
        text = without_weights(text)
    return _WORD.findall(_ENDINGS.sub(" ", text.lower()))


def without_comments(text: str) -> str:
    """The text with a space for each comment, `/* */` or `//` to the end of the line, as ComfyUI's page removes them.

    Takes time in proportion to the text. One pattern for both kinds would search all the rest at each `/*` that nothing
    closes.
    """
    kept, at, begin = [], 0, 0
    last_close = text.rfind("*/")
    while found := _COMMENT_BEGINS.search(text, begin):
        if found[0] == "/*" and last_close < found.end():
            begin = found.start() + 1
            continue
        kept.append(text[at : found.start()])
        at = begin = _comment_end(text, found)
    return " ".join([*kept, text[at:]])


def _comment_end(text: str, begin: re.Match[str]) -> int:
    if begin[0] == "/*":
        return text.find("*/", begin.end()) + 2
    line_end = text.find("\n", begin.end())
    return len(text) if line_end < 0 else line_end


def unknown_words(texts: Iterable[str], vocabulary: Sequence[str]) -> list[UnknownWord]:
    """The words of `texts` that are not in `vocabulary`, each once, in order. An empty vocabulary is an open one: no
    word is unknown. Only the first `MOST_SHOWN` come with a close word."""
    if not vocabulary:
        return []
    known = {part: word for word in vocabulary for part in words_of(word)}
    unknown = dict.fromkeys(word for text in texts for word in words_of(text) if word not in known)
    return [UnknownWord(word, _near(word, known) if place < MOST_SHOWN else None) for place, word in enumerate(unknown)]


def words_warning(name: str, unknown: Sequence[UnknownWord]) -> str:
    """One line about the unknown words of prompts for the model `name`. `unknown` must not be empty."""
    shown = ", ".join(_shown(one) for one in unknown[:MOST_SHOWN])
    more = len(unknown) - MOST_SHOWN
    return f"{name} does not know these words and ignores them: {shown}{f' and {more} more' if more > 0 else ''}"


def _near(word: str, known: dict[str, str]) -> str | None:
    """The closest known word that begins like this one, else one that is a part of it or that it is a part of."""
    word = word[:MOST_LETTERS]
    found = [one for one in get_close_matches(word, known, _CANDIDATES, _PARTLY) if min(len(one), len(word)) > 2]
    alike = [one for one in found if one[0] == word[0] and SequenceMatcher(None, one, word).ratio() >= _CLOSE]
    around = [one for one in found if word in one or one in word]
    best = next(iter(alike + [one for one in around if one[0] == word[0]] + around), None)
    return None if best is None else known[best]


def clipped(word: str) -> str:
    """The beginning of a word, for a message."""
    return word if len(word) <= MOST_LETTERS else f"{word[:MOST_LETTERS]}..."


def _shown(one: UnknownWord) -> str:
    return f"{clipped(one.word)} ({one.near}?)" if one.near else clipped(one.word)
