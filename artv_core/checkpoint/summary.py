"""A summary of a checkpoint's header: its parts, their sizes, and what the file cannot do without a base."""

from dataclasses import dataclass
from pathlib import Path

from ..config import ARTVConfig
from ..files.partial_file import one_line
from ..files.tensor_file import open_tensor_file
from .checking import declared_parts, read_config
from .names import OWN_METADATA, part_of

USES = {
    "making frames": ("unet", "branches"),
    "copying from the previous frame": ("mask",),
    "images in and out": ("vae",),
    "text prompts": ("text",),
}
"""Uses of a checkpoint, with the parts that each needs."""


@dataclass(frozen=True)
class CheckpointSummary:
    """What `artv info` prints about a file.

    `parts` are the names (in `PARTS`) of the parts in the file, `parameters` their numbers of weights. `base` is the
    name of the file that it was trained on, if known. `metadata` has all other metadata, each text cut to one line of
    300 characters.
    """

    path: Path
    config: ARTVConfig
    parts: tuple[str, ...]
    base: str | None
    parameters: dict[str, int]
    file_bytes: int
    dtypes: tuple[str, ...]
    metadata: dict[str, str]

    @property
    def missing(self) -> tuple[str, ...]:
        """The uses (names in `USES`) for which the file lacks a part."""
        return tuple(use for use, parts in USES.items() if not set(parts) <= set(self.parts))


def describe_checkpoint(path: str | Path) -> CheckpointSummary:
    """Read only a checkpoint's header, no tensors. Raises ValueError if it cannot be read or is not an ARTV
    checkpoint."""
    file = open_tensor_file(path)
    config = read_config(file)
    parameters = dict.fromkeys(declared_parts(file, config), 0)
    for key, tensor in file.tensors.items():
        part = part_of(key)
        if part in parameters and key not in ("vae_scale", "vae_shift"):
            parameters[part] += tensor.count
    held = tuple(part for part, count in parameters.items() if count)
    base = one_line(file.metadata["artv_base"]) if "artv_base" in file.metadata else None
    return CheckpointSummary(
        path=file.path,
        config=config,
        parts=held,
        base=base,
        parameters={part: parameters[part] for part in held},
        file_bytes=file.path.stat().st_size,
        dtypes=tuple(sorted({tensor.dtype for tensor in file.tensors.values()})),
        metadata={
            one_line(name, 60): one_line(text) for name, text in file.metadata.items() if name not in OWN_METADATA
        },
    )
