"""The world of pictures: words, things, places, what is drawn by lot, and what is rendered."""

import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.config import ARTVConfig
from artv_core.synthetic.pictures import places as places_module
from artv_core.synthetic.pictures.motion import BOUNCE_FRAMES, PULSE_FRAMES, SWING_FRAMES, _turning_speeds, _velocities
from artv_core.synthetic.pictures.names import (
    DETAILED_PLACES,
    MOTIONS,
    OTHER_MOTIONS,
    PLACES,
    SIZES,
    THINGS,
    VELOCITIES,
    caption,
    is_held_out,
    vocabulary,
)
from artv_core.synthetic.pictures.places import paint_place, read_places
from artv_core.synthetic.pictures.scenes import Scenes, chosen, joined
from artv_core.synthetic.pictures.things import MARGIN, SHEET, read_things
from artv_core.synthetic.pictures.world import PictureWorld
from tests.device_waits import DeviceWaits


@pytest.fixture(scope="module")
def world() -> PictureWorld:
    return PictureWorld(pictures=1)


def draw(world: PictureWorld, count: int, seed: int = 1, **options: float) -> Scenes:
    return world.draw(count, torch.Generator().manual_seed(seed), **options)


def frames(count: int, length: int, start: float = 0.0) -> Tensor:
    return (start + torch.arange(float(length))).expand(count, -1)


def moving(scenes: Scenes, motion: str) -> Scenes:
    """The same with this motion, and one thing."""
    motions = torch.full_like(scenes.motions, MOTIONS.index(motion))
    return Scenes(**(vars(scenes) | {"motions": motions, "two": torch.zeros_like(scenes.two)}))


# Words


def test_words_are_those_of_the_shipped_small_model() -> None:
    with safe_open(resolve_checkpoint("small"), "pt") as file:
        config = ARTVConfig.from_json(file.metadata()["artv_config"])
    assert config.vocabulary == vocabulary()
    assert (len(THINGS), len(PLACES), len(MOTIONS)) == (131, 18, 22)


def test_captions_of_one_and_of_two_things() -> None:
    assert caption("owl", "bouncing", PLACES[6], "small") == "a small owl bouncing on a brick wall"
    both = caption("umbrella", "moving up fast", PLACES[11], second="apple", second_motion="moving up fast")
    assert both == "an umbrella and an apple moving up fast on an orange background"
    apart = caption("dog", "swinging", PLACES[7], second="cat", second_motion="standing still")
    assert apart == "a dog swinging and a cat standing still in a forest"


def test_all_words_of_captions_are_in_the_vocabulary(world: PictureWorld) -> None:
    captions = world.captions(draw(world, 4000, two_share=0.5))
    assert {word for text in captions for word in text.split()} == set(vocabulary())


def test_one_pair_in_ten_is_held_out_and_every_thing_has_such_a_place() -> None:
    pairs = [[is_held_out(thing, place) for place in range(18)] for thing in range(131)]
    assert all(any(row) and not all(row) for row in pairs)
    assert 0.09 < sum(map(sum, pairs)) / (131 * 18) < 0.11


# Things and places


def test_the_sheet_has_every_thing_and_is_small() -> None:
    things = read_things()
    assert things.shape == (131, 4, 96, 96)
    assert SHEET.stat().st_size < 2.5e6
    assert (things[:, :3] <= things[:, 3:]).all()  # colours times coverage
    assert things[:, 3].flatten(1).float().mean(dim=1).min() > 10
    assert not things[:, :, :MARGIN].any()
    assert not things[..., -MARGIN:].any()
    assert len({thing.numpy().tobytes() for thing in things}) == 131


def test_a_picture_of_a_place_follows_from_its_place_and_number() -> None:
    few, more = read_places(1), read_places(2)
    assert (len(few), len(more)) == (18, 28)
    torch.testing.assert_close(few[:10], more[0:20:2], rtol=0, atol=0)
    torch.testing.assert_close(few[10:], more[20:], rtol=0, atol=0)
    assert paint_place(3, 7).tobytes() == paint_place(3, 7).tobytes() != paint_place(3, 8).tobytes()


def test_places_differ_more_from_each_other_than_among_themselves() -> None:
    pictures = read_places(4)
    detailed = pictures[:40].float().unflatten(0, (10, 4))
    looks = torch.cat((detailed.mean((-1, -2)), detailed.std((-1, -2)), 5 * detailed.diff().abs().mean((-1, -2))), -1)
    centres = looks[:, :3].mean(dim=1)
    nearest = torch.cdist(looks[:, 3], centres).argmin(dim=1)
    assert nearest.tolist() == list(range(10))


