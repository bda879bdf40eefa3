"""Colours of decoded video frames, the same whatever PyAV's version."""

from typing import Any

_BT709, _BT601 = 1, 5  # swscale's numbers; FFmpeg's colour spaces have the same ones
_SAME_AS_BT601 = (0, 2, 6)  # RGB (it has no matrix), not known (FFmpeg takes BT.601), and the American BT.601
_KNOWN_BEFORE_14 = (1, 4, 5, 7)
_FULL_RANGE = 2  # FFmpeg's AVCOL_RANGE_JPEG


def color_options(frame: Any) -> dict[str, int]:
    """What turns a frame of PyAV into RGB, for its `reformat`: the colour space and range that the frame itself names.

    Left to itself, PyAV before 17 reads all frames as BT.601 of limited range. A file that names no space counts as
    BT.601, as in FFmpeg.
    """
    space = _source_space(int(frame.colorspace))
    return {
        "src_colorspace": space,
        # RGB has no such space. Before PyAV 17 the other options count only where this one differs from the frame's.
        "dst_colorspace": _BT601 if space == _BT709 else _BT709,
        "src_color_range": int(frame.color_range),
        "dst_color_range": _FULL_RANGE,
    }


def _source_space(named: int) -> int:
    """Before PyAV 14, a space that PyAV has no name for (BT.2020) ends in a KeyError; BT.709 is closest to it."""
    import av

    if named in _SAME_AS_BT601:
        return _BT601
    if int(av.__version__.partition(".")[0]) < 14 and named not in _KNOWN_BEFORE_14:
        return _BT709
    return named
