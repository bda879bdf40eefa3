"""A short hash of a file's contents. Not in the paper."""

import hashlib
from pathlib import Path

from .partial_file import reason


def file_hash(path: str | Path, advice: str = "") -> str:
    """16 hexadecimal digits. Raises ValueError, which ends in `advice`, if the file cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise ValueError(f"cannot read {path}: {reason(error)}{advice and f'; {advice}'}") from None
