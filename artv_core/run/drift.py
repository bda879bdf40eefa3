"""Drift: how far each frame of a video is from an anchor frame. Numbers, a table, a CSV file and a plot.

Not in the paper.
"""

import csv
import math
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TextIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..files.partial_file import check_writable, replacing
from ..media import evenly_spaced

COLUMNS = ("frame", "shift", "spread", "sharpness", "motion", "distance", "copied")
"""The fields of a reading, as column names in tables and files."""

_SMALLEST = 1e-6  # added to both sides of a ratio: two flat frames count as equal, and no ratio is infinite
_PLOT_POINTS = 2000
_PANELS = {
    "shift": "shift of the channels' means",
    "motion": "motion (change since the frame before)",
    "spread": "spread of the channels (1 = the anchor's)",
    "distance": "distance (difference from the anchor)",
    "sharpness": "sharpness (1 = the anchor's)",
    "copied": "copied (share of the frame)",
}
_RATIOS = ("spread", "sharpness")


@dataclass(frozen=True, slots=True)
class DriftReading:
    """One frame compared with the anchor frame. All numbers are finite, in the scale of the frames.

    `shift`: mean absolute difference of the channels' means. `spread`: mean of the channels' standard deviations,
    divided by the anchor's; 1 = unchanged. `sharpness`: mean absolute difference of neighbouring pixels, divided by the
    anchor's; 1 = unchanged. `motion`: mean absolute change since the previous frame. `distance`: mean absolute
    difference from the anchor; never below `shift`. `copied`: the mask's mean, 0 without a mask.
    """

    index: int
    shift: float
    spread: float
    sharpness: float
    motion: float
    distance: float
    copied: float


class DriftMeter:
    """Measures one video's frames in order. It keeps only two frames: the anchor and the previous one."""

    def __init__(self, anchor: Tensor | None = None) -> None:
        """`anchor` [C, H, W] is the frame to compare with. By default it is the first frame that is read."""
        self._anchor = None if anchor is None else _look(anchor)
        self._before: Tensor | None = None

    def read(self, index: int, frame: Tensor, mask: Tensor | None = None) -> DriftReading:
        """Measure a frame [C, H, W], an image or a latent. All frames must have the same scale. Infinite values and NaN
        count as 0. `mask` is [h, w], 1 = copied. Raises ValueError if the frame's shape is not the anchor's."""
        look = _look(frame)
        anchor = look if self._anchor is None else self._anchor
        before = look.values if self._before is None else self._before
        if frame.shape != anchor.values.shape:
            raise ValueError(
                f"frame {index} is {_shape(frame)}, the anchor {_shape(anchor.values)}; both need the same shape"
            )
        self._anchor, self._before = anchor, look.values
        return DriftReading(
            index,
            shift=_mean_abs(look.means - anchor.means),
            spread=_ratio(look.spread, anchor.spread),
            sharpness=_ratio(look.gradient, anchor.gradient),
            motion=_mean_abs(look.values - before),
            distance=_mean_abs(look.values - anchor.values),
            copied=0.0 if mask is None else _mean_abs(_numbers(mask)),
        )


class _Look(NamedTuple):
    """A frame [C, H, W], the means of its channels [C], and the measures that need only this frame."""

    values: Tensor
    means: Tensor
    spread: float
    gradient: float


def _look(frame: Tensor) -> _Look:
    if frame.ndim != 3 or not frame.numel():
        raise ValueError(f"a frame is {_shape(frame)}, expected channels x height x width")
    values = _numbers(frame)
    spread, means = torch.std_mean(values, dim=(1, 2), correction=0)
    gradient = _mean_abs(values.diff(dim=1)) + _mean_abs(values.diff(dim=2))
    return _Look(values, means, float(spread.mean()), gradient)


def _numbers(values: Tensor) -> Tensor:
    """A float64 copy without infinite values and NaN, so that sums of float32 values stay finite."""
    return values.detach().cpu().float().nan_to_num(0, 0, 0).double()


def _shape(frame: Tensor) -> str:
    return "x".join(map(str, frame.shape))


def _mean_abs(values: Tensor) -> float:
    return float(values.abs().sum() / max(1, values.numel()))


def _ratio(value: float, anchor: float) -> float:
    return (value + _SMALLEST) / (anchor + _SMALLEST)


# Text


def drift_table(readings: Sequence[DriftReading], rows: int = 12) -> str:
    """A text table with a heading and at most `rows` evenly spaced readings."""
    chosen = [readings[index] for index in evenly_spaced(len(readings), rows)]
    lines = [f"{index:6d}" + "".join(f"{value:11.3f}" for value in values) for index, *values in map(astuple, chosen)]
    heading = f"{COLUMNS[0]:>6}" + "".join(f"{name:>11}" for name in COLUMNS[1:])
    return "\n".join([heading, *lines])


# Files


