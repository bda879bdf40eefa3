"""A folder of journals: the files in it, the lock of each, and what processes left behind that died."""

from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..files.file_locks import acquire
from .journal_file import SUFFIX

FOLDER = "artv_journals"
"""What the folder of journals is called inside a folder of outputs."""


def newest_first(folder: Path) -> list[Path]:
    """The files of a folder that are called as journals are; none where it cannot be read."""
    with suppress(OSError):
        paths = [path for path in folder.iterdir() if path.suffix == SUFFIX and path.is_file()]
        return sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    return []


def lock_journal(path: Path) -> FileLock | None:
    """The right to append to a journal, or None while another has it. It ends with the process."""
    try:
        return acquire(lock_path(path), timeout=0)
    except Timeout:
        return None


def lock_path(path: Path) -> Path:
    """The lock file of a journal, hidden beside it."""
    return path.with_name(f".{path.name}.lock")


def sweep(folder: Path) -> None:
    """Remove what a process left that died while it made a journal."""
    for partial in folder.glob(f".*{SUFFIX}.partial"):
        path = folder / partial.name.removeprefix(".").removesuffix(".partial")
        lock = lock_journal(path)
        if lock is not None:
            lock.release()
            remove_quietly(partial, *([] if path.exists() else [lock_path(path)]))


def remove_quietly(*paths: Path) -> None:
    """Remove files; those that cannot be removed stay."""
    for path in paths:
        with suppress(OSError):
            path.unlink()
