"""Checkpoint files: describing, loading and saving them.

model = load_checkpoint(resolve_checkpoint("small"))
save_checkpoint(model, "mine.safetensors")
"""

from .checking import prediction_warning
from .initialising import initialise_from_stable_diffusion
from .names import PARTS, file_key, part_of_weight
from .public_files import PUBLIC_SD_EXTRAS
from .reading import load_checkpoint, load_taesd_decoder, read_part
from .shipped import default_name, resolve_checkpoint, shipped_checkpoint, shipped_names
from .summary import CheckpointSummary, describe_checkpoint
from .writing import save_checkpoint

__all__ = [
    "PARTS",
    "PUBLIC_SD_EXTRAS",
    "CheckpointSummary",
    "default_name",
    "describe_checkpoint",
    "file_key",
    "initialise_from_stable_diffusion",
    "load_checkpoint",
    "load_taesd_decoder",
    "part_of_weight",
    "prediction_warning",
    "read_part",
    "resolve_checkpoint",
    "save_checkpoint",
    "shipped_checkpoint",
    "shipped_names",
]
