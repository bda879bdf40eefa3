"""Files that are written whole or not at all, and error messages for files that cannot be written."""

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
"""Names of temporary files. A process that was killed leaves such a file behind."""

_CANNOT_FLUSH = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.ENOTTY}
_CANNOT_RENAME = {errno.EXDEV, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_IN_USE_SECONDS = (0.1, 0.3, 1.0)
"""Pauses between attempts to rename, while another program has the file open (Windows, network shares)."""


class PartialFile:
    """A temporary file in the folder of `target`. Write to its `path`; `keep` then renames it to `target`."""

    def __init__(self, target: str | Path) -> None:
        """Raises ValueError if the file cannot be made."""
        try:
            self.target, self._left = Path(os.path.realpath(target)), False
            check_target(self.target)
            self.path = self.target.with_name(f".{secrets.token_hex(8)}.partial")
            self.path.touch(exist_ok=False)
            self._mode = stat.S_IMODE(self.path.stat().st_mode)
        except OSError as error:
            raise ValueError(f"cannot write {target}: {reason(error)}") from None

    def move(self, path: Path) -> None:
        """Rename the temporary file to `path`, in the same folder, and replace any file there. Raises OSError."""
        os.replace(self.path, path)
        self.path = path

    def keep(self) -> None:
        """Flush the file to the disk and rename it to the target. Raises OSError if the flush fails. Raises ValueError
        if the file is complete but cannot be renamed: then it is not deleted, and the error says where it is."""
        with suppress(PermissionError), self.path.open("rb+") as file:
            flush_to_disk(file.fileno())
        with suppress(OSError):  # some libraries make the file readable only to its owner; some drives have no modes
            self.path.chmod(self._mode)
        try:
            _put_in_place(self.path, self.target)
        except OSError as error:
            left = self._leave()
            raise ValueError(f"cannot write {self.target}: {reason(error)}; the finished file is {left}") from None

    def discard(self) -> None:
        """Remove the temporary file, if it still exists. A complete file that `keep` could not rename stays."""
        if not self._left:
            with suppress(OSError):
                self.path.unlink()

    def _leave(self) -> Path:
        """Make the file stay, under a name that is not hidden if the drive allows it. Returns its path."""
        self._left = True
        if LEFT_BEHIND.fullmatch(self.path.name):
            shown = self.target.with_name(f"finished-{self.path.name[1:17]}{self.target.suffix}")
            with suppress(OSError):
                _put_in_place(self.path, shown)
                self.path = shown
        return self.path


def flush_to_disk(file: int) -> None:
    """Flush an open file, given by its descriptor, to the disk. Drives that cannot flush, such as some network drives,
    are not an error. Raises OSError if the disk is full or fails."""
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise


def can_flush(folder: Path) -> bool:
    """Whether the folder's drive can flush files to the disk. Raises OSError if no file can be made in the folder."""
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
    """Rename the file. Copy it if the drive cannot rename or keeps the folder on several disks. Raises OSError."""
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
    """Gives a path to write to. The file becomes `target` when the block ends, and is removed if the block raises.
    Raises ValueError if the file cannot be written, at the start or later."""
    file = PartialFile(target)
    try:
        yield file.path
        file.keep()
    except OSError as error:
        raise ValueError(f"cannot write {target}: {reason(error)}") from None
    finally:
        file.discard()


def check_writable(target: str | Path) -> None:
    """Raises ValueError if no file can be made at `target`. An existing file is not changed."""
    PartialFile(target).discard()


def check_target(path: Path) -> None:
    """Raises ValueError if a file cannot be put at `path`: it is a folder or a special file, its folder does not exist,
    or the drive does not accept the name."""
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
    except OSError as error:  # a name that this drive does not accept
        raise ValueError(f"cannot write {path}: {reason(error)}") from None


def reason(error: Exception) -> str:
    """The reason for an error on one line: the system's message if there is one."""
    strerror = getattr(error, "strerror", None)
    return strerror.lower() if strerror else one_line(" ".join(str(error).split()), 200) or type(error).__name__


def one_line(text: str, limit: int = 300) -> str:
    """`text` on one line of at most `limit` printable characters: names and messages may come from a hostile file."""
    shown = "".join(character if character.isprintable() else " " for character in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."