def test_plain_places_have_the_color_that_they_are_called_by() -> None:
    pictures = read_places(1)
    red, _, yellow, green, blue, _, _, gray = pictures[10:].float().mean(dim=(2, 3))
    assert red.argmax() == 0
    assert green.argmax() == 1
    assert blue.argmax() == 2
    assert yellow[:2].min() > 2 * yellow[2]
    assert gray.max() < 1.3 * gray.min()


def test_many_places_are_kept_in_a_file_and_painted_again_if_it_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places_module, "WORTH_KEEPING", 1)
    painted: list[int] = []
    paint = places_module.paint_place
    monkeypatch.setattr(places_module, "paint_place", lambda *which: painted.append(1) or paint(*which))
    first = read_places.__wrapped__(1, tmp_path)
    (kept,) = tmp_path.glob("places-1-*.safetensors")
    again = read_places.__wrapped__(1, tmp_path)
    assert len(painted) == 18
    kept.write_bytes(kept.read_bytes()[:1000])
    third = read_places.__wrapped__(1, tmp_path)
    assert len(painted) == 36
    assert torch.equal(first, again)
    assert torch.equal(first, third)
    (tmp_path / "file").write_text("")
    assert torch.equal(read_places.__wrapped__(1, tmp_path / "file"), first)  # no folder can be made there


def test_no_pictures_of_places_are_refused() -> None:
    with pytest.raises(ValueError, match="pictures: got 0, at least 1"):
        PictureWorld(pictures=0)


# What is drawn by lot


def test_a_generator_gives_the_same_scenes_again(world: PictureWorld) -> None:
    first, again, other = draw(world, 50), draw(world, 50), draw(world, 50, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(again).values(), strict=True))
    assert not torch.equal(first.x, other.x)


def test_held_out_pairs_are_drawn_when_asked_for_and_never_else(world: PictureWorld) -> None:
    def pairs(scenes: Scenes, number: int) -> list[bool]:
        chosen_pairs = zip(scenes.things[:, number].tolist(), scenes.places.tolist(), strict=True)
        return [is_held_out(thing, place) for thing, place in chosen_pairs]

    seen, held_out = draw(world, 3000, two_share=1.0), draw(world, 3000, held_out=True, two_share=1.0)
    assert not any(pairs(seen, 0))
    assert all(pairs(held_out, 0))
    assert not any(pairs(seen, 1) + pairs(held_out, 1))
    assert (seen.things[:, 0] != seen.things[:, 1]).all()
    assert seen.two.all()


def test_everything_is_drawn_as_often_as_it_should_be(world: PictureWorld) -> None:
    scenes = draw(world, 20_000)
    assert abs(scenes.two.float().mean() - 0.1) < 0.01
    assert abs((scenes.places >= len(DETAILED_PLACES)).float().mean() - 0.25) < 0.02
    assert abs((scenes.motions[:, 0] < len(MOTIONS) - len(OTHER_MOTIONS)).float().mean() - 0.62) < 0.02
    assert abs((scenes.size[~scenes.two] > 0).float().mean() - 0.4) < 0.02
    for number, (low, high) in enumerate(SIZES.values()):
        sides = scenes.side[(scenes.size == number) & ~scenes.two]
        assert low <= sides.min() <= low + 0.002
        assert high - 0.002 <= sides.max() <= high
    assert set(scenes.things[:, 0].tolist()) == set(range(131))
    assert set(scenes.motions[:, 0].tolist()) == set(range(22))


def test_things_lie_inside_the_frame_at_first(world: PictureWorld) -> None:
    scenes = draw(world, 5000)
    state = world.states(scenes, frames(5000, 1))
    shown = torch.stack((torch.ones_like(scenes.two), scenes.two), dim=1)
    swinging = scenes.motions == MOTIONS.index("swinging")
    for centre in (state.x[:, 0], state.y[:, 0]):
        inside = (centre - scenes.side / 2 >= -1e-6) & (centre + scenes.side / 2 <= 1 + 1e-6)
        assert (inside | ~shown | swinging).all()


