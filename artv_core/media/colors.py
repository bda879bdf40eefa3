"""Colour conversion of decoded video frames, with the same result in all versions of PyAV."""

from typing import Any

_BT709, _BT601 = 1, 5  # swscale's numbers; FFmpeg's colour spaces have the same ones
_SAME_AS_BT601 = (0, 2, 6)  # RGB (no matrix), unknown (FFmpeg assumes BT.601), and the American BT.601
_KNOWN_BEFORE_14 = (1, 4, 5, 7)
_FULL_RANGE = 2  # FFmpeg's AVCOL_RANGE_JPEG


def color_options(frame: Any) -> dict[str, int]:
    """Options for the `reformat` of a PyAV frame, to convert it to RGB with the colour space and range that it names.

    Without these options, PyAV before 17 reads every frame as BT.601 with limited range. A frame that names no colour
    space counts as BT.601, as in FFmpeg.
    """
    space = _source_space(int(frame.colorspace))
    return {
        "src_colorspace": space,
        # RGB has no colour space. But PyAV before 17 ignores the other options unless this one differs from the source.
        "dst_colorspace": _BT601 if space == _BT709 else _BT709,
        "src_color_range": int(frame.color_range),
        "dst_color_range": _FULL_RANGE,
    }


def _source_space(named: int) -> int:
    """swscale's number for a colour space. PyAV before 14 raises KeyError on a space that it has no name for (BT.2020):
    there BT.709 is used, which is closest to it."""
    import av

    if named in _SAME_AS_BT601:
        return _BT601
    if int(av.__version__.partition(".")[0]) < 14 and named not in _KNOWN_BEFORE_14:
        return _BT709
    return named
