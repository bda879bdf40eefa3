"""Masks by time step (`artv_core.training.mask_steps`), against masks and mixes whose answer is known."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from artv_core.method.denoiser import mix
from artv_core.method.noise_schedule import STATIC_NOISES
from artv_core.method.randomness import normal, seeded_generator
from artv_core.models.artv import ARTV
from artv_core.synthetic import quality
from artv_core.synthetic.shapes import render
from artv_core.training.mask_steps import _best_mask, mask_by_step
from tests.models import smallest, smallest_config

CLIPS = quality.quality_clips(2)
STILL = [replace(clip, motion="standing still") for clip in CLIPS]


def networks_of(form: str) -> ARTV:
    """Both networks give the same everywhere: a mask of 0.3, and no noise."""
    model = smallest(schedule=replace(smallest_config().schedule, prediction="eps", static_noise=form))
    for network, value in ((model.noise, 0.0), (model.mask, math.log(0.3 / 0.7))):
        assert network is not None
        closing = network.diffusion_model.out[-1]
        nn.init.zeros_(closing.weight)
        nn.init.constant_(closing.bias, value)
    return model


@pytest.mark.parametrize("form", STATIC_NOISES)
def test_the_mean_of_the_mask_is_that_of_the_mask_network(form):
    for copied in mask_by_step(networks_of(form), CLIPS, (999, 0)).values():
        assert (copied.still, copied.other) == pytest.approx((0.3, 0.3))


def test_the_exact_form_is_best_where_nothing_moves():
    """There the reference is the frame, bit for bit, and the noise network of this test is wrong everywhere."""
    for copied in mask_by_step(networks_of("exact"), STILL, (999, 519, 0)).values():
        assert copied.best_still == pytest.approx(1)
        assert math.isnan(copied.other)
        assert math.isnan(copied.best_other)


def test_the_subtracted_form_is_far_from_a_still_frame_at_the_noisiest_step():
    """Its eps is off by x_0, and that of this test's noise network by eps itself: they mix best by their powers."""
    model = networks_of("subtracted")
    copied = mask_by_step(model, STILL, (999,))[999]
    frame = model.encode_images(render(STILL, 3, *model.config.size)[:, 2])
    noise = torch.stack([normal(tuple(frame.shape[1:]), seeded_generator(0, clip)) for clip in range(len(STILL))])
    toward = -frame + noise
    assert copied.best_still == pytest.approx(float((noise * toward).sum() / toward.square().sum()), abs=0.01)


@pytest.fixture
def latents() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    target, noise = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    return target, target + 0.3 * noise, target + 0.2 * torch.randn_like(noise)


def test_no_other_mask_mixes_better(latents):
    target, static, dynamic = latents
    cells = torch.rand(2, 1, 8, 8) < 0.5
    best = _best_mask(cells, static, dynamic, target)

    def error(mask: float) -> float:
        mixed = mix(torch.full((2, 1, 8, 8), mask, dtype=torch.float64), static, dynamic)
        return float(((mixed - target) * cells).square().sum())

    assert 0 < best < 1
    assert min((mask / 1000 for mask in range(1001)), key=error) == pytest.approx(best, abs=0.001)


def test_what_is_right_already_is_taken_whole(latents):
    target, static, dynamic = latents
    every = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    assert _best_mask(every, target, dynamic, target) == pytest.approx(1)
    assert _best_mask(every, static, target, target) == 0
    assert _best_mask(every, dynamic + 2 * (dynamic - target), dynamic, target) == 0, "it copies nothing that is worse"
    assert torch.tensor(_best_mask(~every, static, dynamic, target)).isnan(), "no cells have no best mask"


def test_without_a_mask_network_there_is_nothing_to_measure():
    model = smallest(mask=None)
    with pytest.raises(ValueError, match="has no mask network"):
        mask_by_step(model, CLIPS, (0,))
