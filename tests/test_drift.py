"""The drift readout: numbers that can be reckoned by hand, files that survive, a plot that shows something."""

import math
import os
import signal
import sys
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from artv_core.run.drift import (
    COLUMNS,
    DriftLog,
    DriftMeter,
    DriftReading,
    drift_table,
    plot_drift,
    read_drift_csv,
)
from tests.forked import COMMANDS, python_with


def picture(seed: int = 0, size: int = 32) -> Tensor:
    """[3, size, size] in [0, 1]."""
    return torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed))


def read_all(frames: list[Tensor], anchor: Tensor | None = None) -> list[DriftReading]:
    meter = DriftMeter(anchor)
    return [meter.read(index, frame) for index, frame in enumerate(frames)]


def some_readings(count: int) -> list[DriftReading]:
    return [
        DriftReading(k, k / 7, 1 + k / 3, 1 / (1 + k), math.sin(k) ** 2, math.log1p(k), (k % 5) / 5)
        for k in range(count)
    ]


# Numbers


def test_readings_say_how_far_a_frame_is_from_the_anchor_and_from_the_one_before():
    meter = DriftMeter()
    first = torch.tensor([[[1.0, -1.0], [1.0, -1.0]]]).expand(3, 2, 2)
    mask = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    readings = [
        meter.read(0, first),
        meter.read(1, first + 0.5, mask),
        meter.read(2, 2 * first + 0.5),
        meter.read(3, first),
    ]
    assert [reading.index for reading in readings] == [0, 1, 2, 3]
    assert [reading.shift for reading in readings] == pytest.approx([0, 0.5, 0.5, 0])
    assert [reading.spread for reading in readings] == pytest.approx([1, 1, 2, 1], rel=1e-5)
    assert [reading.sharpness for reading in readings] == pytest.approx([1, 1, 2, 1], rel=1e-5)
    assert [reading.motion for reading in readings] == pytest.approx([0, 0.5, 1, 1])
    assert [reading.distance for reading in readings] == pytest.approx([0, 0.5, 1, 0])
    assert [reading.copied for reading in readings] == pytest.approx([0, 0.75, 0, 0])


def test_shift_of_colour_is_measured_by_itself():
    """A video that fades by 0.01 a frame in red alone."""
    red = torch.tensor([0.03, 0.0, 0.0])[:, None, None]
    readings = read_all([picture() + k * red for k in range(10)])
    assert [reading.shift for reading in readings] == pytest.approx([k * 0.01 for k in range(10)], abs=1e-6)
    assert [reading.motion for reading in readings] == pytest.approx([0] + [0.01] * 9, abs=1e-6)
    assert [reading.spread for reading in readings] == pytest.approx([1] * 10, abs=1e-5)
    assert [reading.sharpness for reading in readings] == pytest.approx([1] * 10, abs=1e-5)


def test_shifts_that_cancel_are_still_drift():
    first = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    shifted = first + torch.tensor([1.0, -1.0])[:, None, None]
    assert read_all([first, shifted])[1].shift == pytest.approx(1.0, abs=1e-5)


