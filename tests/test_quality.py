"""The quality table itself: true clips pass it, a frozen video and shuffled ones fail it."""

import json
import math
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from artv_core.checkpoint import shipped_checkpoint
from artv_core.synthetic.quality import (
    appearance,
    background_drift,
    direction,
    holding,
    object_drift,
    quality_clips,
    read_rollout,
    sharpness_kept,
    speed,
    survival,
)
from artv_core.synthetic.shapes import held_out_combinations, render, sample_clip

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks/results/quality.json"


@pytest.fixture(scope="module")
def videos() -> Tensor:
    return render(quality_clips(48), 24, 64, 64)


def test_prompts_are_held_out_and_even():
    clips = quality_clips(64)
    assert {(clip.color, clip.kind, clip.background) for clip in clips} == held_out_combinations()
    assert set(Counter(clip.motion for clip in clips).values()) == {8}
    assert max(Counter(clip.size for clip in clips).values()) <= 22
    assert not {clip.caption for clip in clips} & {sample_clip(1, index).caption for index in range(3000)}


def test_true_clips_pass(videos: Tensor):
    clips, read = quality_clips(48), read_rollout(videos)
    table = appearance(read, clips) | holding(read, clips, 23)
    for name, value in table.items():
        if name.startswith("background drift"):
            assert value < 2
        elif name.startswith("sharpness"):
            assert value == pytest.approx(1, abs=0.1)
        else:
            assert value >= 0.98, name


def test_a_frozen_video_fails(videos: Tensor):
    clips, read = quality_clips(48), read_rollout(videos[:, :1].expand(-1, 24, -1, -1, -1))
    assert direction(read, clips, 0, 16) == 0
    assert speed(read, clips, 8, 24) == 0
    assert survival(read, clips, 23) >= 0.98


def test_what_goes_wrong_is_seen(videos: Tensor):
    clips, videos = quality_clips(16), videos[:16]
    backwards = read_rollout(videos.flip(1))
    assert direction(backwards, clips, 0, 16) == 0
    faded = read_rollout(videos * torch.linspace(1, 0.8, 24)[:, None, None, None])
    assert background_drift(faded, 23) > 10
    assert object_drift(faded, 23) > 10 > 5 > object_drift(read_rollout(videos), 23)
    assert sharpness_kept(faded, 23) < 0.85
    empty = read_rollout(videos[..., :1, :1].expand_as(videos))
    assert survival(empty, clips, 23) < 0.1
    assert math.isnan(object_drift(empty, 23))


def test_what_was_measured_is_the_shipped_checkpoint():
    assert shipped_checkpoint("tiny").stem == json.loads(RESULT.read_text())["checkpoint"]


def test_measurements_and_model_card_say_what_was_measured():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import quality

    result = json.loads(RESULT.read_text())
    table = quality.markdown(result)
    assert len(table.splitlines()) == 2 + len(quality.BARS) + 1 + 2 + 2
    for path in (ROOT / "docs/measurements.md", shipped_checkpoint("tiny").with_suffix(".md")):
        assert f"<!-- table: quality -->\n{table}\n\n" in path.read_text(), path


@pytest.mark.parametrize(
    ("words", "replaced"),
    [
        ("--part table", ["bars", "true clips"]),
        ("--part table --set steps=4 first_frame_steps=12", []),
        ("--part table --seed 1", []),
        ("--part table --checkpoint tiny-fast", []),
        ("--checkpoint small", ["world of pictures"]),
        ("--checkpoint small --seed 1", []),
        ("--checkpoint small --frames 65", []),
        ("--checkpoint small --set return_to_anchor=0", []),
    ],
)
def test_only_the_usual_measurement_is_written(words, replaced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import quality

    names = [*quality.BARS, *(f"direction from {given}" for given in ("two true frames", "one true frame and text"))]
    drawn: list[Path] = []
    monkeypatch.setattr(sys, "argv", ["quality.py", *words.split()])
    monkeypatch.setattr(quality, "RESULT", tmp_path / "quality.json")
    monkeypatch.setattr(quality, "quality_clips", lambda count: quality_clips(3))
    monkeypatch.setattr(quality, "measure_model", lambda *_: (dict.fromkeys(names, 0.5), None))
    monkeypatch.setattr(quality, "save_sheet", lambda videos, clips, path: drawn.append(path))
    monkeypatch.setattr(quality, "put_tables", lambda path, tables: drawn.append(path))
    monkeypatch.setattr(quality.pictures, "measure", lambda *_: {"prompts": 0})
    (tmp_path / "quality.json").write_text(RESULT.read_text())
    quality.main()

    before, after = (json.loads(path.read_text()) for path in (RESULT, tmp_path / "quality.json"))
    assert bool(drawn) == bool(replaced)
    assert {name for name in before if before[name] != after.get(name)} - {"commit", "machine"} == set(replaced)


def test_tables_are_replaced_where_they_stand(tmp_path: Path):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from tables import put_tables

    path = tmp_path / "text.md"
    path.write_text("Before.\n\n<!-- table: one -->\n| old |\n| table |\n\nAfter.\n\n<!-- table: two -->\n\nMore.\n")
    put_tables(path, {"one": "| new |", "two": "| first |", "three": "| nowhere |"})
    assert path.read_text() == (
        "Before.\n\n<!-- table: one -->\n| new |\n\nAfter.\n\n<!-- table: two -->\n| first |\n\nMore.\n"
    )
