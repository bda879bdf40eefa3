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
    """Let the server answer `POST /artv/NAME` for each of these. Answers are computed in a thread, so the server never
    waits for them."""
    for name, answer in answers.items():
        PromptServer.instance.routes.post(f"/artv/{name}")(_handler(answer))


def _handler(answer: Answer) -> Callable[[web.Request], Any]:
    async def handle(request: web.Request) -> web.Response:
        try:
            return web.json_response(await asyncio.to_thread(answer, await _question(request)))
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)

    return handle


async def _question(request: web.Request) -> dict[str, Any]:
    if (request.content_length or 0) > MAX_QUESTION_BYTES:
        raise ValueError(f"the request has {request.content_length} bytes; accepted are up to {MAX_QUESTION_BYTES}")
    try:
        question = json.loads(await request.read())
    except (ValueError, RecursionError):
        raise ValueError("the request is not JSON; send a JSON object") from None
    if not isinstance(question, dict):
        raise ValueError("the request is not a JSON object; send one, even an empty {}")
    return question
