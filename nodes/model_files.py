"""Finds model files: the shipped checkpoints, and `models/artv` of every path in the host's configuration."""

import os
from typing import Any

import folder_paths

from ..artv_core.checkpoint import default_name, shipped_checkpoint, shipped_names
from ..artv_core.files.tensor_file import broken_link

FOLDER = "artv"
ENDINGS = (".safetensors", ".sft")
"""Endings of the files in menus, in lower or upper case."""

NO_BASE = "none"
_SHIPPED = " (shipped)"
DEFAULT = default_name() + _SHIPPED
"""What a new loader has: `small`, or `tiny` in an installation that lacks it."""
_MOST_NAMED = 20


def register_folder() -> None:
    """Register `models/artv` with the host, after folders that its extra paths may already name."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


def checkpoint_names() -> list[str]:
    """The loader's menu: shipped checkpoints first."""
    register_folder()
    return [name + _SHIPPED for name in shipped_names()] + names_in(FOLDER)


def adapter_names() -> list[str]:
    """The same files for ARTV Adapt Model: shipped checkpoints last, as they are made for no Stable Diffusion model."""
    names = checkpoint_names()
    return sorted(names, key=lambda name: name.endswith(_SHIPPED))


def base_names() -> list[str]:
    """The loader's second menu: nothing, then Stable Diffusion checkpoints."""
    return [NO_BASE, *names_in("checkpoints")]


def checkpoint_path(name: str) -> str:
    """The path of a checkpoint. Raises ValueError if there is no such file."""
    register_folder()
    if isinstance(name, str) and name.endswith(_SHIPPED):
        return str(shipped_checkpoint(name.removesuffix(_SHIPPED)))
    return path_in(FOLDER, name, "checkpoint", [name + _SHIPPED for name in shipped_names()])


def base_path(name: str) -> str | None:
    """The path of a base checkpoint. Raises ValueError if there is no such file."""
    return None if name == NO_BASE else path_in("checkpoints", name, "checkpoint")


def names_in(folder: str) -> list[str]:
    """The safetensors files in one of the host's model folders. A broken link is listed too, so that choosing it tells
    the user what is wrong."""
    return [name for name in folder_paths.get_filename_list(folder) if name.lower().endswith(ENDINGS)]


def path_in(folder: str, name: Any, kind: str, others: list[str] | None = None) -> str:
    """The file that a menu of `names_in(folder)` calls `name`. Names in workflows from Windows may contain backslashes.

    Raises ValueError for a broken link (and says where it points), for a folder, for a file that may not be read, and
    for an unknown name (and lists the known ones, `others` first).
    """
    spellings = [name, name.replace("\\", "/")] if isinstance(name, str) and name.lower().endswith(ENDINGS) else []
    for place in (place for spelling in dict.fromkeys(spellings) for place in _places(folder, spelling)):
        if os.path.isfile(place):
            if not os.access(place, os.R_OK):
                raise ValueError(f"cannot read {name!r} in models/{folder}: permission denied; change its permissions")
            return place
    for place in (place for spelling in spellings for place in _places(folder, spelling)):
        if os.path.isdir(place):
            raise ValueError(f"{name!r} in models/{folder} is a folder, expected a safetensors file")
        if told := broken_link(place):
            raise ValueError(f"{told}; put the file there, or choose another {kind}")
    raise ValueError(f"there is no {kind} {name!r} in models/{folder}; there are: {_listed(folder, others or [])}")


def _places(folder: str, name: str) -> list[str]:
    """The paths at which a file may be; none is outside the folder."""
    inside = os.path.relpath(os.path.join(os.sep, name), os.sep)
    return [os.path.join(root, inside) for root in folder_paths.get_folder_paths(folder)]


def _listed(folder: str, others: list[str]) -> str:
    """Names in a folder as text, without files that the host remembers but that are gone."""
    found = [name for name in names_in(folder) if any(map(os.path.isfile, _places(folder, name)))]
    names = [*others, *found]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return (", ".join(names[:_MOST_NAMED]) or "none") + more
