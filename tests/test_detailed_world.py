"""The detailed world: the plain world's clips with scenery, what is measured of them, and training on them."""

import hashlib
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from artv_core.synthetic.detailed import (
    detailed_clips,
    ground_drift,
    never_near,
    object_direction,
    object_readings,
    object_speed,
    object_there,
    texture_kept,
)
from artv_core.synthetic.shapes import COLORS, GRAINS, Clip, ground, held_out_combinations, render, sample_clip
from artv_core.training.config import TrainConfig, read_config
from artv_core.training.run import _summary, run
from artv_core.training.synthetic_clips import provenance, read_clips
from artv_core.training.vae import VAETraining

pytestmark = pytest.mark.usefixtures("uncounted")

PLAIN_CHECKSUM = "9b185eb0b494fa056d7f8b26b429f22bc60abfee06094b55c341186c6acb5d0b"
"""Of the first plain clips, as they were before there was another world."""
SMALL = """
name = "small"
preset = "tiny"
[latents]
clips = 4
frames = 3
[vae]
steps = 2
batch_size = 2
"""
LAST = 31


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return detailed_clips(32)


@pytest.fixture(scope="module")
def videos(clips: list[Clip]) -> Tensor:
    return render(clips, LAST + 1, 64, 64)


def small(folder: Path, world: str) -> TrainConfig:
    path = folder / "small.toml"
    path.write_text(SMALL)
    return read_config(path, [f"world={world}"])


def test_plain_clips_are_what_they_were():
    clips = [
        sample_clip(seed, index, held_out) for seed in (-1, 3) for index in range(50) for held_out in (False, True)
    ]
    drawn = "\n".join(
        f"{c.caption} {c.size} {c.speed} {c.x} {c.y} {c.phase} {c.tint} {c.background_tint}" for c in clips
    )
    assert hashlib.sha256(drawn.encode()).hexdigest() == PLAIN_CHECKSUM
    assert {(c.grain, c.bystanders) for c in clips} == {(0.0, ())}
    assert sample_clip(3, 7) == sample_clip(3, 7, world="plain")


def test_a_detailed_clip_is_the_plain_one_with_scenery():
    held_out = held_out_combinations()
    for index in range(200):
        plain, detailed = sample_clip(3, index), sample_clip(3, index, world="detailed")
        assert detailed == sample_clip(3, index, world="detailed")
        assert replace(detailed, grain=0.0, grain_kind=GRAINS[0], grain_seed=0, bystanders=()) == plain
        assert 0.10 <= detailed.grain <= 0.22
        assert 3 <= len(detailed.bystanders) <= 6
        for bystander in detailed.bystanders:
            assert bystander.color not in (detailed.color, detailed.background)
            assert (bystander.color, bystander.kind, detailed.background) not in held_out
    assert {sample_clip(3, index, world="detailed").grain_kind for index in range(50)} == set(GRAINS)


def test_the_object_covers_the_scenery_and_all_else_is_ground():
    plain, detailed = ([sample_clip(3, index, world=world) for index in range(16)] for world in ("plain", "detailed"))
    frames, with_scenery = render(plain, 3, 48, 96), render(detailed, 3, 48, 96)
    on_black, on_white = (
        render([replace(c, background=name) for c in plain], 3, 48, 96) for name in ("black", "white")
    )
    covered = (on_black == on_white).all(dim=2, keepdim=True)
    away = (frames == ground(plain, 48, 96)[:, None]).all(dim=2, keepdim=True)
    assert covered.float().mean() > 0.02
    assert away.float().mean() > 0.5
    assert torch.equal(with_scenery * covered, frames * covered)
    assert torch.equal(with_scenery * away, ground(detailed, 48, 96)[:, None] * away)


def test_plain_ground_is_one_shaded_colour():
    clip = replace(sample_clip(3, 0), background="blue", background_tint=0.02)
    rows = torch.linspace(1.05, 0.95, 64)[:, None].expand(64, 64)
    expected = (torch.tensor(COLORS["blue"])[:, None, None] + 0.02) * rows
    assert torch.allclose(ground([clip], 64, 64)[0], expected)


