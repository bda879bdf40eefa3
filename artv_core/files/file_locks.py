"""Locks between processes. A lock ends when the process that holds it ends.

Some drives do not support locks, such as network shares without a lock service, and some virtual drives. On these
drives no process waits for another: running without locks is better than not running. Not in the paper.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.ENOTTY}
"""The system's error numbers for a drive that does not support locks."""


def acquire(path: str | Path, timeout: float = -1) -> FileLock:
    """Acquire the lock of the lock file `path`; the caller releases it. If another process holds it, wait up to
    `timeout` seconds, or without a limit if `timeout` is negative. On a drive without locks, the returned lock keeps
    no other process out.

    Raises Timeout if another process still holds the lock, OSError if the lock file cannot be made.
    """
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not _has_locks(path):  # some versions of filelock report every error as Timeout
            return lock
        if timeout == 0:
            raise
        lock.acquire(timeout=timeout)
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    return lock


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold the lock inside the block; other processes wait."""
    lock = acquire(path)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Keep others that ask from writing `path` inside the block. The lock is a hidden file beside it, and is removed at
    the end; where no such file can be made, nobody is kept out. Raises ValueError if another one is writing `path`."""
    lock_file, lock = path.with_name(f".{path.name}.lock"), None
    try:
        lock = acquire(lock_file, timeout=0)
    except Timeout:
        raise ValueError(
            f"cannot write {path}: another run is writing it; wait until that run ends, or choose another name"
        ) from None
    except OSError:  # it is another user's, or its name is too long
        pass
    try:
        yield
    finally:
        if lock is not None:
            with suppress(OSError):
                lock_file.unlink()
            lock.release()


def _has_locks(path: str | Path) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    file = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in WITHOUT_LOCKS
    finally:
        os.close(file)
    return True
