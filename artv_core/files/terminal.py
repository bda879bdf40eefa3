"""What is written to a terminal that cannot show it: names in other scripts, and names that are not even text."""

import functools
import sys
from contextlib import suppress

INTERRUPTED = 130
"""Exit code of a run that was stopped by Ctrl-C; what it made is kept."""


def escape_unprintable() -> None:
    """Let standard output and error show what their encoding lacks by escapes (`\\u043f`), instead of raising
    UnicodeEncodeError, which would end a command for the sake of a name. All that prints goes through them: lines,
    paths, progress bars, warnings."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):  # none at all, closed, or in the place of the usual one
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def say(message: str) -> None:
    """One line for the user, on stderr."""
    print("artv:", " ".join(message.split()), file=sys.stderr)


@functools.cache
def version() -> str:
    """Of the installed package."""
    from importlib import metadata

    try:
        return metadata.version("comfyui-artv")
    except metadata.PackageNotFoundError:
        return "(not installed)"