def test_the_scene_is_the_same_at_twice_the_size():
    clips = [sample_clip(3, index, world="detailed") for index in range(8)]
    once, twice = ground(clips, 64, 64), F.avg_pool2d(ground(clips, 128, 128), 2)
    assert (once - twice).abs().mean() < 0.02 < (once - once.flip(0)).abs().mean()


def test_bystanders_wrap_round():
    clip = sample_clip(3, 0, world="detailed")
    bare = replace(clip, grain=0.0, bystanders=tuple(replace(b, x=0.0, y=0.5) for b in clip.bystanders[:1]))
    differs = (ground([bare], 64, 64) != ground([replace(bare, bystanders=())], 64, 64)).any(dim=1)[0].any(dim=0)
    assert differs[:2].all()
    assert differs[-2:].all()
    assert not differs[10:-10].any()


def test_measured_clips_are_held_out_and_even(clips: list[Clip]):
    assert {(clip.color, clip.kind, clip.background) for clip in detailed_clips(64)} == held_out_combinations()
    assert set(Counter((clip.motion, clip.speed, clip.size) for clip in clips).values()) == {1}
    for clip in clips:
        assert not {clip.color, clip.background} & {bystander.color for bystander in clip.bystanders}


def test_true_clips_pass(videos: Tensor, clips: list[Clip]):
    for frame in (26, 29, LAST):
        for video, clip in zip(videos, clips, strict=True):
            assert ground_drift(video[None], [clip], frame) < 1, clip
    assert texture_kept(videos, clips, LAST) == pytest.approx(1, abs=0.01)
    assert object_there(videos, clips, LAST) == 1
    assert object_direction(videos, clips, 16, LAST + 1) == 1
    assert object_speed(videos, clips, 16, LAST + 1) == 1


def test_a_frozen_video_fails(videos: Tensor, clips: list[Clip]):
    frozen = videos[:, :1].expand_as(videos)
    assert ground_drift(frozen, clips, LAST) > 5
    assert object_direction(frozen, clips, 16, LAST + 1) == 0
    assert object_speed(frozen, clips, 16, LAST + 1) == 0
    assert object_there(frozen, clips, LAST) == 1