def test_a_share_of_zero_is_never_chosen() -> None:
    shares = torch.tensor([[0.0, 1.0, 0.0, 3.0, 0.0]])
    lots = torch.tensor([0.0, 0.2499, 0.25, 0.99999994, 1.0])
    assert chosen(shares.expand(5, -1), lots).tolist() == [1, 1, 3, 3, 3]


def test_scenes_are_chosen_and_joined(world: PictureWorld) -> None:
    scenes = draw(world, 10)
    parts = joined([scenes[:4], scenes[torch.arange(4, 10)]])
    assert len(parts) == len(scenes) == 10
    assert all(torch.equal(a, b) for a, b in zip(vars(parts).values(), vars(scenes).values(), strict=True))
    assert len(scenes[scenes.x[:, 0] > 0.5]) == int((scenes.x[:, 0] > 0.5).sum())


# What is rendered


class CountedCalls(TorchDispatchMode):
    """Counts operations of PyTorch, and calls of Python functions."""

    operations = calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += 1
        return func(*args, **(kwargs or {}))


def test_no_python_loop_over_samples(world: PictureWorld) -> None:
    """Draws and renders 3 and 48 clips: as many operations, and as many Python calls."""

    def counted(count: int) -> tuple[int, int]:
        calls = [0]
        with CountedCalls() as mode:
            sys.setprofile(lambda _, event, __: calls.__setitem__(0, calls[0] + (event in ("call", "c_call"))))
            try:
                scenes = world.draw(count, torch.Generator().manual_seed(1), two_share=1.0)
                world.layers(scenes, frames(count, 2), 32)
            finally:
                sys.setprofile(None)
        return mode.operations, calls[0]

    counted(3)  # what is made once
    few, many = counted(3), counted(48)
    assert few == many
    assert 50 < few[0] < 400


def test_motions_can_be_drawn_more_often(world: PictureWorld) -> None:
    """Twice the weight: twice as often against motions without one; nothing else of the distribution is asked."""
    generator = torch.Generator().manual_seed(3)
    usual = world.draw(20_000, generator)
    more = world.draw(20_000, generator, motion_weights={"swinging": 4.0, "standing still": 0.25})

    def ratio(scenes: Scenes, motion: str) -> float:
        counts = torch.bincount(scenes.motions[:, 0], minlength=len(MOTIONS))
        return float(counts[MOTIONS.index(motion)] / counts[MOTIONS.index("bouncing")])

    assert ratio(more, "swinging") / ratio(usual, "swinging") == pytest.approx(4, rel=0.15)
    assert ratio(more, "standing still") / ratio(usual, "standing still") == pytest.approx(0.25, rel=0.2)
    assert ratio(more, "moving left fast") / ratio(usual, "moving left fast") == pytest.approx(1, rel=0.2)


def test_a_gpu_would_never_be_waited_for_and_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted on a CPU that plays the device, on the way that a GPU goes, once tables and pictures are there."""
    world = PictureWorld(torch.device("cpu"), pictures=1)
    here = world.layers(draw(world, 8, two_share=0.5), frames(8, 2), 32)
    monkeypatch.setattr(world, "_may_look", False)
    generator, times = torch.Generator().manual_seed(1), frames(8, 2)
    held = [vars(world), vars(world._scene_drawings[torch.device("cpu")]), _velocities(times.device)]
    with DeviceWaits(times, held, _turning_speeds(times.device), read_places(1)) as waits:
        there = world.layers(world.draw(8, generator, two_share=0.5), times, 32)
    assert waits.count == 0, waits.where
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_frames_are_the_place_where_no_thing_is(world: PictureWorld) -> None:
    scenes = draw(world, 24, two_share=0.5)
    images, covered = world.layers(scenes, frames(24, 3), 48)
    ground = world.ground(scenes, 48)
    assert images.shape == (24, 3, 3, 48, 48)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    still = (covered == 0).expand_as(images)
    assert still.float().mean() > 0.5
    assert torch.equal(images[still], ground[:, None].expand_as(images)[still])
    assert torch.equal(world.render(scenes, frames(24, 3), 48), images)
    assert torch.equal(world.coverage(scenes, frames(24, 3), 48), covered)


def test_places_go_on_at_their_borders(world: PictureWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the padding "border", which PyTorch has not everywhere."""
    scenes, side = draw(world, 24), 160  # larger than the pictures, so that some pixels lie beyond their last ones
    sample = F.grid_sample
    at = (2 * torch.arange(side) + 1) / side - 1
    across = (at / scenes.zoom[:, None] + scenes.shift[:, :1]) * scenes.flip[:, None]
    down = at / scenes.zoom[:, None] + scenes.shift[:, 1:]
    grid = torch.stack((across[:, None, :].expand(-1, side, -1), down[:, :, None].expand(-1, -1, side)), dim=-1)

    def sampled(pictures: Tensor, clamped: Tensor, padding_mode: str, align_corners: bool) -> Tensor:
        assert padding_mode != "border"
        drawn = sample(pictures, clamped, padding_mode=padding_mode, align_corners=align_corners)
        expected = sample(pictures, grid, padding_mode="border", align_corners=align_corners)
        torch.testing.assert_close(drawn, expected, rtol=0, atol=2e-5)
        assert not torch.allclose(sample(pictures, grid, align_corners=align_corners), expected, atol=0.1)
        return drawn

    monkeypatch.setattr(F, "grid_sample", sampled)
    assert world.ground(scenes, side).shape == (24, 3, side, side)


