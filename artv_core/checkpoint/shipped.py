"""The checkpoints that come with this package, and how a name or path finds a checkpoint."""

import os
import re
from pathlib import Path

from ..files.tensor_file import broken_link

PACKAGE = Path(__file__).parents[1]
PREFERRED = ("small", "tiny")
"""The default checkpoint is the first of these that this package has."""


def default_name() -> str:
    """The name of the checkpoint that is used where none is named: "small", or "tiny" if the package has only that."""
    shipped = _shipped()
    return next((name for name in PREFERRED if name in shipped), PREFERRED[0])


def shipped_checkpoint(name: str | None = None) -> Path:
    """The newest `NAME-v*.safetensors` in this package; None is the default checkpoint. Raises ValueError, which lists
    the names, if there is none."""
    shipped, name = _shipped(), default_name() if name is None else name
    if name not in shipped:
        raise ValueError(f"no checkpoint {name!r} comes with this package; it has: {', '.join(shipped) or 'none'}")
    return shipped[name]


def shipped_names() -> list[str]:
    """The names of the checkpoints in this package, sorted."""
    return list(_shipped())


def resolve_checkpoint(name_or_path: str | Path | None) -> Path:
    """The path of a checkpoint, given as a path or as the name of a shipped checkpoint such as "small"; None is the
    default one. Raises ValueError if there is none."""
    if name_or_path is None:
        return shipped_checkpoint()
    path = Path(name_or_path)
    shipped = _shipped()
    if str(name_or_path) in shipped and not path.is_file():
        return shipped[str(name_or_path)]
    if not os.path.exists(path):  # Path.exists raises if a name is too long
        none = broken_link(path) or f"no such checkpoint: {path}"
        raise ValueError(f"{none}; shipped with this package: {', '.join(shipped) or 'none'}")
    return path


def _shipped() -> dict[str, Path]:
    folder = PACKAGE / "checkpoints"
    versions: dict[str, tuple[tuple[int, ...], Path]] = {}
    for path in folder.glob("*.safetensors"):
        match = re.fullmatch(r"(.+)-v(\d+(?:\.\d+)*)", path.stem)
        if match:
            version = tuple(int(number) for number in match[2].split("."))
            versions[match[1]] = max(versions.get(match[1], (version, path)), (version, path))
    return {name: path for name, (_, path) in sorted(versions.items())}
