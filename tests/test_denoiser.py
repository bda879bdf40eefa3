import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from artv_core.config import ScheduleConfig
from artv_core.method.denoiser import Branch, GuidanceScales, MaskedDenoiser, guidance_branches, mix, mix_eps
from artv_core.method.noise_schedule import NoiseSchedule
from artv_core.method.samplers import SAMPLERS, gaussian_noise

EPS = NoiseSchedule(ScheduleConfig())
V = NoiseSchedule(ScheduleConfig(betas="linear", beta_start=1e-4, beta_end=0.02, prediction="v"))
SCHEDULES = pytest.mark.parametrize("schedule", [EPS, V], ids=["eps", "v"])

BLANK = Branch(False, False, False)
REFERENCES = Branch(True, False, False)
ANCHOR = Branch(True, True, False)
FULL = Branch(True, True, True)


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Network(nn.Module):
    """A small random network of (x_t, t, condition): conditions [batch] shift it. Remembers what it was called with."""

    def __init__(self, out_channels: int = 4, seed: int = 0, bias: float = 0.0):
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, padding=1)
        self.last = nn.Conv2d(8, out_channels, 3, padding=1)
        for index, parameter in enumerate(self.parameters()):
            parameter.data = 0.3 * _random(*parameter.shape, seed=seed + index)
        self.last.bias.data += bias
        self.calls: list[tuple[Tensor, Tensor]] = []

    def forward(self, x_t: Tensor, timesteps: Tensor, conditions: Tensor) -> Tensor:
        self.calls.append((x_t, timesteps))
        assert x_t.shape[0] == timesteps.shape[0]
        branches = conditions.shape[0] // x_t.shape[0]
        shift = timesteps.repeat(branches) / 1000 + conditions
        hidden = self.first(x_t.repeat(branches, 1, 1, 1)) + shift[:, None, None, None].to(x_t.dtype)
        return self.last(torch.tanh(hidden))


def _conditions(branches: list[tuple[Branch, float]], batch: int = 1) -> Tensor:
    """A number for each branch, told apart by the conditions it is given; branch-major."""
    values = [0.4 * branch.references - 0.9 * branch.anchor + 0.7 * branch.text for branch, _ in branches]
    return torch.tensor(values).repeat_interleave(batch)


# --- mixing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [ScheduleConfig(), ScheduleConfig(betas="linear", beta_start=1e-4, beta_end=0.02)], ids=["sd", "linear"]
)
def test_mixes_in_eps_space_and_x0_space_agree_at_all_timesteps(config):
    schedule, times = NoiseSchedule(config), torch.arange(1000)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-6)):
        x_t, reference, eps = (_random(1000, 4, 3, 3, seed=seed, dtype=dtype) for seed in range(3))
        mask = torch.rand(1000, 1, 3, 3, generator=torch.Generator().manual_seed(4), dtype=dtype)
        literal = mix_eps(mask, schedule.static_noise(x_t, reference, times), eps)
        from_eps = schedule.to_x0(literal, x_t, times)
        direct = mix(mask, reference, schedule.to_x0(eps, x_t, times))
        assert direct.dtype == dtype
        error = (from_eps - direct).abs().amax(dim=(1, 2, 3)) / direct.abs().amax(dim=(1, 2, 3))
        assert float(error.max()) < tolerance
        back = schedule.from_x0(direct, x_t, times)
        assert float((back - literal).abs().max() / literal.abs().max()) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mask_one_and_zero_are_exact_to_the_bit(dtype):
    reference, dynamic = _random(5, 4, 64, 64, seed=1, dtype=dtype), 1e3 * _random(5, 4, 64, 64, seed=2, dtype=dtype)
    ones = torch.ones(5, 1, 64, 64, dtype=dtype)
    assert torch.equal(mix(ones, reference, dynamic), reference)
    assert torch.equal(mix(0 * ones, reference, dynamic), dynamic)
    pattern = (_random(5, 1, 64, 64, seed=3) > 0).to(dtype)
    assert torch.equal(mix(pattern, reference, dynamic), torch.where(pattern.bool(), reference, dynamic))


