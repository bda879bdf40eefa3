"""A folder of journals: its files, their locks, and removal of files that killed processes left behind."""

from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..files.file_locks import acquire
from .journal_file import SUFFIX

FOLDER = "artv_journals"
"""Name of the folder of journals inside a folder of outputs."""

SIDECAR = ".steering.json"
"""Beside the journal of a steered run: what was said and which seeds were taken, as JSON."""


def newest_first(folder: Path) -> list[Path]:
    """The files in a folder with the ending of journals, newest first. Empty if the folder cannot be read."""
    found: list[tuple[int, str, Path]] = []
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):  # a file that was removed meanwhile hides no other
                if path.suffix == SUFFIX and path.is_file():
                    found.append((path.stat().st_mtime_ns, path.name, path))
    return [path for _, _, path in sorted(found, reverse=True)]


def lock_journal(path: Path) -> FileLock | None:
    """Lock a journal for appending. None if another process holds the lock. The lock ends with the process."""
    try:
        return acquire(lock_path(path), timeout=0)
    except Timeout:
        return None


def lock_path(path: Path) -> Path:
    """The path of a journal's lock file, a hidden file beside it."""
    return path.with_name(f".{path.name}.lock")


def sidecar_path(path: Path) -> Path:
    """The path of the file beside a journal that says how its run was steered."""
    return path.with_name(path.name.removesuffix(SUFFIX) + SIDECAR)


def sweep(folder: Path) -> None:
    """Remove the files that a process left if it died while it made a journal. Files of another user may stay."""
    for partial in folder.glob(f".*{SUFFIX}.partial"):
        path = folder / partial.name.removeprefix(".").removesuffix(".partial")
        with suppress(OSError):
            lock = lock_journal(path)
            if lock is not None:
                lock.release()
                remove_quietly(partial, *([] if path.exists() else [lock_path(path)]))


def remove_quietly(*paths: Path) -> None:
    """Remove files. Files that cannot be removed are ignored."""
    for path in paths:
        with suppress(OSError):
            path.unlink()