def test_blur_lowers_sharpness_and_noise_raises_it():
    stripes = (torch.arange(32) // 4 % 2).float().expand(3, 32, 32)
    blurred = torch.nn.functional.avg_pool2d(stripes, (1, 5), stride=1)
    blurred = torch.nn.functional.pad(blurred, (2, 2), mode="replicate")
    noisy = stripes + 0.2 * torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    still, soft, rough = read_all([stripes, blurred, noisy])
    assert still.sharpness == 1
    assert soft.sharpness < 0.85
    assert rough.sharpness > 2
    assert soft.spread < 1 < rough.spread


def test_still_video_has_no_motion_and_a_video_that_freezes_keeps_its_distance():
    still = read_all([picture()] * 4)
    assert all(astuple(reading)[1:] == (0, 1, 1, 0, 0, 0) for reading in still)
    frozen = read_all([picture(0), picture(1), picture(1), picture(1)])
    assert [reading.motion for reading in frozen[2:]] == [0, 0]
    assert [reading.distance for reading in frozen[2:]] == [frozen[1].distance] * 2
    assert frozen[1].distance == frozen[1].motion == pytest.approx(1 / 3, abs=0.02)  # of two uniform numbers


def test_moving_object_leads_away_and_back():
    """A square of a tenth of the width, which never leaves the frame: only motion and distance see it."""
    frames = [torch.zeros(3, 20, 20) for _ in range(5)]
    for frame, left in zip(frames, (2, 8, 14, 8, 2), strict=True):
        frame[:, 5:7, left : left + 2] = 1
    readings = read_all(frames)
    assert [reading.shift for reading in readings] == [0] * 5
    assert [reading.sharpness for reading in readings] == [1] * 5
    assert [reading.motion for reading in readings] == pytest.approx([0] + [8 / 400] * 4)
    assert [reading.distance for reading in readings] == pytest.approx([0, 8 / 400, 8 / 400, 8 / 400, 0])


def test_given_anchor_is_what_frames_are_compared_with():
    readings = read_all([picture(0), picture(1)], anchor=picture(1))
    assert readings[0].motion == 0
    assert readings[0].distance == readings[1].motion > 0.3
    assert astuple(readings[1])[1:4] == (0, 1, 1)
    assert readings[1].distance == 0


@pytest.mark.parametrize(
    ("anchor", "frame"),
    [
        (torch.zeros(3, 2, 2), torch.ones(3, 2, 2)),
        (torch.zeros(3, 2, 2), picture(size=2)),
        (torch.full((3, 2, 2), 0.5), torch.full((3, 2, 2), 0.5)),
        (torch.zeros(1, 1, 1), torch.ones(1, 1, 1)),
        (torch.zeros(1, 1, 5), torch.ones(1, 1, 5)),
        (picture(size=4), torch.full((3, 4, 4), math.nan)),
        (torch.full((3, 4, 4), math.inf), picture(size=4)),
        (torch.full((3, 64, 64), 3e38), torch.full((3, 64, 64), -3e38)),
        (torch.full((3, 64, 64), 6e4, dtype=torch.half), torch.full((3, 64, 64), -6e4, dtype=torch.half)),
        (torch.full((3, 4, 4), 1e300, dtype=torch.double), torch.zeros(3, 4, 4)),
    ],
    ids=["flat", "flat then not", "the same flat", "pixel", "row", "nan", "inf", "huge", "half", "double"],
)
def test_every_number_is_finite(anchor: Tensor, frame: Tensor):
    for reading in read_all([anchor, frame, anchor]):
        assert all(map(math.isfinite, astuple(reading)))


def test_two_flat_frames_are_as_sharp_as_one_another():
    reading = read_all([torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.5)])[1]
    assert (reading.spread, reading.sharpness) == (1, 1)


def test_mask_that_is_no_number_counts_as_nothing_copied():
    mask = torch.tensor([[1.0, math.nan], [math.inf, 1.0]])
    assert DriftMeter().read(0, picture(), mask).copied == 0.5
    assert DriftMeter().read(0, picture(), torch.empty(0, 4)).copied == 0


def test_frames_may_be_overwritten_after_they_were_read():
    frame, meter = picture().double(), DriftMeter()
    meter.read(0, frame)
    frame += 1
    assert meter.read(1, frame).distance == pytest.approx(1)


def test_meter_keeps_two_frames():
    meter = DriftMeter()
    for index in range(20):
        meter.read(index, picture(index))
    assert set(vars(meter)) == {"_anchor", "_before"}
    kept = [value for value in (meter._before, *meter._anchor) if isinstance(value, Tensor)]
    assert sum(value.numel() for value in kept) == 2 * picture().numel() + 3


