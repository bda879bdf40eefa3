"""Output to a terminal, also to one that cannot show every character."""

import functools
import sys
from contextlib import suppress

USER_ERROR = 2
"""Exit code after an error that the user can fix."""

INTERRUPTED = 130
"""Exit code of a run that was stopped by Ctrl-C. Its finished frames are kept."""


def escape_unprintable() -> None:
    """Make stdout and stderr show characters that their encoding lacks as escapes (`\\u043f`). Without this, a file
    name could end a command with UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):  # missing, closed, or replaced by another object
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def say(message: str) -> None:
    """Print one line for the user on stderr."""
    print("artv:", " ".join(message.split()), file=sys.stderr)


@functools.cache
def version() -> str:
    """Version of the installed package."""
    from importlib import metadata

    try:
        return metadata.version("comfyui-artv")
    except metadata.PackageNotFoundError:
        return "(not installed)"