class DriftLog:
    """Context manager for a CSV file with one row for each reading. The file can be read while it grows.

    `append` hands each row to the operating system, so rows survive if this process dies. Numbers are written with all
    their digits. An existing file is replaced on entering. Raises ValueError if writing fails, and on entering if the
    path cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __enter__(self) -> "DriftLog":
        check_writable(self.path)
        try:
            self._file: TextIO = self.path.open("w", newline="", encoding="ascii")
        except OSError as error:
            raise ValueError(self._fault(error)) from None
        self._rows = csv.writer(self._file, lineterminator="\n")
        try:
            self._write(COLUMNS)
        except ValueError:
            self._close()
            raise
        return self

    def append(self, reading: DriftReading) -> None:
        """Write one row. Raises ValueError if that fails."""
        self._write(astuple(reading))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _write(self, row: Sequence[Any]) -> None:
        try:
            self._rows.writerow(row)
            self._file.flush()
        except OSError as error:
            raise ValueError(self._fault(error)) from None

    def _close(self) -> None:
        with suppress(OSError):  # only a row whose write failed before can remain
            self._file.close()

    def _fault(self, error: OSError) -> str:
        return f"cannot write {self.path}: {(error.strerror or str(error)).lower()}"


def read_drift_csv(path: str | Path) -> list[DriftReading]:
    """The readings that a `DriftLog` has written so far. An incomplete last line is left out.

    Raises ValueError if the file cannot be read or was not written by a `DriftLog`.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except OSError as error:
        raise ValueError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    if not lines or tuple(lines[0].split(",")) != COLUMNS:
        raise ValueError(f"cannot read {path}: it is not a drift readout; its first line must be {','.join(COLUMNS)}")
    return [_parsed(line, f"cannot read {path}: line {number}") for number, line in enumerate(lines[1:], 2)]


def _parsed(line: str, place: str) -> DriftReading:
    try:
        index, *values = line.split(",")
        reading = DriftReading(int(index), *map(float, values))
    except (TypeError, ValueError):
        raise ValueError(f"{place} is {line[:60]!r}, expected a number for each of {', '.join(COLUMNS)}") from None
    if not all(map(math.isfinite, astuple(reading))):
        raise ValueError(f"{place} has a number that is infinite or NaN")
    return reading


# Plot


def plot_drift(readings: Sequence[DriftReading], title: str = "", true: Sequence[DriftReading] = ()) -> Image.Image:
    """Plot all measures over the frames, as an RGB image of 1000x750 pixels. For long videos, only evenly spaced
    readings are drawn. Readings of `true` (real) videos, if given, are drawn for comparison.

    Raises ValueError if there are no readings, or if matplotlib is missing.
    """
    if not readings:
        raise ValueError("a drift plot needs at least one reading")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise ValueError("the plot needs matplotlib: pip install matplotlib") from None
    chosen, beside = (
        [each[index] for index in evenly_spaced(len(each), _PLOT_POINTS)] if each else [] for each in (readings, true)
    )
    figure = Figure(figsize=(10, 7.5), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    title = title.encode("utf-8", "backslashreplace").decode()  # a file name may contain invalid characters
    shown = "\n".join(textwrap.wrap(textwrap.shorten(title, 190, placeholder=" ..."), 100))
    figure.suptitle(shown, fontsize=12, parse_math=False)
    panels = figure.subplots(3, 2, sharex=True).flat
    for axes, name in zip(panels, _PANELS, strict=True):
        _draw_panel(axes, name, chosen, beside)
    for axes in figure.axes[-2:]:
        axes.set_xlabel("frame")
        axes.set_xlim(chosen[0].index - 0.5, chosen[-1].index + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    canvas.draw()
    return Image.fromarray(np.array(canvas.buffer_rgba())).convert("RGB")


def plot_path(readout: str | Path) -> Path:
    """The path of the plot for a file of readings: the same name, ending in .png."""
    return Path(readout).with_suffix(".png")


def save_plot(readout: str | Path, readings: Sequence[DriftReading], true: Sequence[DriftReading] = ()) -> None:
    """Save the plot of `plot_drift` beside the file of these readings, with its name as the title."""
    with replacing(plot_path(readout)) as temporary:
        plot_drift(readings, Path(readout).stem, true).save(temporary, format="PNG")


def write_drift(path: str | Path, readings: Sequence[DriftReading], true: Sequence[DriftReading] = ()) -> None:
    """Write a file of these readings, and the plot beside it. Raises ValueError if one of them cannot be written."""
    with DriftLog(path) as log:
        for reading in readings:
            log.append(reading)
    save_plot(path, readings, true)


def _draw_panel(axes: Any, name: str, readings: Sequence[DriftReading], true: Sequence[DriftReading]) -> None:
    unchanged = float(name in _RATIOS)
    axes.axhline(unchanged, color="#999999", linewidth=1, linestyle="--")
    marker = "o" if len(readings) <= 64 else ""
    for each, color, label in ((true, "#8a8a8a", "true videos"), (readings, "#1f5fa8", "these videos")):
        frames, values = [reading.index for reading in each], [getattr(reading, name) for reading in each]
        axes.plot(frames, values, color=color, label=label, linewidth=1.2, marker=marker, markersize=2.5)
    if true:
        axes.legend(fontsize=8, frameon=False)
    copied_none = name == "copied" and not any(reading.copied for reading in readings)
    axes.set_title("copied (no masks)" if copied_none else _PANELS[name], fontsize=10, loc="left")
    axes.set_ylim(*_limits(name, [getattr(reading, name) for reading in (*readings, *true)]))
    axes.ticklabel_format(useOffset=False)
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)


def _limits(name: str, values: Sequence[float]) -> tuple[float, float]:
    """The limits of a panel's y axis: from 0 up, or around 1 for ratios, with a margin. `copied` has a fixed scale."""
    if name == "copied":
        return -0.04, 1.04
    if name in _RATIOS:
        low, high = min(0.9, *values), max(1.1, *values)
    else:
        low, high = 0.0, max(1e-3, *values)
    return low - 0.05 * (high - low), high + 0.05 * (high - low)