def test_what_goes_wrong_with_the_ground_is_seen(videos: Tensor, clips: list[Clip]):
    videos, clips = videos[::4], clips[::4]
    faded = videos * torch.linspace(1, 0.7, LAST + 1)[:, None, None, None]
    assert ground_drift(faded, clips, LAST) > 10
    assert texture_kept(faded, clips, LAST) < 0.95
    blurred = F.avg_pool2d(videos.flatten(0, 1), 17, stride=1, padding=8, count_include_pad=False).view_as(videos)
    assert texture_kept(blurred, clips, LAST) < 0.3
    assert ground_drift(blurred, clips, LAST) > 5
    drifting = torch.stack([frame.roll(index // 4, dims=-1) for index, frame in enumerate(videos.unbind(1))], dim=1)
    assert texture_kept(drifting, clips, LAST) < 0.5
    assert ground_drift(drifting, clips, LAST) > 5
    others = videos.roll(1, dims=0)
    assert abs(texture_kept(others, clips, LAST)) < 0.2


def test_where_the_object_never_was_the_texture_is_told_apart(videos: Tensor, clips: list[Clip]):
    videos, clips = videos[::2], clips[::2]
    never = never_near(clips, LAST + 1, 64, 64)
    assert torch.equal(videos * never[:, None], ground(clips, 64, 64)[:, None].expand_as(videos) * never[:, None])
    assert 0.15 < never.mean() < 0.6
    flat = ground([replace(clip, grain=0.0, bystanders=()) for clip in clips], 64, 64)[:, None]
    wiped = videos * never[:, None] + flat * (1 - never[:, None])
    assert texture_kept(wiped, clips, LAST, where=never) > 0.9
    assert abs(texture_kept(wiped, clips, LAST, where=1 - never)) < 0.1
    assert 0.1 < texture_kept(wiped, clips, LAST) < 0.7
    assert math.isnan(texture_kept(videos, clips, LAST, where=torch.zeros_like(never)))


def test_what_goes_wrong_with_the_object_is_seen(videos: Tensor, clips: list[Clip]):
    assert object_direction(videos.flip(1), clips, 16, LAST + 1) == 0
    assert object_speed(videos[:, ::4], clips, 0, 4) < 0.2
    empty = ground(clips, 64, 64)[:, None]
    assert object_there(empty, clips, 0) == 0
    recoloured = render([replace(clip, color=clip.bystanders[0].color) for clip in clips], 1, 64, 64)
    assert object_there(recoloured, clips, 0) == 0


def test_the_object_is_read_though_the_scenery_is_gone(clips: list[Clip]):
    bare = render([replace(clip, grain=0.0, bystanders=()) for clip in clips], 16, 64, 64)
    assert object_there(bare, clips, 15) == 1
    assert object_direction(bare, clips, 0, 16) == 1
    reading = object_readings(bare[:1], clips[:1]).readings[0][0]
    assert reading.position is not None
    assert reading.position[0] == pytest.approx(clips[0].x, abs=0.03)
    assert texture_kept(bare.repeat(1, 2, 1, 1, 1), clips, LAST) == pytest.approx(0, abs=0.01)


def test_wrong_windows_and_missing_clips_are_said_in_one_line(videos: Tensor, clips: list[Clip]):
    with pytest.raises(ValueError, match=r"^got frame 9 and a window of 27; .*, frames 0 to 31$"):
        ground_drift(videos, clips, 9)
    with pytest.raises(ValueError, match=r"frames 0 to 31$"):
        texture_kept(videos, clips, 32)
    with pytest.raises(ValueError, match=r"^got 32 videos and 1 clips; each video needs its clip$"):
        object_readings(videos, clips[:1])


def test_unknown_worlds_are_said_in_one_line(tmp_path: Path):
    with pytest.raises(ValueError, match=r"^world: got 'vast', accepted: plain, detailed$"):
        sample_clip(0, 0, world="vast")
    with pytest.raises(ValueError, match=r"^small\.toml\.world: got 'vast', accepted: plain, detailed, pictures$"):
        small(tmp_path, "vast")


def test_the_autoencoder_trains_on_the_world_that_is_named(tmp_path: Path):
    plain, detailed = (VAETraining(small(tmp_path, world)).batch(0, range(2))[0] for world in ("plain", "detailed"))
    assert torch.equal(
        detailed, render([sample_clip(1, index, world="detailed") for index in range(2)], 1, 64, 64)[:, 0]
    )
    assert not torch.equal(plain, detailed)


def test_a_run_makes_latents_of_its_world(tmp_path: Path):
    """With the same autoencoder, so that only the clips differ; what was made in one world is not read in the other."""
    plain, detailed = (small(tmp_path, world) for world in ("plain", "detailed"))
    run(detailed, str(tmp_path), ["vae", "latents"])
    vae, path = tmp_path / "small/vae.safetensors", tmp_path / "small/latents.safetensors"
    assert provenance(plain, vae)["clips"] == "seed 1, 4 clips of 3 frames, 64x64"
    assert provenance(detailed, vae)["clips"] == "seed 1, 4 clips of 3 frames, 64x64, detailed world"
    with pytest.raises(ValueError, match="another configuration"):
        read_clips(plain, provenance(plain, vae), path)
    in_detail = read_clips(detailed, provenance(detailed, vae), path)
    run(plain, str(tmp_path), ["latents"])
    in_plain = read_clips(plain, provenance(plain, vae), path)
    assert in_plain.latents.shape == in_detail.latents.shape == (4, 3, 4, 8, 8)
    assert not torch.equal(in_plain.latents, in_detail.latents)
    assert in_plain.captions == in_detail.captions


def test_the_checkpoint_says_of_which_world_it_is(tmp_path: Path):
    said = {world: json.loads(_summary(small(tmp_path, world)))["data"] for world in ("plain", "detailed")}
    assert said == {"plain": "synthetic world", "detailed": "synthetic world, detailed"}
