"""The quality table of the world of pictures: true clips pass it; frozen, blurring, wrong and empty ones fail it."""

import json
import sys
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from artv_core.checkpoint import load_checkpoint, shipped_checkpoint
from artv_core.evaluation import pictures_training
from artv_core.evaluation.pictures import (
    Watched,
    background_drift,
    confusions,
    detail_of_places,
    held,
    motion_table,
    picture_table,
    right_things,
    sharpness_kept,
    texture_kept,
    watch,
)
from artv_core.evaluation.pictures_judge import Judge, Seen, load_judge, save_judge, see
from artv_core.evaluation.pictures_motion import right_direction, told_motions, velocity
from artv_core.evaluation.pictures_prompts import picture_prompts, true_scenes
from artv_core.evaluation.pictures_training import JudgeTraining, train_judge, true_frames
from artv_core.synthetic.pictures.names import (
    DETAILED_PLACES,
    MOTIONS,
    OTHER_MOTIONS,
    PLACES,
    THINGS,
    is_held_out,
    vocabulary,
)
from artv_core.synthetic.pictures.scenes import Scenes
from artv_core.synthetic.pictures.world import PictureWorld

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import quality  # noqa: E402
import quality_pictures as benchmark  # noqa: E402

PROMPTS = picture_prompts()
FRAMES = 16


@pytest.fixture(scope="module")
def world() -> PictureWorld:
    return PictureWorld(pictures=4)


@pytest.fixture(scope="module")
def scenes(world: PictureWorld) -> Scenes:
    return true_scenes(world, PROMPTS)


@pytest.fixture(scope="module")
def true(world: PictureWorld) -> Watched:
    videos = benchmark.true_videos(world, PROMPTS, FRAMES, 128)
    return watch(load_judge(benchmark.JUDGE), videos, PROMPTS)


def perfectly_seen(world: PictureWorld, scenes: Scenes, frames: int) -> Seen:
    """What a judge without faults sees."""
    times = torch.arange(float(frames)).expand(len(scenes), -1)
    x, y, side, angle = (value[..., 0] for value in world.states(scenes, times))
    return Seen(
        things=F.one_hot(scenes.things[:, 0], len(THINGS)).float()[:, None].expand(-1, frames, -1),
        places=F.one_hot(scenes.places, len(PLACES)).float()[:, None].expand(-1, frames, -1),
        there=torch.ones(len(scenes), frames),
        position=torch.stack([x, y], dim=-1) % 1,
        size=side,
        turned=torch.stack([angle.cos(), angle.sin()], dim=-1),
    )


def changed(seen: Seen, change) -> Seen:
    return Seen(**{field.name: change(getattr(seen, field.name)) for field in fields(Seen)})


# Prompts


def test_prompts_are_held_out_and_mixed():
    assert len(PROMPTS) == len({prompt.thing for prompt in PROMPTS}) == 64
    assert all(is_held_out(THINGS.index(prompt.thing), PLACES.index(prompt.place)) for prompt in PROMPTS)
    motions = Counter(prompt.motion for prompt in PROMPTS)
    assert set(motions) == set(MOTIONS)
    assert sum(motions[motion] for motion in OTHER_MOTIONS) == 24
    assert all(motions[motion] == 4 for motion in OTHER_MOTIONS)
    assert sum(prompt.place in DETAILED_PLACES for prompt in PROMPTS) == 48
    assert {prompt.place for prompt in PROMPTS} == set(PLACES)
    assert {prompt.size for prompt in PROMPTS} == {"", "small", "large"}


def test_a_model_that_knows_fewer_things_is_asked_for_those():
    known = set(" ".join(THINGS[::3]).split())
    words = known | (set(vocabulary()) - set(" ".join(THINGS).split())) | {"orange"}
    prompts = picture_prompts(words)
    assert len(prompts) == 64
    assert max(Counter(prompt.thing for prompt in prompts).values()) <= 4
    assert all(set(prompt.caption.split()) <= words for prompt in prompts)
    assert picture_prompts(vocabulary()) == PROMPTS
    with pytest.raises(ValueError, match="knows none of the things that are held out"):
        picture_prompts({"cat", "a"})


def test_true_scenes_are_what_the_prompts_say(world: PictureWorld, scenes: Scenes):
    assert world.captions(scenes) == [prompt.caption for prompt in PROMPTS]
    assert len({(x, y) for x, y in zip(scenes.x[:, 0].tolist(), scenes.y[:, 0].tolist(), strict=True)}) == 64


# Motion


@pytest.mark.parametrize("start", [0, 48])
def test_motion_is_told_from_where_things_are(world: PictureWorld, scenes: Scenes, start: int):
    seen = perfectly_seen(world, scenes, start + 16)
    assert set(motion_table(Watched(torch.empty(64, 64), seen, PROMPTS), start, "x").values()) == {1.0}
    torch.manual_seed(0)
    shaken = replace(seen, position=(seen.position + 0.01 * torch.randn(seen.position.shape)) % 1)
    assert min(motion_table(Watched(torch.empty(64, 64), shaken, PROMPTS), start, "x").values()) >= 0.98