def test_things_cover_what_their_pictures_cover(world: PictureWorld) -> None:
    scenes = moving(draw(world, 131), "standing still")
    scenes = Scenes(**(vars(scenes) | {"things": torch.arange(131)[:, None].expand(-1, 2)}))
    covered = world.coverage(scenes, frames(131, 1), 96).mean(dim=(1, 2, 3, 4))
    shares = read_things()[:, 3].float().mean(dim=(1, 2)) / 255
    torch.testing.assert_close(covered, shares * scenes.side[:, 0].square(), rtol=0.03, atol=0)


@pytest.mark.parametrize("motion", MOTIONS[:16])
def test_linear_motion_goes_where_it_says_and_wraps_round(world: PictureWorld, motion: str) -> None:
    scenes = moving(draw(world, 3), motion)
    times = torch.tensor([[0.0, 1.0, 32.0, 128.0]]).expand(3, -1)
    x, y, side, angle = world.states(scenes, times)
    velocity = torch.stack((x[:, 1] - x[:, 0], y[:, 1] - y[:, 0]), dim=-1)
    torch.testing.assert_close(velocity, torch.tensor(VELOCITIES[MOTIONS.index(motion)]).expand_as(velocity))
    torch.testing.assert_close(side, scenes.side[:, None].expand_as(side))
    assert not angle.any()
    covered, later = (world.coverage(scenes, each, 64)[:, :, 0] for each in (times, times + 4))
    x_shift, y_shift = (4 * 64 * part for part in VELOCITIES[MOTIONS.index(motion)])
    if x_shift and y_shift:  # not by whole pixels: up to interpolation
        rolled = covered.roll((round(y_shift), round(x_shift)), dims=(-2, -1))
        assert (later - rolled).abs().mean() < 0.1 * covered.mean()
    else:
        rolled = covered.roll((int(y_shift), int(x_shift)), dims=(-2, -1))
        torch.testing.assert_close(later, rolled, atol=1e-3, rtol=0)
        torch.testing.assert_close(covered[:, 3], covered[:, 0], atol=1e-3, rtol=0)  # once, or more often, round


@pytest.mark.parametrize(
    ("motion", "period"),
    [
        ("bouncing", BOUNCE_FRAMES),
        ("spinning slowly", 30),
        ("spinning fast", 12),
        ("pulsing", PULSE_FRAMES),
        ("swinging", SWING_FRAMES),
    ],
)
def test_other_motions_come_back_after_their_period_and_not_before(
    world: PictureWorld, motion: str, period: int
) -> None:
    scenes = moving(draw(world, 8), motion)
    images = world.render(scenes, frames(8, 2 * period), 32)
    torch.testing.assert_close(images[:, :period], images[:, period:], atol=2e-3, rtol=0)
    changes = (images[:, 1:period] - images[:, :1]).abs().amax(dim=(0, 2, 3, 4))
    assert (changes > 0.05).all()


def test_what_stands_still_stands_still_to_the_bit(world: PictureWorld) -> None:
    images = world.render(moving(draw(world, 8), "standing still"), frames(8, 3), 64)
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])


