"""Files that are written whole or not at all, and what is said of those that cannot be."""

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LEFT_BEHIND = re.compile(r"\.[0-9a-f]{16}\.partial")
"""Names of the files that a killed process was writing to."""

_CANNOT_FLUSH = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.ENOTTY}
_CANNOT_RENAME = {errno.EXDEV, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_IN_USE_SECONDS = (0.1, 0.3, 1.0)
"""Pauses between attempts to rename, for a program that looks at the file just now (Windows, network shares)."""


class PartialFile:
    """An empty file beside `target` (`path` is where) to be written to; `keep` gives it the target's name."""

    def __init__(self, target: str | Path) -> None:
        """Raises ValueError, one line, where no file can be made."""
        try:
            self.target, self._left = Path(os.path.realpath(target)), False
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
        """Flush it to the disk and put it in its target's place. Raises OSError where the disk has lost some of it, and
        ValueError where it is whole but its name cannot be given: then it stays, under the name that the error says."""
        with suppress(PermissionError), self.path.open("rb+") as file:
            flush_to_disk(file.fileno())
        with suppress(OSError):  # some libraries make it readable to its owner alone; some drives have no such modes
            self.path.chmod(self._mode)
        try:
            _put_in_place(self.path, self.target)
        except OSError as error:
            left = self._leave()
            raise ValueError(f"cannot write {self.target}: {reason(error)}; the finished file is {left}") from None

    def discard(self) -> None:
        """Remove it, unless it was kept."""
        if not self._left:
            with suppress(OSError):
                self.path.unlink()

    def _leave(self) -> Path:
        """Where it is to stay, under a name that people see if the drive lets it have one."""
        self._left = True
        if LEFT_BEHIND.fullmatch(self.path.name):
            shown = self.target.with_name(f"finished-{self.path.name[1:17]}{self.target.suffix}")
            with suppress(OSError):
                _put_in_place(self.path, shown)
                self.path = shown
        return self.path


def flush_to_disk(file: int) -> None:
    """Make the disk hold what was written to an open file (its number), where the drive can do that: some network
    drives cannot, and the file is no worse for it. Raises OSError where the disk is full or failed."""
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise


def can_flush(folder: Path) -> bool:
    """Whether the folder's drive can be made to hold what was written. Raises OSError where no file can be made."""
    probe = folder / f".{secrets.token_hex(8)}.partial"
    try:
        with probe.open("wb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise
        return False
    finally:
        with suppress(OSError):
            probe.unlink()
    return True


def _put_in_place(path: Path, target: Path) -> None:
    """Rename; where the drive cannot, or puts the folder's files on several disks, copy. Raises OSError."""
    for pause in (*_IN_USE_SECONDS, None):
        try:
            os.replace(path, target)
            return
        except PermissionError:
            if pause is None:
                raise
            time.sleep(pause)
        except OSError as error:
            if error.errno not in _CANNOT_RENAME:
                raise
            break
    new = not target.exists()
    try:
        shutil.copyfile(path, target)
    except OSError:
        if new:
            with suppress(OSError):
                target.unlink()
        raise
    with suppress(OSError):
        path.unlink()


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
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except OSError as error:  # a name that this drive does not take
        raise ValueError(f"cannot write {path}: {reason(error)}") from None


def reason(error: Exception) -> str:
    """One line of why: the system's own words where there are any."""
    strerror = getattr(error, "strerror", None)
    return strerror.lower() if strerror else one_line(" ".join(str(error).split()), 200) or type(error).__name__


def one_line(text: str, limit: int = 300) -> str:
    """One line of at most `limit` characters, all printable: names and messages may come from a hostile file."""
    shown = "".join(character if character.isprintable() else " " for character in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."
