"""Requests from the page to the server under `/artv/`: JSON in, JSON out, next to the host's own messages."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web
from server import PromptServer

MAX_QUESTION_BYTES = 8_000_000

Answer = Callable[[dict[str, Any]], dict[str, Any]]
"""Takes a request and returns the reply; raises ValueError if it cannot be answered."""


def add_routes(answers: Mapping[str, Answer]) -> None:
    """Let the server answer `POST /artv/NAME` for each of these. They are read and answered in a thread, so the
    server never waits for them."""
    for name, answer in answers.items():
        PromptServer.instance.routes.post(f"/artv/{name}")(_handler(answer))


def _handler(answer: Answer) -> Callable[[web.Request], Any]:
    def answered(body: bytes) -> dict[str, Any]:
        return answer(_question(body))

    async def handle(request: web.Request) -> web.Response:
        try:
            return web.json_response(await asyncio.to_thread(answered, await _body(request)))
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)

    return handle


async def _body(request: web.Request) -> bytes:
    """Raises ValueError once it is too long, also if its length was not told before (chunked)."""
    body = bytearray()
    async for part in request.content.iter_any():
        body += part
        if max(len(body), request.content_length or 0) > MAX_QUESTION_BYTES:
            raise ValueError(
                f"the request has more than {MAX_QUESTION_BYTES} bytes, the most that is accepted; send less"
            )
    return bytes(body)


def _question(body: bytes) -> dict[str, Any]:
    try:
        question = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the request is not JSON; send a JSON object") from None
    if not isinstance(question, dict):
        raise ValueError("the request is not a JSON object; send one, even an empty {}")
    return question
