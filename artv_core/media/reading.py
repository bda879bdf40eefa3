"""Reading video files."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files.partial_file import reason
from .colors import color_options


def read_video(path: str | Path) -> Tensor:
    """All frames of a video file, [T, 3, H, W] uint8. Raises ValueError if it cannot be read."""
    import av

    try:
        with av.open(str(Path(path).absolute())) as container:
            frames = [_from_video_frame(frame) for frame in container.decode(video=0)]
    except (OSError, av.FFmpegError, IndexError) as error:
        raise ValueError(f"cannot read video {path}: {reason(error)}") from None
    if not frames:
        raise ValueError(f"cannot read video {path}: it contains no frames")
    return torch.stack(frames)


def _from_video_frame(frame: Any) -> Tensor:
    rgb = frame.reformat(format="rgb24", **color_options(frame)).to_ndarray()
    return torch.from_numpy(rgb).permute(2, 0, 1)