def test_mix_is_a_weighted_mean_with_gradients():
    reference, dynamic, mask = (_random(2, 4, 5, 5, seed=s, dtype=torch.float64) for s in range(3))
    mask = mask[:, :1].sigmoid().requires_grad_()
    mixed = mix(mask, reference, dynamic)
    torch.testing.assert_close(mixed, mask * reference + (1 - mask) * dynamic, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(mixed.sum(), mask)
    torch.testing.assert_close(gradient, (reference - dynamic).sum(1, keepdim=True), rtol=1e-12, atol=1e-12)


def test_mix_is_done_in_float32_for_half_precision():
    latent = _random(1, 4, 2, 2).bfloat16()
    assert mix(torch.ones(1, 1, 2, 2).bfloat16(), latent, latent).dtype == torch.float32


# --- guidance ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scales", "present", "expected"),
    [
        ((1, 1, 1), (True, True, True), [(FULL, 1)]),
        ((2, 3, 7.5), (True, True, True), [(BLANK, -1), (REFERENCES, -1), (ANCHOR, -4.5), (FULL, 7.5)]),
        ((1, 1, 7.5), (True, True, True), [(ANCHOR, -6.5), (FULL, 7.5)]),
        ((1, 2, 2), (True, True, True), [(REFERENCES, -1), (FULL, 2)]),
        ((3, 3, 3), (True, True, True), [(BLANK, -2), (FULL, 3)]),
        ((1, 1, 0), (True, True, True), [(ANCHOR, 1)]),
        ((1, 0, 0), (True, True, True), [(REFERENCES, 1)]),
        ((0, 0, 0), (True, True, True), [(BLANK, 1)]),
        # The first frame: blank references and anchor. Their scales must not matter.
        ((5, 9, 3), (False, False, True), [(BLANK, -2), (Branch(False, False, True), 3)]),
        ((5, 9, 1), (False, False, True), [(Branch(False, False, True), 1)]),
        ((1.1, 0.3, 1), (False, False, True), [(Branch(False, False, True), 1)]),
        ((5, 9, 3), (False, False, False), [(BLANK, 1)]),
        ((2, 9, 3), (True, False, True), [(BLANK, -1), (REFERENCES, -1), (Branch(True, False, True), 3)]),
        ((2, 3, 9), (True, True, False), [(BLANK, -1), (REFERENCES, -1), (ANCHOR, 3)]),
        (
            (9, 2, 3),
            (False, True, True),
            [(BLANK, -1), (Branch(False, True, False), -1), (Branch(False, True, True), 3)],
        ),
    ],
)
def test_guidance_table(scales, present, expected):
    assert guidance_branches(GuidanceScales(*scales), *present) == expected


def test_coefficients_sum_to_one_and_none_is_zero():
    for scales in itertools.product((0, 0.3, 1, 1.1, 4), repeat=3):
        for present in itertools.product((False, True), repeat=3):
            branches = guidance_branches(GuidanceScales(*scales), *present)
            coefficients = [coefficient for _, coefficient in branches]
            assert sum(coefficients) == pytest.approx(1)
            assert 0 not in coefficients
            assert len({branch for branch, _ in branches}) == len(branches) <= 1 + sum(present)


