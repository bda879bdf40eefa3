"""The drift readout: numbers that can be reckoned by hand."""

import pytest
import torch

from artv_core.evaluation.drift import DriftMeter, drift_table


def test_readings_say_how_far_a_frame_is_from_the_first_and_from_the_one_before():
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
    assert [reading.spread for reading in readings] == pytest.approx([1, 1, 2, 1])
    assert [reading.motion for reading in readings] == pytest.approx([0, 0.5, 1, 1])
    assert [reading.copied for reading in readings] == pytest.approx([0, 0.75, 0, 0])


def test_shifts_that_cancel_are_still_drift():
    meter = DriftMeter()
    first = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    meter.read(0, first)
    shifted = first + torch.tensor([1.0, -1.0])[:, None, None]
    assert meter.read(1, shifted).shift == pytest.approx(1.0, abs=1e-5)


def test_an_empty_frame_does_not_divide_by_zero():
    meter = DriftMeter()
    meter.read(0, torch.zeros(3, 2, 2))
    assert torch.isfinite(torch.tensor(meter.read(1, torch.ones(3, 2, 2)).spread))


def test_the_table_has_the_first_and_the_last_frame():
    meter = DriftMeter()
    readings = [meter.read(index, torch.full((3, 2, 2), float(index))) for index in range(100)]
    lines = drift_table(readings, rows=5).splitlines()
    assert lines[0].split() == ["frame", "shift", "spread", "motion", "copied"]
    assert [int(line.split()[0]) for line in (lines[1], lines[-1])] == [0, 99]
    assert len(lines) == 6
    assert lines[-1].split()[1] == "99.000"
