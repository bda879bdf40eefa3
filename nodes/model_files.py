"""Where checkpoints lie: the shipped ones, and `models/artv` of every path the host is configured with."""

import os

import folder_paths

from ..artv_core.checkpoint import shipped_checkpoint, shipped_names

FOLDER = "artv"
_SHIPPED = " (shipped)"
NO_BASE = "none"


def register_folder() -> None:
    """Make `models/artv` known to the host, after the folders its extra paths may name already."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


def checkpoint_names() -> list[str]:
    """What the loader's menu lists: shipped checkpoints first."""
    register_folder()
    return [name + _SHIPPED for name in shipped_names()] + _safetensors(FOLDER)


def base_names() -> list[str]:
    """What the loader's second menu lists: nothing, Stable Diffusion checkpoints."""
    return [NO_BASE, *_safetensors("checkpoints")]


def checkpoint_path(name: str) -> str:
    """Raises ValueError, one line, where there is no such file."""
    register_folder()
    if name.endswith(_SHIPPED):
        return str(shipped_checkpoint(name.removesuffix(_SHIPPED)))
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        listed = ", ".join(checkpoint_names()) or "none"
        raise ValueError(f"there is no checkpoint {name!r} in models/{FOLDER}; there are: {listed}")
    return path


def base_path(name: str) -> str | None:
    """Raises ValueError, one line, where there is no such file."""
    if name == NO_BASE:
        return None
    path = folder_paths.get_full_path("checkpoints", name)
    if path is None:
        raise ValueError(f"there is no checkpoint {name!r} in models/checkpoints")
    return path


def _safetensors(folder: str) -> list[str]:
    return [name for name in folder_paths.get_filename_list(folder) if name.endswith(".safetensors")]