def test_frames_of_another_shape_are_one_clear_sentence():
    meter = DriftMeter(picture(size=8))
    with pytest.raises(ValueError, match=r"^frame 4 is 3x16x16, the anchor 3x8x8; both need the same shape$"):
        meter.read(4, picture(size=16))
    with pytest.raises(ValueError, match=r"^a frame is 1x3x8x8, expected channels x height x width$"):
        meter.read(5, picture(size=8)[None])


# Text


def test_the_table_has_the_first_and_the_last_frame():
    lines = drift_table(read_all([torch.full((3, 2, 2), float(index)) for index in range(100)]), rows=5).splitlines()
    assert tuple(lines[0].split()) == COLUMNS
    assert [int(line.split()[0]) for line in (lines[1], lines[-1])] == [0, 99]
    assert len(lines) == 6
    assert lines[-1].split()[1] == "99.000"
    assert len({len(line) for line in lines}) == 1
    assert drift_table([]).splitlines() == lines[:1]


# Files


def test_file_reads_back_equal(tmp_path: Path):
    readings = [*some_readings(50), DriftReading(10**6, 1e-300, 1e300, 0.1 + 0.2, 5e-324, 1 / 3, 1.0)]
    with DriftLog(tmp_path / "drift.csv") as log:
        for count, reading in enumerate(readings, 1):
            log.append(reading)
            assert len(read_drift_csv(tmp_path / "drift.csv")) == count, "a row is there as soon as it is appended"
    assert read_drift_csv(tmp_path / "drift.csv") == readings
    assert (tmp_path / "drift.csv").read_text().splitlines()[0] == ",".join(COLUMNS)


def test_rows_survive_a_kill(tmp_path: Path):
    path = tmp_path / "drift.csv"
    code = (
        "import os, signal, sys\n"
        "from artv_core.run.drift import DriftLog, DriftReading\n"
        "log = DriftLog(sys.argv[1]).__enter__()\n"
        "for k in range(7): log.append(DriftReading(k, *[k / 3] * 6))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert python_with(*COMMANDS).run(code, path).returncode == -signal.SIGKILL
    assert read_drift_csv(path) == [DriftReading(k, *[k / 3] * 6) for k in range(7)]


def test_torn_last_line_is_left_out(tmp_path: Path):
    path, readings = tmp_path / "drift.csv", some_readings(3)
    with DriftLog(path) as log:
        for reading in readings:
            log.append(reading)
    whole = path.read_bytes()
    ends = [offset for offset, byte in enumerate(whole, 1) if byte == ord("\n")]
    for length in range(ends[0], len(whole) + 1):
        path.write_bytes(whole[:length])
        assert read_drift_csv(path) == readings[: sum(end <= length for end in ends[1:])]


def test_existing_file_is_replaced_when_the_log_is_entered(tmp_path: Path):
    path = tmp_path / "drift.csv"
    path.write_text("something longer than the heading of a log " * 20)
    log = DriftLog(path)
    assert path.stat().st_size > 500
    with log:
        assert read_drift_csv(path) == []


HEADING = ",".join(COLUMNS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not a drift readout"),
        ("frame,sh", "it is not a drift readout"),
        ("a,b\n1,2\n", "it is not a drift readout"),
        (f"{HEADING}\n0,1,1,1,1,1,1\n1,2\n", "line 3 is '1,2', expected a number for each of frame, shift"),
        (f"{HEADING}\n0,1,1,1,1,1,1,1\n", "line 2 is '0,1,1,1,1,1,1,1'"),
        (f"{HEADING}\n0.5,1,1,1,1,1,1\n", "line 2 is"),
        (f"{HEADING}\n0,1,1,one,1,1,1\n", "line 2 is"),
        (f"{HEADING}\n\n", "line 2 is ''"),
        (f"{HEADING}\n0,1,1,nan,1,1,1\n", "line 2 has a number that is infinite or NaN"),
        (f"{HEADING}\n0,1,1,\x00\x1b\r,1,1,1\n", "line 2 is"),
    ],
)
def test_file_that_is_none_is_one_clear_sentence(tmp_path: Path, text: str, message: str):
    (tmp_path / "drift.csv").write_text(text, newline="")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read_drift_csv(tmp_path / "drift.csv")
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"cannot read {tmp_path / 'drift.csv'}: ")
    assert str(caught.value).isprintable()


