"""Words of prompts that a model does not know: found when a run begins, and for the page before it begins.

The text of a prompt goes along with its CONDITIONING (see `prompt_track.TEXT_KEY`): the CLIP of ARTV Loader and ARTV
Multi-Prompt Scheduler put it there. Other CLIPs do not, and a run then says nothing about their words.
"""

import logging
import re
from typing import Any

from ..artv_core.config import ARTVConfig
from ..artv_core.models.known_words import (
    MOST_SHOWN,
    UnknownWord,
    clipped,
    unknown_words,
    without_comments,
    words_warning,
)
from .prompt_track import TEXT_KEY, Conditioning

logger = logging.getLogger(__name__)

MAX_WORDS = 10_000
MAX_TEXTS = 50_000
_EMBEDDING = re.compile(r"embedding:\S+")


def warn_of_words(config: ARTVConfig, *prompts: Conditioning | None) -> dict[str, Any] | None:
    """Write one line to the log if the prompts have words that the model does not know. Returns what the page is told
    of them (see `_told`) with the name of the `model`, or None."""
    texts = [str(options.get(TEXT_KEY, "")) for conditioning in prompts for _, options in conditioning or ()]
    unknown = _unknown(texts, config.vocabulary)
    if not unknown:
        return None
    where = "the panel of ARTV Loader lists the words it knows"
    logger.warning("ARTV: %s; %s", words_warning(config.name, unknown), where)
    return {"model": config.name, **_told(unknown)}


def answer_words(question: dict[str, Any]) -> dict[str, Any]:
    """`POST /artv/words {texts, vocabulary}`: which words of the texts are not in the vocabulary of a model. Returns
    what `_told` does. Texts are as in the page's boxes: comments, which the page takes out of them, do not count."""
    texts, vocabulary = _strings(question, "texts", MAX_TEXTS), _strings(question, "vocabulary", MAX_WORDS)
    return _told(_unknown([without_comments(text) for text in texts], vocabulary))


def _unknown(texts: list[str], vocabulary: list[str] | tuple[str, ...]) -> list[UnknownWord]:
    return unknown_words([_EMBEDDING.sub(" ", text) for text in texts], vocabulary)


def _told(unknown: list[UnknownWord]) -> dict[str, Any]:
    """`words`: the first unknown words, each with the known word that is close to it or null; `more`: how many others
    there are."""
    words = [[clipped(one.word), one.near] for one in unknown[:MOST_SHOWN]]
    return {"words": words, "more": max(0, len(unknown) - MOST_SHOWN)}


def _strings(question: dict[str, Any], name: str, most: int) -> list[str]:
    value = question.get(name)
    if not isinstance(value, list) or len(value) > most or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{name} is not a list of texts; accepted are up to {most} of them")
    return value
