"""Clips of known colours, in the ways that video files keep them, read by everything that reads frames."""

from itertools import product
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from artv_core.data.decode import iterate_frames, read_frames
from artv_core.data.sources import Entry
from artv_core.media import read_video
from artv_core.media.colors import color_options
from artv_core.prepare.motion import _small

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 150, 120), (255, 255, 255), (20, 30, 40)]
WIDTH, HEIGHT = 96, 48
TOLERANCE = 4  # of 255; swscale's own tables are off by up to 3

SPACES = {"BT.709": 1, "BT.601 of PAL": 5, "BT.601 of NTSC": 6, "BT.2020": 9, "no space named": 2}
WEIGHTS = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}  # of red and blue in brightness; BT.601's otherwise
OLD_PYAV = int(av.__version__.partition(".")[0]) < 14


def in_yuv(rgb: tuple[int, int, int], space: int, full: bool, bits: int) -> list[int]:
    """As the standards write it down, in `bits` bits."""
    red_weight, blue_weight = WEIGHTS.get(space, (0.299, 0.114))
    red, green, blue = (value / 255 for value in rgb)
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    chroma = [(blue - luma) / (2 - 2 * blue_weight), (red - luma) / (2 - 2 * red_weight)]
    unit, most = 2 ** (bits - 8), 2**bits - 1
    if full:
        return [round(luma * most), *(min(most, round(value * most + 128 * unit)) for value in chroma)]
    return [round((16 + 219 * luma) * unit), *(round((128 + 224 * value) * unit) for value in chroma)]


def write_bars(path: Path, space: int, full: bool, bits: int) -> Path:
    """Four frames of one upright bar for each of `COLORS`, without losses worth mentioning."""
    pixel_format = "yuv420p" if bits == 8 else "yuv420p10le"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=8, options={"crf": "0" if bits == 8 else "1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        stream.codec_context.colorspace, stream.codec_context.color_range = space, 2 if full else 1
        for stamp in range(4):
            frame = av.VideoFrame(WIDTH, HEIGHT, pixel_format)
            for index, plane in enumerate(frame.planes):
                bars = [in_yuv(color, space, full, bits)[index] for color in COLORS]
                row = np.repeat(np.array(bars, "u1" if bits == 8 else "<u2"), plane.width // len(COLORS))
                padded = np.zeros((plane.height, plane.line_size // row.itemsize), row.dtype)
                padded[:, : plane.width] = row
                plane.update(padded.tobytes())
            frame.pts = stamp
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def furthest(image: torch.Tensor) -> float:
    """The largest difference of [3, H, W], 0 to 255, from what was written, in the middle of each bar."""
    middles = [(2 * bar + 1) * image.shape[2] // (2 * len(COLORS)) for bar in range(len(COLORS))]
    seen = image[:, image.shape[1] // 2, middles].float()
    return float((seen - torch.tensor(COLORS).T).abs().max())


@pytest.mark.parametrize(("space", "full", "bits"), list(product(SPACES, (False, True), (8, 10))))
def test_every_reader_gives_the_colors_that_were_filmed(tmp_path, space, full, bits):
    if OLD_PYAV and SPACES[space] == 9:
        pytest.skip("PyAV before 14 has no BT.2020")
    path = write_bars(tmp_path / "bars.mp4", SPACES[space], full, bits)
    entry = Entry(path, None, "bars")
    assert furthest(read_video(path)[1]) <= TOLERANCE
    assert furthest(read_frames(entry, [0.125], (HEIGHT, WIDTH))[0] * 255) <= TOLERANCE
    assert furthest(read_frames(entry, [0.125], (2 * HEIGHT, 2 * WIDTH))[0] * 255) <= TOLERANCE
    _, frame = next(iterate_frames(entry))
    assert furthest(torch.from_numpy(_small(frame)[..., ::-1].copy()).permute(2, 0, 1)) <= TOLERANCE


@pytest.mark.parametrize("pixel_format", ["rgb24", "gbrp", "gray", "yuv444p", "rgba"])
def test_other_kinds_of_frames_keep_their_colors(pixel_format):
    grey = pixel_format == "gray"
    bars = np.repeat(np.array([(c[0],) * 3 if grey else c for c in COLORS], np.uint8), WIDTH // len(COLORS), axis=0)
    picture = np.ascontiguousarray(np.broadcast_to(bars, (HEIGHT, WIDTH, 3)))
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixel_format)
    read = frame.reformat(format="rgb24", **color_options(frame)).to_ndarray()
    assert abs(read.astype(int) - picture).max() <= TOLERANCE


@pytest.mark.parametrize("space", range(15))
@pytest.mark.parametrize("color_range", range(3))
def test_a_frames_own_space_and_range_are_passed_on(space, color_range):
    options = color_options(SimpleNamespace(colorspace=space, color_range=color_range))
    assert options["src_color_range"] == color_range
    assert options["src_colorspace"] == (5 if space in (0, 2, 6) else space) or OLD_PYAV
    assert options["dst_colorspace"] != options["src_colorspace"]  # else PyAV before 17 takes no notice of the rest