def test_unreadable_files_are_one_clear_sentence(tmp_path: Path):
    with pytest.raises(ValueError, match=r"^cannot read .*nowhere.csv: no such file or directory$"):
        read_drift_csv(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match=r"^cannot read .*: is a directory$"):
        read_drift_csv(tmp_path)
    (tmp_path / "random.csv").write_bytes(os.urandom(5000))
    with pytest.raises(ValueError, match="it is not a drift readout"):
        read_drift_csv(tmp_path / "random.csv")


@pytest.mark.parametrize("name", ["", "nowhere/drift.csv", "x" * 300 + ".csv"], ids=["folder", "no folder", "long"])
def test_unwritable_path_is_found_on_entering(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match=r"^cannot write [^\n]*$"), DriftLog(tmp_path / name):
        pass
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_one_clear_sentence_and_what_was_written_stays(tmp_path: Path, file_size_limit):
    path = tmp_path / "drift.csv"
    with DriftLog(path) as log, file_size_limit(1000):

        def append_all() -> None:
            for reading in some_readings(100):
                log.append(reading)

        with pytest.raises(ValueError, match=r"^cannot write .*: file too large$"):
            append_all()
    kept = read_drift_csv(path)
    assert 3 < len(kept) < 100
    assert kept == some_readings(len(kept))


# Plot


def colours(readings: list[DriftReading], title: str = "") -> np.ndarray:
    image = plot_drift(readings, title)
    assert (image.mode, image.size) == ("RGB", (1000, 750))
    return np.asarray(image)


def test_plot_shows_every_measure():
    """In each of the six panels there is a blue line, and it is another one where the numbers are others."""
    blue = np.array([0x1F, 0x5F, 0xA8])
    pictures = [colours(some_readings(64)), colours([DriftReading(k, 0, 1, 1, 0, 0, 0) for k in range(64)])]
    drawn = [np.abs(picture.astype(int) - blue).sum(axis=-1) < 30 for picture in pictures]
    for row in range(3):
        for column in range(2):
            panels = [one[row * 250 : (row + 1) * 250, column * 500 : (column + 1) * 500] for one in drawn]
            assert all(panel.sum() > 200 for panel in panels), (row, column)
            assert (panels[0] != panels[1]).any(), (row, column)


@pytest.mark.parametrize("count", [1, 2, 100_000])
def test_plot_of_any_length(count: int):
    readings = [DriftReading(k, 0.1, 1.0, 0.9, 0.2, 0.3, 0.5) for k in range(count)]
    assert len(np.unique(colours(readings) @ [1 << 16, 1 << 8, 1])) > 5


def test_plot_takes_any_numbers_and_titles():
    extremes = [DriftReading(k, 1e300 * k, 1e-300, 1e6, 0.0, 5e-324, 1.0) for k in range(3)]
    plain = colours(extremes)
    titled = colours(extremes, r"costs $5 \frac{ and $x " + "many words " * 100 + "\n\n" + "w" * 500)
    assert (titled != plain).any()


def test_plot_without_readings_is_refused():
    with pytest.raises(ValueError, match="at least one reading"):
        plot_drift([])


def test_plot_leaves_no_global_state():
    code = (
        "import sys\n"
        "from artv_core.run.drift import DriftReading, plot_drift\n"
        "assert not [name for name in sys.modules if name.startswith('matplotlib')]\n"
        "plot_drift([DriftReading(0, 0, 1, 1, 0, 0, 0)])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    ended = python_with(*COMMANDS).run(code)
    assert ended.returncode == 0, ended.stderr


def test_without_matplotlib_the_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"] + ["matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"^the plot needs matplotlib: pip install matplotlib$"):
        plot_drift(some_readings(2))
