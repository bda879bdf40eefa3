"""The server of the page: its files, and one WebSocket for pictures and words. It listens on this computer only, and
answers only its own page. Not in the paper."""

import asyncio
import json
import logging
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from ..files.partial_file import reason
from ..run.steered_track import MAX_CHARACTERS
from .answers import MAX_BYTES, answer
from .session import BACK_SECONDS, Session
from .words import advice, grouped, knows_directions

ADDRESS, HTTP_PORT = "127.0.0.1", 80
SOCKET = "/socket"
FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/stage.js": ("stage.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self' ws://127.0.0.1:* ws://localhost:*; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
PICTURE = struct.Struct("<II")
"""Before the data of a picture: the frame's index, and the take."""

LEAVE_SECONDS, FIRST_PAGE_SECONDS = 60.0, 900.0
"""The server ends this long after its page was closed, or if none was ever opened."""

_LOOK_SECONDS, _ROUND_SECONDS = 0.2, 0.02
_REPLACED = 4001
_SILENT = logging.getLogger("artv.play")  # what strangers send is no news for the terminal
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


class PlayServer:
    """Serves the page of a session. One page at a time: a page that is opened later takes over."""

    def __init__(
        self,
        session: Session,
        stopped: threading.Event,
        leave_after: float = LEAVE_SECONDS,
        first_page_after: float = FIRST_PAGE_SECONDS,
    ) -> None:
        """The server ends soon after `stopped` is set."""
        self.session, self._stopped, self._leave_after = session, stopped, leave_after
        self._viewer: _Viewer | None = None
        self._leave_at = time.monotonic() + first_page_after
        self._hosts: set[str] = set()

    async def run(self, port: int, on_open: Callable[[str], None]) -> None:
        """Serve on this port (0: any free one) until the page is gone or `stopped` is set. `on_open` is called with the
        page's address. Raises ValueError if the port cannot be used."""
        loop = asyncio.get_running_loop()
        try:
            server = await serve(
                self._meet,
                ADDRESS,
                port,
                process_request=self._greet,
                compression=None,
                max_size=MAX_BYTES,
                server_header=None,
                logger=_SILENT,
            )
        except OSError as error:
            raise ValueError(f"cannot use port {port}: {reason(error)}; choose another --port, or 0") from None
        async with server:
            port = _port_of(server)
            self._hosts = hosts(port)
            self.session.on_change = lambda: _from_thread(loop, self._wake)
            on_open(f"http://{ADDRESS}:{port}/")
            while not self._stopped.is_set() and (self._viewer is not None or time.monotonic() < self._leave_at):
                await asyncio.sleep(min(_LOOK_SECONDS, self._leave_after))

    def _wake(self) -> None:
        if self._viewer is not None:
            self._viewer.news.set()

    def _greet(self, _: ServerConnection, request: Request) -> Response | None:
        """The page's files; None for its socket. Pages of other origins are refused, also under a name of theirs that
        leads here."""
        if request.headers.get_all("Host") not in [[host] for host in self._hosts]:
            return _response(HTTPStatus.FORBIDDEN, b"this server answers only on its own address\n")
        path = request.path.partition("?")[0]
        if path == SOCKET:
            if request.headers.get_all("Origin") in [[f"http://{host}"] for host in self._hosts]:
                return None
            return _response(HTTPStatus.FORBIDDEN, b"this server answers only its own page\n")
        if path not in FILES:
            return _response(HTTPStatus.NOT_FOUND, b"there is no such file\n")
        name, kind = FILES[path]
        return _response(HTTPStatus.OK, Path(__file__).with_name(name).read_bytes(), kind)

    async def _meet(self, socket: ServerConnection) -> None:
        before, viewer = self._viewer, _Viewer(self.session, socket)
        self._viewer = viewer
        if before is not None:
            with suppress(ConnectionClosed):
                await before.socket.close(_REPLACED, "opened in another page")
        telling = asyncio.create_task(viewer.tell())
        try:
            await viewer.listen()
        finally:
            telling.cancel()
            if self._viewer is viewer:
                self._viewer, self._leave_at = None, time.monotonic() + self._leave_after
        with suppress(asyncio.CancelledError, ConnectionClosed):
            await telling


class _Viewer:
    """One page. What it is told next is gathered here: of each kind of answer only the last, so that it stays small
    however much the page sends."""

    def __init__(self, session: Session, socket: ServerConnection) -> None:
        self.session, self.socket = session, socket
        self.news = asyncio.Event()
        self._answers: dict[str, dict[str, Any]] = {}
        self._number = 0  # of the last picture that was sent
        self._told: dict[str, Any] = {}

    async def listen(self) -> None:
        """Take messages until the page is gone."""
        with suppress(ConnectionClosed):
            async for message in self.socket:
                answered = answer(self.session, message)
                if answered is not None:
                    self._answers[answered["to"]] = answered
                    self.news.set()

    async def tell(self) -> None:
        """Send what is new, until the page is gone."""
        with suppress(ConnectionClosed):
            await self._send("hello", about(self.session))
            while True:
                await self._tell_news()
                await asyncio.sleep(_ROUND_SECONDS)
                await self.news.wait()

    async def _tell_news(self) -> None:
        self.news.clear()
        await self._send_new("prompts", {"prompts": self.session.prompts()})
        await self._send_new("status", self.session.status())
        pictures = self.session.pictures_after(self._number)
        answers, self._answers = self._answers, {}  # so that a step back is answered before its pictures come
        for answered in answers.values():
            if "text" in answered:
                answered["advice"] = advice(self.session.pipeline.model, answered["text"])
            await self._send("answer", answered)
        for picture in pictures:
            await self.socket.send(PICTURE.pack(picture.index, picture.take) + picture.data)
            self._number = picture.number

    async def _send_new(self, kind: str, content: dict[str, Any]) -> None:
        if self._told.get(kind) != content:
            self._told[kind] = content
            await self._send(kind, content)

    async def _send(self, kind: str, content: dict[str, Any]) -> None:
        await self.socket.send(json.dumps({"kind": kind, **content}))


def hosts(port: int) -> set[str]:
    """How browsers may call this server. They leave out HTTP's usual port."""
    names = (ADDRESS, "localhost")
    return {f"{name}:{port}" for name in names} | (set(names) if port == HTTP_PORT else set())


def about(session: Session) -> dict[str, Any]:
    """What a page is told first: about the model and the video."""
    config, options = session.pipeline.model.config, session.run.request.options
    return {
        "model": config.name,
        "fps": config.fps,
        "width": options.width,
        "height": options.height,
        "steps": options.steps,
        "total": session.total,
        "groups": grouped(config.vocabulary),
        "directions": knows_directions(config.vocabulary),
        "most_characters": MAX_CHARACTERS,
        "back_seconds": BACK_SECONDS,
    }


def _response(status: HTTPStatus, body: bytes, kind: str = "text/plain") -> Response:
    length = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body)), "Connection": "close"}
    return Response(status.value, status.phrase, Headers({**HEADERS, **length}), body)


def _port_of(server: Server) -> int:
    return next(iter(server.sockets)).getsockname()[1]


def _from_thread(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(call)
