"""The file that FFmpeg writes to."""

import os
from collections.abc import Callable
from pathlib import Path


class Sink:
    """The file that FFmpeg writes to. FFmpeg writes to memory, and `flush` writes that to the file. So a full disk or
    Ctrl-C cannot raise inside FFmpeg, which would lose the error and leave the file open. `check` raises the first
    error; data after it is dropped."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._file = path.open("w+b", buffering=0)
        self._pending: list[bytes] = []
        self.write = self._pending.append  # written in C, so that no signal handler runs inside it
        self._error: OSError | None = None

    def seek(self, offset: int, whence: int = 0) -> int:
        """Flush, then move to a position. Returns the new position."""
        self.flush()
        return self._attempt(lambda: self._file.seek(offset, whence))

    def tell(self) -> int:
        """The position, including data that is still in memory."""
        return self._attempt(self._file.tell) + sum(map(len, self._pending))

    def flush(self) -> None:
        """Write the data in memory to the file."""
        if self._error is None:
            self._attempt(self._write_out)
        if self._error is not None:
            self._pending.clear()

    def close(self) -> None:
        """Flush, and close the file."""
        self.flush()
        self._attempt(self._file.close)

    def check(self) -> None:
        """Raises the first OSError that occurred, if any."""
        if self._error is not None:
            raise self._error

    def _write_out(self) -> None:
        """Write all data or none: no player opens an MP4 that ends inside a fragment's header."""
        data = b"".join(self._pending)
        if not data:
            return
        start, size = self._file.tell(), os.fstat(self._file.fileno()).st_size
        try:
            done = 0
            while done < len(data):
                done += self._file.write(data[done:])
        except BaseException:
            self._file.seek(start)
            self._file.truncate(size)
            raise
        self._pending.clear()

    def _attempt(self, action: Callable[[], int | None]) -> int:
        try:
            return action() or 0
        except OSError as error:
            self._error = self._error or error
            return 0