def test_wrong_motion_is_seen(world: PictureWorld, scenes: Scenes):
    seen = perfectly_seen(world, scenes, 16)
    frozen = changed(seen, lambda value: value[:, :1].expand_as(value))
    found = motion_table(Watched(torch.empty(64, 64), frozen, PROMPTS), 0, "x")
    assert list(found.values()) == [0, 0, pytest.approx(4 / 24)]  # one other motion in six is standing still
    linear = [prompt.motion for prompt in PROMPTS if prompt.linear]
    rows = torch.tensor([prompt.linear for prompt in PROMPTS])
    backwards = changed(seen, lambda value: value.flip(1))
    assert not right_direction(velocity(backwards, 0, 16)[rows], linear).any()
    gone = replace(seen, there=torch.zeros_like(seen.there))
    assert set(told_motions(gone, 0, 16)) == {"nothing there"}
    assert not right_direction(velocity(gone, 0, 16)[rows], linear).any()


def test_only_what_moves_along_a_line_has_a_direction():
    with pytest.raises(ValueError, match="'spinning fast', which has no direction"):
        right_direction(torch.zeros(1, 2), ["spinning fast"])


# What is kept


@pytest.fixture(scope="module")
def two_frames(world: PictureWorld, scenes: Scenes) -> Watched:
    seen = perfectly_seen(world, scenes[:24], 16)
    videos = world.render(scenes[:24], torch.tensor([0.0, 1.0, 15.0]).expand(24, -1))
    return Watched(videos, changed(seen, lambda value: value[:, [0, 1, 15]]), PROMPTS[:24])


def test_true_clips_keep_everything(two_frames: Watched):
    assert background_drift(two_frames, 2) == 0
    assert texture_kept(two_frames, 2) == pytest.approx(1)
    assert sharpness_kept(two_frames, 2) == pytest.approx(1, abs=0.03)
    assert detail_of_places(two_frames, two_frames) == pytest.approx(1)


def last_changed(watched: Watched, change) -> Watched:
    videos = watched.videos.clone()
    videos[:, 2] = change(videos[:, 2])
    return replace(watched, videos=videos)


def test_what_is_lost_is_seen(two_frames: Watched):
    blurred = last_changed(two_frames, lambda images: F.avg_pool2d(images, 3, 1, 1, count_include_pad=False))
    assert texture_kept(blurred, 2) < 0.6
    assert sharpness_kept(blurred, 2) < 0.85
    darker = last_changed(two_frames, lambda images: 0.9 * images)
    assert background_drift(darker, 2) > 5
    noisy = last_changed(blurred, lambda images: images + 0.1 * torch.randn(images.shape))
    assert texture_kept(noisy, 2) <= 1  # noise does not make up for what others lost
    gone = replace(two_frames.seen, there=two_frames.seen.there.clone())
    gone.there[:, 2] = 0
    assert sharpness_kept(replace(two_frames, seen=gone), 2) == 0


def test_where_a_thing_was_is_not_still(two_frames: Watched):
    """Without what the judge sees, the thing itself would count as drift."""
    blind = replace(two_frames.seen, there=torch.zeros_like(two_frames.seen.there))
    assert background_drift(replace(two_frames, seen=blind), 2) > 1


