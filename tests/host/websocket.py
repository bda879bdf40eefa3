"""Just enough of RFC 6455 to listen to a server on this machine, so that the tests need no package for it."""

import base64
import os
import socket
import struct
from collections.abc import Iterator

TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9


class WebSocket:
    def __init__(self, host: str, port: int, path: str, timeout: float) -> None:
        self._socket = socket.create_connection((host, port), timeout)
        self._buffer = b""
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise ConnectionError(f"no websocket at {path}: {head[:80]!r}")

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """(TEXT or BINARY, payload) until the server closes. Raises TimeoutError when it stays silent."""
        payload = b""
        kind = TEXT
        while True:
            first, second = self._take(2)
            opcode, length = first & 0x0F, second & 0x7F
            if length >= 126:
                length = struct.unpack(">H" if length == 126 else ">Q", self._take(2 if length == 126 else 8))[0]
            data = self._take(length)
            if opcode == CLOSE:
                return
            if opcode == PING:
                self._socket.sendall(bytes([0x8A, 0x80 | len(data)]) + bytes(4) + data)
                continue
            kind = opcode or kind  # 0 goes on with the message before
            payload += data
            if first & 0x80:
                yield kind, payload
                payload = b""

    def close(self) -> None:
        self._socket.close()

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._receive()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def _receive(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._buffer += data
