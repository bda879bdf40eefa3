"""Videos and pictures, read and written."""

from .video import (
    CONTAINERS,
    VideoWriter,
    contact_sheet,
    evenly_spaced,
    mask_frames,
    part_beside,
    read_image,
    read_video,
    wrapped,
)

__all__ = [
    "CONTAINERS",
    "VideoWriter",
    "contact_sheet",
    "evenly_spaced",
    "mask_frames",
    "part_beside",
    "read_image",
    "read_video",
    "wrapped",
]
