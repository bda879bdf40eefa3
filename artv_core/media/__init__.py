"""Reading and writing of videos and images."""

from .images import read_image
from .pixels import mask_frames
from .reading import read_video
from .sheets import contact_sheet, evenly_spaced, wrapped
from .step_sheets import StepTile, step_sheet
from .writing import CONTAINERS, VideoWriter, part_beside

__all__ = [
    "CONTAINERS",
    "StepTile",
    "VideoWriter",
    "contact_sheet",
    "evenly_spaced",
    "mask_frames",
    "part_beside",
    "read_image",
    "read_video",
    "step_sheet",
    "wrapped",
]