def test_turning_is_clockwise_and_as_fast_as_it_says(world: PictureWorld) -> None:
    state = world.states(moving(draw(world, 4), "spinning fast"), frames(4, 2))
    torch.testing.assert_close(state.angle[:, 1] - state.angle[:, 0], torch.full((4, 2), math.radians(30)))
    hat = moving(draw(world, 1), "spinning fast")
    changes = {"things": torch.full((1, 2), THINGS.index("top hat")), "x": torch.full((1, 2), 0.5)}
    hat = Scenes(**(vars(hat) | changes | {"y": torch.full((1, 2), 0.5), "phase": torch.zeros(1, 2)}))
    covered = world.coverage(hat, torch.tensor([[0.0, 3.0]]), 64)[0, :, 0]
    # A quarter turn clockwise brings the brim, which is below, to the left.
    torch.testing.assert_close(covered[1], covered[0].rot90(-1), atol=0.02, rtol=0)


def test_a_smaller_frame_is_the_large_one_made_smaller(world: PictureWorld) -> None:
    scenes, times = draw(world, 32, two_share=0.5), frames(32, 2)
    large, small = world.render(scenes, times, 128), world.render(scenes, times, 64)
    reduced = torch.nn.functional.interpolate(large.flatten(0, 1), size=64, mode="bicubic", antialias=True)
    error = (reduced.unflatten(0, (32, 2)) - small).square().mean()
    assert -10 * error.log10() > 27


def test_a_window_is_that_part_of_the_frame(world: PictureWorld) -> None:
    scenes, times = draw(world, 12, two_share=0.5), frames(12, 2, start=3.5)
    window = world.window_on_things(scenes, times[:, 0], 40, torch.Generator().manual_seed(3), size=96)
    part, whole = world.layers(scenes, times, 96, window), world.layers(scenes, times, 96)
    for left, top, number in zip(*(window.origin * 96).round().int().T.tolist(), range(12), strict=True):
        for cut, full in zip(part, whole, strict=True):
            expected = full[number, ..., top : top + 40, left : left + 40]
            torch.testing.assert_close(cut[number], expected, atol=1e-4, rtol=0)
    ground = world.ground(scenes, 96, window)
    assert ground.shape == (12, 3, 40, 40)


def test_windows_lie_on_things(world: PictureWorld) -> None:
    scenes, times = draw(world, 200), frames(200, 1, start=9.0)
    window = world.window_on_things(scenes, times[:, 0], 64, torch.Generator().manual_seed(3))
    inside = world.coverage(scenes, times, 128, window).mean(dim=(1, 2, 3, 4))
    anywhere = world.coverage(scenes, times).mean(dim=(1, 2, 3, 4))
    assert (inside > 0.01).float().mean() > 0.97
    assert inside.mean() > 2 * anywhere.mean()


def test_the_second_thing_lies_behind_and_is_there_only_where_told(world: PictureWorld) -> None:
    scenes = moving(draw(world, 16), "standing still")
    centre = torch.full((16, 2), 0.5)
    scenes = Scenes(**(vars(scenes) | {"x": centre, "y": centre, "side": torch.tensor([[0.3, 0.5]]).expand(16, -1)}))
    both = Scenes(**(vars(scenes) | {"two": torch.ones_like(scenes.two)}))
    (alone, covered), (together, more) = (world.layers(each, frames(16, 1), 64) for each in (scenes, both))
    front = (covered >= 1 - 1e-6).expand_as(alone)
    torch.testing.assert_close(together[front], alone[front], atol=1e-5, rtol=0)
    assert (more >= covered - 1e-6).all()
    assert more.mean() > 1.3 * covered.mean()


def test_the_small_models_autoencoder_knows_these_pictures(world: PictureWorld) -> None:
    vae = load_checkpoint(resolve_checkpoint("small"), without=("mask", "text")).float().require_vae()
    images = world.render(draw(world, 24), frames(24, 1))[:, 0]
    with torch.inference_mode():
        error = (vae.decode(vae.encode(images)) - images).square().mean(dim=(1, 2, 3))
    assert -10 * error.log10().mean() > 30


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_renders_the_same() -> None:
    here, there = PictureWorld(pictures=1), PictureWorld("cuda", pictures=1)
    scenes = draw(here, 32, two_share=0.5)
    images, covered = there.layers(scenes.to("cuda"), frames(32, 3).cuda(), 64)
    expected, expected_cover = here.layers(scenes, frames(32, 3), 64)
    torch.testing.assert_close(images.cpu(), expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(covered.cpu(), expected_cover, atol=2e-3, rtol=0)
    drawn = there.draw(32, torch.Generator("cuda").manual_seed(1))
    assert drawn.x.device.type == "cuda"