def test_history_guidance_adds_one_branch_with_noisier_references():
    noisier = replace(FULL, noisier=True)
    plain = guidance_branches(GuidanceScales(1, 2, 3), True, True, True)
    guided = guidance_branches(GuidanceScales(1, 2, 3, 1.5), True, True, True)
    assert plain == [(REFERENCES, -1), (ANCHOR, -1), (FULL, 3)]
    assert guided == [(REFERENCES, -1), (ANCHOR, -1), (FULL, 3.5), (noisier, -0.5)]
    assert guidance_branches(GuidanceScales(history=2), True, True, True) == [(FULL, 2), (noisier, -1)]
    without_anchor = Branch(True, False, True)
    expected = [(without_anchor, 2), (replace(without_anchor, noisier=True), -1)]
    assert guidance_branches(GuidanceScales(history=2), True, False, True) == expected
    # A first frame has no history.
    assert guidance_branches(GuidanceScales(history=2), False, False, True) == [(Branch(False, False, True), 1)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_guidance_scales_must_be_finite(bad):
    with pytest.raises(ValueError, match=f"guidance scale for anchor is {bad}, accepted are finite numbers"):
        GuidanceScales(anchor=bad)


@SCHEDULES
def test_guided_result_equals_the_nested_formula(schedule):
    scales = GuidanceScales(1.7, 0.6, 5.0)
    branches = guidance_branches(scales, True, True, True)
    network, x, sigma = Network(), _random(2, 4, 6, 6, seed=3) * 5, torch.tensor(4.0)
    denoiser = MaskedDenoiser(schedule, network, _conditions(branches, batch=2), branches)
    guided = denoiser(x, sigma)
    assert len(network.calls) == 1, "the branches of a step must be one batch"

    def single(branch: Branch) -> Tensor:
        lone = [(branch, 1.0)]
        return MaskedDenoiser(schedule, network, _conditions(lone, batch=2), lone)(x, sigma)

    blank, references, anchor, full = (single(branch) for branch in (BLANK, REFERENCES, ANCHOR, FULL))
    nested = (
        blank
        + scales.references * (references - blank)
        + scales.anchor * (anchor - references)
        + scales.text * (full - anchor)
    )
    torch.testing.assert_close(guided, nested, rtol=1e-4, atol=1e-4)
    assert float((guided - full).detach().abs().max()) > 0.1, "the test must be able to tell guided from not guided"


@SCHEDULES
def test_networks_see_the_variance_preserving_scale_and_the_time_step(schedule):
    network, x = Network(), _random(2, 4, 6, 6)
    denoiser = MaskedDenoiser(schedule, network, torch.zeros(2), [(FULL, 1.0)])
    denoised = denoiser(x, schedule.sigmas[321])
    ((x_t, timesteps),) = network.calls
    assert timesteps.tolist() == [321.0, 321.0]
    assert timesteps.dtype == torch.float32
    a, _ = schedule.scales(timesteps)
    torch.testing.assert_close(x_t, a * x, rtol=1e-6, atol=1e-6)
    expected = schedule.to_x0(network(x_t, timesteps, torch.zeros(2)), x_t, timesteps)
    torch.testing.assert_close(denoised, expected, rtol=1e-5, atol=1e-5)


@SCHEDULES
def test_a_perfect_prediction_gives_the_clean_latent(schedule):
    x0, noise = _random(2, 4, 5, 5, seed=1), _random(2, 4, 5, 5, seed=2)
    for step in (0, 10, 500, 999):
        sigma = schedule.sigmas[step]
        target = schedule.target(x0, noise, torch.full((2,), step))
        denoiser = MaskedDenoiser(schedule, lambda x_t, t, c, target=target: target, None, [(FULL, 1.0)])
        error = (denoiser(x0 + float(sigma) * noise, sigma) - x0).abs().max()
        assert float(error) < 1e-6 * (1 + float(sigma)) * 4


# --- guidance and mask ------------------------------------------------------------------------------------------------


def _masked(
    schedule: NoiseSchedule, scales: GuidanceScales, reference: Tensor, bias: float, **options
) -> MaskedDenoiser:
    branches = guidance_branches(scales, True, True, True)
    batch = reference.shape[0]
    mask_branches = [item for item in branches if item[0].references] if options else [(FULL, 1.0)]
    return MaskedDenoiser(
        schedule,
        Network(),
        _conditions(branches, batch),
        branches,
        mask_network=Network(out_channels=1, seed=9, bias=bias),
        mask_conditions=_conditions(mask_branches, batch),
        reference_latent=reference,
        **options,
    )


@SCHEDULES
@pytest.mark.parametrize("name", SAMPLERS)
def test_mask_one_and_a_still_scene_reproduce_the_reference_to_the_bit(schedule, name):
    reference = _random(2, 4, 8, 8, seed=7)
    denoiser = _masked(schedule, GuidanceScales(1.3, 2.0, 7.5), reference, bias=1e4)
    sigmas = schedule.sampling_sigmas(5)
    noise = gaussian_noise(torch.Generator().manual_seed(0), reference)
    start = noise(sigmas[0], sigmas[1]) * sigmas[0]
    assert torch.equal(SAMPLERS[name](denoiser, start, sigmas, noise_sampler=noise), reference)
    assert torch.equal(denoiser.mask, torch.ones(2, 1, 8, 8))


@pytest.mark.parametrize("scales", [(0, 0, 0), (1, 1, 1), (1.5, 1, 7.5), (4, 8, 16), (-2, 0.3, 100)])
def test_a_still_scene_stays_still_over_64_frames(scales):
    first = _random(1, 4, 8, 8, seed=7)
    sigmas, frame = V.sampling_sigmas(3), first
    for index in range(64):
        noise = gaussian_noise(torch.Generator().manual_seed(index), frame)
        denoiser = _masked(V, GuidanceScales(*scales), frame, bias=1e4)
        start = noise(sigmas[0], sigmas[1]) * sigmas[0]
        frame = SAMPLERS["dpmpp_2s_ancestral"](denoiser, start, sigmas, noise_sampler=noise)
    assert torch.equal(frame, first)


def test_mask_zero_is_the_guided_noise_network_alone():
    scales, reference, x = GuidanceScales(1.3, 2.0, 7.5), _random(1, 4, 8, 8, seed=7), _random(1, 4, 8, 8)
    branches = guidance_branches(scales, True, True, True)
    alone = MaskedDenoiser(EPS, Network(), _conditions(branches), branches)
    masked = _masked(EPS, scales, reference, bias=-1e4)
    assert torch.equal(masked(x, torch.tensor(2.0)), alone(x, torch.tensor(2.0)))
    assert alone.mask is None


def test_default_mixes_once_after_guidance():
    scales, reference, x = GuidanceScales(1.3, 2.0, 7.5), _random(2, 4, 8, 8, seed=7), _random(2, 4, 8, 8)
    sigma = torch.tensor(2.0)
    masked = _masked(EPS, scales, reference, bias=0.3)
    mixed = masked(x, sigma)
    mask_network = masked.mask_network
    assert isinstance(mask_network, Network)
    assert [len(x_t) for x_t, _ in mask_network.calls] == [2], "one mask evaluation of batch B"
    assert masked.mask is not None
    assert masked.mask.shape == (2, 1, 8, 8)
    assert bool(((masked.mask > 0) & (masked.mask < 1)).all())
    assert masked.mask.unique().numel() > 1
    guided = MaskedDenoiser(EPS, masked.noise_network, masked.conditions, masked.branches)(x, sigma)
    torch.testing.assert_close(mixed, mix(masked.mask, reference, guided), rtol=1e-6, atol=1e-6)


def test_every_branch_mixes_those_with_references_and_then_guides():
    scales, reference, x = GuidanceScales(1.3, 2.0, 7.5), _random(2, 4, 8, 8, seed=7), _random(2, 4, 8, 8)
    sigma = torch.tensor(2.0)
    literal = _masked(EPS, scales, reference, bias=0.3, mix_mode="every_branch")
    result = literal(x, sigma)
    expected = torch.zeros_like(x)
    for branch, coefficient in literal.branches:
        lone = [(branch, 1.0)]
        single = MaskedDenoiser(
            EPS,
            literal.noise_network,
            _conditions(lone, 2),
            lone,
            mask_network=literal.mask_network if branch.references else None,
            mask_conditions=_conditions(lone, 2),
            reference_latent=reference,
        )
        expected += coefficient * single(x, sigma)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(literal.mask, single.mask, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(result, _masked(EPS, scales, reference, bias=0.3)(x, sigma), atol=1e-2)


def test_the_two_mix_modes_agree_where_one_branch_is_enough():
    reference, x, sigma = _random(2, 4, 8, 8, seed=7), _random(2, 4, 8, 8), torch.tensor(2.0)
    once = _masked(EPS, GuidanceScales(), reference, bias=0.3)
    literal = _masked(EPS, GuidanceScales(), reference, bias=0.3, mix_mode="every_branch")
    assert torch.equal(once(x, sigma), literal(x, sigma))


def test_half_precision_is_only_the_networks_business_and_double_everyones():
    x, sigma = _random(2, 4, 6, 6), torch.tensor(1.5)
    branches = guidance_branches(GuidanceScales(text=3.0), True, True, True)
    conditions = _conditions(branches, 2)
    single = MaskedDenoiser(EPS, Network(), conditions, branches)(x, sigma)
    for dtype, outside, tolerance in (
        (torch.bfloat16, torch.float32, 0.2),
        (torch.float32, torch.float32, 0),
        (torch.float64, torch.float64, 1e-4),
    ):
        network = Network().to(dtype)
        got = MaskedDenoiser(EPS, network, conditions.to(dtype), branches, network_dtype=dtype)(x, sigma)
        assert network.calls[0][0].dtype == dtype
        assert got.dtype == outside
        torch.testing.assert_close(got.float(), single, rtol=tolerance, atol=tolerance)


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match="'twice'; accepted are after_guidance, every_branch"):
        MaskedDenoiser(EPS, Network(), None, [(FULL, 1.0)], mix_mode="twice")
    with pytest.raises(ValueError, match="give both or neither"):
        MaskedDenoiser(EPS, Network(), None, [(FULL, 1.0)], mask_network=Network(1))
    with pytest.raises(ValueError, match="take them from guidance_branches"):
        MaskedDenoiser(EPS, Network(), None, [])
