"""Converts native CONDITIONING to the core's form: the text of each frame, and what stands for no text.

This only rearranges data; no host is imported here.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..artv_core.method.text_track import FOREVER, TextSegment, TextTrack

logger = logging.getLogger(__name__)

RANGE_KEY, WEIGHT_KEY, FADE_KEY = "artv_range", "artv_weight", "artv_fade"
TEXT_KEY = "artv_text"
"""The prompt that was encoded. Only messages use it."""

WITHOUT_EFFECT = {
    "control": "ControlNet",
    "cross_attn_controlnet": "ControlNet",
    "area": "an area",
    "mask": "a mask",
    "strength": "a strength",
    "start_percent": "a range of steps",
    "end_percent": "a range of steps",
    "hooks": "hooks",
    "gligen": "GLIGEN",
    "concat_latent_image": "an image to paint into",
    "unclip_conditioning": "unCLIP",
    "clip_vision_output": "CLIP Vision",
    "reference_latents": "reference latents",
}
"""What native nodes note with a prompt, by their keys, and nothing here reads."""

_NEUTRAL = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
"""Values with which these keys have no effect anywhere."""

Conditioning = Sequence[tuple[Tensor, Mapping[str, Any]]]
"""A list of [context [1, L, D], options]."""


class Texts(NamedTuple):
    """What `generate_frames` takes: the text of each frame, and what stands for no text ([L, D])."""

    track: TextTrack
    negative: Tensor


def read_texts(positive: Conditioning, negative: Conditioning | None, null_context: Tensor, num_frames: int) -> Texts:
    """The texts of `num_frames` frames, and what stands for no text. What native nodes noted with them and has no
    effect is one line in the log.

    Raises ValueError if there is no text, for texts of another width, for several texts in one entry, for schedules
    that begin after the last frame, and for a negative that changes from frame to frame.
    """
    _check("positive", positive, null_context.shape[1])
    _check_starts(positive, num_frames)
    if ignored := without_effect(positive, negative):
        logger.warning("ARTV: %s", ignored)
    without = null_context if negative is None else _one_text(negative, null_context.shape[1])
    return Texts(text_track(positive), without)


def text_track(entries: Iterable[Sequence[Any]]) -> TextTrack:
    """The text of each frame, from CONDITIONING: a list of [context [1, L, D], dict]. These keys of the dict are read:

    `artv_range`: (start, end), the entry's frames without `end`; None is the end of the video. Default: all frames.
    `artv_weight`: the entry's weight if several share a frame. Default: 1. An entry of weight 0 is ignored.
    `artv_fade`: (in, out), the number of frames over which its weight rises and falls. Default: (0, 0).

    Raises ValueError if a key has an invalid value, or if no entry applies to frame 0.
    """
    return TextTrack([_segment(context, keys) for context, keys in entries if keys.get(WEIGHT_KEY) != 0])


def without_effect(*prompts: Conditioning | None) -> str:
    """One line about what native nodes noted with these prompts and has no effect; "" if there is nothing."""
    noted = [options for conditioning in prompts for _, options in conditioning or ()]
    found = {
        what: None
        for key, what in WITHOUT_EFFECT.items()
        for options in noted
        if options.get(key) is not None and not (key in _NEUTRAL and options[key] == _NEUTRAL[key])
    }
    if not found:
        return ""
    return (
        f"what other nodes added to the prompts has no effect here: {', '.join(found)}; only the texts count. Texts "
        "that share a frame are averaged; to change the prompt over time, use ARTV Multi-Prompt Scheduler"
    )


def _check(name: str, conditioning: Conditioning, width: int) -> None:
    if not conditioning:
        raise ValueError(f"{name} is empty: it has no prompt for any frame; connect CLIP Text Encode")
    for context, _ in conditioning:
        if context.shape[-1] != width:
            raise ValueError(
                f"{name} comes from a CLIP that is {context.shape[-1]} wide, this model reads text {width} wide; "
                "use the CLIP that belongs to the model"
            )
        if context.shape[0] != 1:
            raise ValueError(
                f"{name} has {context.shape[0]} texts in one entry, as of a batch with a text for each frame; give one "
                "text, or use ARTV Multi-Prompt Scheduler for several"
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
    return text_track(negative).context(0)[0]


def _segment(context: Tensor, keys: Mapping[str, Any]) -> TextSegment:
    start, end = _pair(keys, RANGE_KEY, (0, None))
    fade_in, fade_out = _pair(keys, FADE_KEY, (0, 0))
    weight = keys.get(WEIGHT_KEY, 1.0)
    if not isinstance(weight, int | float):
        raise ValueError(f"{WEIGHT_KEY} is {weight!r}; it must be a number")
    return TextSegment(
        start, context, end=FOREVER if end is None else end, weight=weight, fade_in=fade_in, fade_out=fade_out
    )


def _pair(keys: Mapping[str, Any], name: str, default: tuple[Any, Any]) -> tuple[Any, Any]:
    """Two whole numbers; the second may be None if its default is."""
    value = keys.get(name, default)
    kinds = (int, int | None if default[1] is None else int)
    if isinstance(value, tuple | list) and len(value) == 2 and all(map(isinstance, value, kinds)):
        return value[0], value[1]
    raise ValueError(f"{name} is {value!r}; it must be two whole numbers of frames")