def test_drift_is_told_apart_by_where_the_thing_was_on_the_way(two_frames: Watched):
    """It is seen in frame 1 alone, at the upper left. There the last frame is darker."""
    seen = replace(two_frames.seen, there=torch.zeros_like(two_frames.seen.there))
    seen.there[:, 1] = 1
    seen = replace(seen, position=torch.full_like(seen.position, 0.25), size=torch.full_like(seen.size, 0.3))
    watched = replace(two_frames, seen=seen)
    videos = watched.videos[:, :1].repeat(1, 3, 1, 1, 1)
    there = slice(videos.shape[-1] // 8, 3 * videos.shape[-1] // 8)
    videos[:, 2, :, there, there] *= 0.5
    far, passed, both = (background_drift(replace(watched, videos=videos), 2, passed) for passed in (False, True, None))
    assert far == 0
    assert 0 < both < passed


# The judge


def test_the_judge_passes_true_clips(true: Watched):
    table = picture_table(true)
    for name, value in table.items():
        if name.startswith("background drift"):
            assert value < 0.5
        else:
            assert value >= 0.98, (name, value, confusions(true, 15))
    assert {name.rpartition(" frame")[0] for name in table} >= {"thing recognised at", "place recognised at"}


def test_the_judge_sees_smaller_frames_as_well(world: PictureWorld):
    table = picture_table(
        watch(load_judge(benchmark.JUDGE), benchmark.true_videos(world, PROMPTS[:16], 16, 64), PROMPTS[:16])
    )
    assert min(value for name, value in table.items() if "drift" not in name) >= 0.98


def test_the_judge_fails_frozen_and_blurring_videos(true: Watched):
    table = picture_table(benchmark.frozen(true))
    assert table["direction within 30 degrees, frames 0-15"] == table["speed within 30%, frames 0-15"] == 0
    assert table["other motions recognised, frames 0-15"] <= 0.25
    assert table["thing recognised at frame 15"] >= 0.98
    blurring = benchmark.blurring(true.videos[:16])
    found = held(watch(load_judge(benchmark.JUDGE), blurring, PROMPTS[:16]), 15)
    assert found["texture kept"] < 0.5
    assert found["sharpness of the thing over frame 1"] < 0.8


def test_the_judge_sees_other_things_and_none(world: PictureWorld, true: Watched):
    others = replace(true, prompts=[*PROMPTS[1:], PROMPTS[0]])
    assert right_things(others, 0).float().mean() < 0.05
    empty = world.ground(true_scenes(world, PROMPTS))[:, None]
    assert (see(load_judge(benchmark.JUDGE), empty).there > 0.5).float().mean() <= 0.05


def test_the_judge_is_small_and_saw_true_frames_right():
    assert benchmark.JUDGE.stat().st_size < 1.5e6
    with safe_open(benchmark.JUDGE, "pt") as file:
        about = json.loads(file.metadata()["judge"])
    assert min(about["on true frames"][name] for name in ("thing", "place", "there")) >= 0.98
    assert about["command"].startswith("python benchmarks/judge.py")


def test_a_judge_of_other_things_is_refused(tmp_path: Path):
    path = tmp_path / "judge.safetensors"
    save_judge(Judge(), path, {})
    load_judge(path)
    text = path.read_bytes()
    path.write_bytes(text.replace(b"hedgehog", b"porcupin"))
    with pytest.raises(ValueError, match="other things or places"):
        load_judge(path)


def test_training_goes_on_as_if_it_had_not_been_stopped(
    world: PictureWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pictures_training, "SCENES", 1)  # small batches are as good here
    monkeypatch.setattr(pictures_training, "HELD_OUT_SCENES", 1)
    options = JudgeTraining(steps=3, pool=0, save_every=1)
    whole = train_judge(world, None, options)

    def stop(step: int, losses: dict[str, float]) -> None:
        if step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_judge(world, None, options, tmp_path / "state.pt", stop)
    again = train_judge(world, None, options, tmp_path / "state.pt")
    found = again.state_dict()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, found[name]), name


def test_training_frames_show_what_their_labels_say(world: PictureWorld):
    frames, labels = true_frames(world, 6, 2, 2, torch.Generator().manual_seed(3))
    assert frames.shape == (32, 3, 128, 128)
    assert labels.there.tolist() == [1] * 24 + [0] * 8
    assert is_held_out(int(labels.thing[-1]), int(labels.place[-1]))
    assert labels.position.min() >= 0
    assert labels.position.max() < 1
    first, last = frames[24:28], frames[28:32]
    assert (first == first[:1]).all()
    assert (last == last[:1]).all()


def test_each_video_needs_its_prompt(true: Watched):
    with pytest.raises(ValueError, match="got 64 videos and 3 prompts"):
        watch(Judge(), true.videos, PROMPTS[:3])


# The benchmark


def test_the_world_follows_from_the_words():
    small = load_checkpoint(shipped_checkpoint("small"), without=("mask", "text"))
    assert quality.is_of_pictures(small)
    tiny = load_checkpoint(shipped_checkpoint("tiny"), without=("mask", "text"))
    assert not quality.is_of_pictures(tiny)


def test_a_section_keeps_what_was_measured_the_same_way():
    columns = {"small-v1": {"thing recognised at frame 0": 0.9}}
    about = {"checkpoint": "small-v1", "seed": 0, "overrides": {}}
    first = benchmark.as_section({}, {"columns": columns}, about)
    seconds = {benchmark.SECONDS: {"value": 0.5, "on": "2 CPU cores"}}
    both = benchmark.as_section(first, seconds, about)
    values = {bar["name"]: (bar["value"], bar["holds"]) for bar in both["bars"]}
    assert values["thing recognised at frame 0"] == (0.9, True)
    assert values[benchmark.SECONDS] == (0.5, True)
    assert values["thing recognised at frame 63"] == (None, False)
    other = benchmark.as_section(first, seconds, about | {"seed": 1})
    assert "columns" not in other


def test_measurements_and_model_card_say_what_was_measured():
    result = json.loads(quality.RESULT.read_text())
    section = result["world of pictures"]["small-v2"]
    assert {bar["name"] for bar in section["bars"]} == {*benchmark.BARS, benchmark.SECONDS}
    table = benchmark.markdown(section)
    for path in (ROOT / "docs/measurements.md", shipped_checkpoint("small").with_suffix(".md")):
        assert f"<!-- table: quality of small -->\n{table}\n\n" in path.read_text(), path
