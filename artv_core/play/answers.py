"""Messages of a page to a session, and the answers. Not in the paper.

A message is a JSON object: `{"do": "say", "text": "..."}`, `{"do": "turn", "direction": "left"}`, `{"do": "back"}`,
`{"do": "pause", "on": true}`, `{"do": "save"}`, `{"do": "shown", "index": 7, "take": 0}`, `{"do": "check", "text":
"..."}` (which of these words are not known?). Every message is answered, except `shown` and a `pause` that is taken.
"""

import json
from collections.abc import Callable
from typing import Any

from ..run.steered_track import MAX_CHARACTERS
from .session import Session

MAX_BYTES = 2**18
"""Of a message."""

Answer = dict[str, Any]


def answer(session: Session, message: str | bytes) -> Answer | None:
    """Do what a message says. The answer has `to` (what was to be done, "message" if that is not known), and `problem`
    (one line) if it cannot be done. Never raises on a message."""
    name = "message"
    try:
        said = _read(message)
        name = said["do"]
        return _ACTIONS[name](session, said)
    except ValueError as error:
        return {"to": name, "problem": " ".join(str(error).split())}


def _read(message: str | bytes) -> dict[str, Any]:
    try:
        said = json.loads(message) if isinstance(message, str) else None
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or not isinstance(said.get("do"), str) or said["do"] not in _ACTIONS:
        raise ValueError(f'this is not a message of the page; accepted is {{"do": ...}} with {", ".join(_ACTIONS)}')
    return said


def _say(session: Session, said: dict[str, Any]) -> Answer:
    session.say(_text(said))
    return {"to": "say", "text": session.text}


def _turn(session: Session, said: dict[str, Any]) -> Answer:
    direction = said.get("direction")
    session.turn(direction if isinstance(direction, str) else str(direction))
    return {"to": "turn", "text": session.text}


def _back(session: Session, _: dict[str, Any]) -> Answer:
    return {"to": "back", "frame": session.back()}


def _pause(session: Session, said: dict[str, Any]) -> None:
    if not isinstance(said.get("on"), bool):
        raise ValueError('pause needs "on": true or false')
    session.pause(said["on"])


def _save(session: Session, _: dict[str, Any]) -> Answer:
    session.save()
    return {"to": "save"}


def _shown(session: Session, said: dict[str, Any]) -> None:
    index, take = said.get("index"), said.get("take")
    if type(index) is not int or type(take) is not int:
        raise ValueError('shown needs the numbers "index" and "take"')
    session.shown(index, take)


def _check(_: Session, said: dict[str, Any]) -> Answer:
    return {"to": "check", "text": _text(said)[:MAX_CHARACTERS]}


def _text(said: dict[str, Any]) -> str:
    if not isinstance(said.get("text"), str):
        raise ValueError(f'{said["do"]} needs a "text"')
    return said["text"]


_ACTIONS: dict[str, Callable[[Session, dict[str, Any]], Answer | None]] = {
    "say": _say,
    "turn": _turn,
    "back": _back,
    "pause": _pause,
    "save": _save,
    "shown": _shown,
    "check": _check,
}
