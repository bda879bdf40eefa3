"""Files that are written whole or not at all, and what is said of those that cannot be."""

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LEFT_BEHIND = re.compile(r"\.[0-9a-f]{16}\.partial")
"""Names of the files that a killed process was writing to."""


class PartialFile:
    """An empty file beside `target` (`path` is where) to be written to; `keep` gives it the target's name."""

    def __init__(self, target: str | Path) -> None:
        """Raises ValueError, one line, where no file can be made."""
        try:
            self.target = Path(os.path.realpath(target))
            check_target(self.target)
            self.path = self.target.with_name(f".{secrets.token_hex(8)}.partial")
            self.path.touch(exist_ok=False)
            self._mode = stat.S_IMODE(self.path.stat().st_mode)
        except OSError as error:
            raise ValueError(f"cannot write {target}: {reason(error)}") from None

    def move(self, path: Path) -> None:
        """Let it lie at `path`, in the same folder, in place of what is there. Raises OSError."""
        os.replace(self.path, path)
        self.path = path

    def keep(self) -> None:
        """Flush it to the disk and put it in its target's place. Raises OSError."""
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        self.path.chmod(self._mode)  # some libraries put a file that only its owner can read in its place
        os.replace(self.path, self.target)

    def discard(self) -> None:
        """Remove it, unless it was kept."""
        with suppress(OSError):
            self.path.unlink()


@contextmanager
def replacing(target: str | Path) -> Iterator[Path]:
    """A path to write to, whose file becomes `target` when the block ends, and goes when the block raises. Raises
    ValueError, one line, where the file cannot be written, be it at once or later on."""
    file = PartialFile(target)
    try:
        yield file.path
        file.keep()
    except OSError as error:
        raise ValueError(f"cannot write {target}: {reason(error)}") from None
    finally:
        file.discard()


def check_writable(target: str | Path) -> None:
    """Raises ValueError, one line, where no file can be made at `target`. Nothing that is there is touched."""
    PartialFile(target).discard()


def check_target(path: Path) -> None:
    """Raises ValueError, one line, where what is at `path`, or its folder, does not let a file be put there."""
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder; give a file's name")
    if os.path.exists(path) and not path.is_file():
        raise ValueError(f"cannot write {path}: it is not an ordinary file")
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {path.parent}")
    if len(os.fsencode(path.name)) > 255:
        raise ValueError(f"cannot write {path.name[:40]}...: the name is too long")


def reason(error: Exception) -> str:
    """One line of why: the system's own words where there are any."""
    strerror = getattr(error, "strerror", None)
    return strerror.lower() if strerror else one_line(" ".join(str(error).split()), 200) or type(error).__name__


def one_line(text: str, limit: int = 300) -> str:
    """One line of at most `limit` characters, all printable: names and messages may come from a hostile file."""
    shown = "".join(character if character.isprintable() else " " for character in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."
