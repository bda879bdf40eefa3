"""Locks between processes, which end with the process that holds them.

Some drives have no locks: network shares without a lock service, and some that a program or another system provides.
There nobody waits for anybody, which is better than not to work at all. Not in the paper.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.ENOTTY}
"""What the system answers where a drive has no locks."""


def acquire(path: str | Path, timeout: float = -1) -> FileLock:
    """The lock that the file `path` stands for, to be released. Waits `timeout` seconds for another process that has
    it; below 0, as long as it takes. Where the drive has no locks, one that keeps nobody out.

    Raises Timeout where another process still has it, OSError where the file cannot be made.
    """
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not _has_locks(path):  # some versions of filelock take every fault for another process
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
    """Hold the lock inside the block; others wait."""
    lock = acquire(path)
    try:
        yield
    finally:
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
