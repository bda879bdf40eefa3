"""From native CONDITIONING to what the spine reads: the text of each frame, and what stands for no text.

Pure layout: no host is imported here. What the keys of CONDITIONING mean is `TextTrack.from_conditioning`'s to say.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..artv_core.method.text_track import RANGE_KEY, TextTrack

Conditioning = Sequence[tuple[Tensor, Mapping[str, Any]]]
"""A list of [context [1, L, D], options]."""


class Texts(NamedTuple):
    """What `generate_frames` takes: the text of each frame, and what stands for no text ([L, D])."""

    track: TextTrack
    negative: Tensor


def read_texts(positive: Conditioning, negative: Conditioning | None, null_context: Tensor, num_frames: int) -> Texts:
    """The texts of `num_frames` frames, and what stands for none.

    Raises ValueError, one line, on no text, on texts of another width, on schedules that begin after the last frame,
    and on a negative that changes from frame to frame.
    """
    _check("positive", positive, null_context.shape[1])
    _check_starts(positive, num_frames)
    without = null_context if negative is None else _one_text(negative, null_context.shape[1])
    return Texts(TextTrack.from_conditioning(positive), without)


def _check(name: str, conditioning: Conditioning, width: int) -> None:
    if not conditioning:
        raise ValueError(f"{name} is empty: it has no prompt for any frame")
    for context, _ in conditioning:
        if context.shape[-1] != width:
            raise ValueError(
                f"{name} comes from a CLIP that is {context.shape[-1]} wide, this model reads text {width} wide; "
                "use the CLIP of its ARTV Loader"
            )


def _check_starts(conditioning: Conditioning, num_frames: int) -> None:
    late = max(options.get(RANGE_KEY, (0, None))[0] for _, options in conditioning)
    if late >= num_frames:
        raise ValueError(
            f"a prompt starts at frame {late}, but the video has {num_frames} frames, 0 to {num_frames - 1}; "
            "make more frames or let the prompt start earlier"
        )


def _one_text(negative: Conditioning, width: int) -> Tensor:
    _check("negative", negative, width)
    if any(RANGE_KEY in options for _, options in negative):
        raise ValueError("negative changes from frame to frame; it must be one text for the whole video")
    return TextTrack.from_conditioning(negative).context(0)[0]
