"""The copy mask of each denoising step: the callback carries it, and a sheet shows it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from artv_core.media import StepTile, step_sheet
from artv_core.method.options import GenerateOptions
from artv_core.method.samplers import SAMPLERS, StepInfo
from artv_core.models.artv import ARTV
from artv_core.run.pipeline import Pipeline
from tests.models import smallest


@pytest.fixture(scope="module")
def model() -> ARTV:
    return smallest()


def steps_of(model: ARTV, **changes) -> tuple[list, dict[int, list[StepInfo]]]:
    """The frames, and what the callback got for each of them."""
    infos: dict[int, list[StepInfo]] = {}
    quick = {"num_frames": 3, "height": 32, "width": 32, "steps": 3, "seed": 5}

    def note(index: int, info: StepInfo) -> None:
        infos.setdefault(index, []).append(info)

    frames = list(Pipeline(model).frames("a fox", GenerateOptions(**quick | changes), on_step=note))
    return frames, infos


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_masks_of_the_steps_average_to_the_frames_mask(model, sampler):
    frames, infos = steps_of(model, sampler=sampler, batch_size=2)
    assert [info.mask for info in infos[0]] == [None] * 3  # there is no frame to copy from
    for frame in frames[1:]:
        masks = [info.mask for info in infos[frame.index]]
        assert len(masks) == 3
        assert all(mask.shape == (2, 1, 4, 4) for mask in masks)
        assert not torch.equal(masks[0], masks[2])
        assert torch.equal(torch.stack(masks).mean(dim=0), frame.mask)


def test_the_mask_is_that_of_the_denoised_latent(model):
    """With a mask of 1 everywhere, the denoised latent is the frame before."""
    with torch.no_grad():
        copying = smallest()
        out = copying.mask.diffusion_model.out[-1]
        out.weight.zero_()
        out.bias.fill_(1e4)
    frames, infos = steps_of(copying)
    for info in infos[1]:
        assert torch.equal(info.mask, torch.ones(1, 1, 4, 4))
        assert torch.equal(info.denoised, frames[0].latent)


def test_without_the_mask_network_there_is_no_mask(model):
    _, infos = steps_of(model, use_mask=False)
    assert {info.mask for one in infos.values() for info in one} == {None}


def test_a_callback_changes_no_frame(model):
    frames, _ = steps_of(model)
    options = GenerateOptions(num_frames=3, height=32, width=32, steps=3, seed=5)
    for one, other in zip(frames, Pipeline(model).frames("a fox", options), strict=True):
        assert torch.equal(one.latent, other.latent)


# The sheet


def tile(value: float, size: tuple[int, int] = (8, 8), picture: torch.Tensor | None = None) -> StepTile:
    return StepTile("step 1, t = 999", torch.full(size, value), picture)


def pixels(tiles: list[StepTile]) -> np.ndarray:
    return np.array(step_sheet("Frame 5", tiles))


def test_a_tile_is_white_where_the_frame_is_copied():
    half = torch.zeros(8, 8)
    half[:, :4] = 1
    black, white, both = (pixels([StepTile("a step", mask)]) for mask in (half * 0, half * 0 + 1, half))
    changed = np.argwhere((black != white).any(axis=2))
    (top, _), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
    assert bottom - top > 180  # the tile is large, however few cells there are
    area = both[bottom - 100 : bottom - 5]
    assert (area[:, right - 60 : right - 5] == 0).all()
    inside = area[:, right - 180 : right - 110]
    assert (inside == 255).all()


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (64, 64), (96, 40), (300, 300)])
def test_tiles_have_a_readable_size(size):
    alone, many = pixels([tile(0.0, size)]), pixels([tile(0.0, size)] * 12)
    dark = (alone == 0).all(axis=2)
    assert 120 <= dark.any(axis=1).sum() <= 320 or 120 <= dark.any(axis=0).sum() <= 320
    assert many.shape[1] <= 1400
    assert (many == 0).all(axis=2).sum() > 11 * dark.sum()


def test_pictures_stand_beside_the_masks():
    green = torch.tensor([0.0, 1.0, 0.0])[:, None, None].expand(3, 64, 64)
    sheet = pixels([tile(0.0, picture=green)])
    is_green = (sheet == [0, 255, 0]).all(axis=2)
    is_black = (sheet == 0).all(axis=2)
    assert abs(int(is_green.sum()) - int(is_black.sum())) < 0.02 * is_black.sum()


def test_a_sheet_of_very_many_steps_is_not_endless():
    assert pixels([tile(0.5)] * 1000).shape == pixels([tile(0.5)] * 48).shape
    with pytest.raises(ValueError, match="at least one step"):
        step_sheet("Frame 5", [])


def test_a_samplers_own_callback_has_no_mask(model):
    """Samplers know nothing of masks."""
    info = StepInfo(0, 1, 1.0, torch.zeros(1), torch.zeros(1))
    assert info.mask is None
    assert replace(info, mask=torch.ones(1)).mask is not None
