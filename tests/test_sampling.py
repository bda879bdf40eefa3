import importlib
import importlib.util
import itertools
import math
import sys
import types
from collections.abc import Callable

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from artv_core.config import ScheduleConfig
from artv_core.method.noise_schedule import NoiseSchedule
from artv_core.method.samplers import SAMPLERS, StepInfo, gaussian_noise, get_sampler, num_evaluations

SD = NoiseSchedule(ScheduleConfig())
LINEAR = NoiseSchedule(ScheduleConfig(betas="linear", beta_start=1e-4, beta_end=0.02))
ALL = pytest.mark.parametrize("name", SAMPLERS)
STOCHASTIC = ("euler_ancestral", "dpmpp_2s_ancestral", "ddim")


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _silent(sigma: Tensor, sigma_next: Tensor) -> Tensor:
    raise AssertionError("a deterministic run must not draw noise")


def mixture(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact denoiser of a mixture of three Gaussians (deviations 0.3) in latent space."""
    level = sigma.to(x.dtype).reshape(-1, *[1] * x.ndim)
    centres = 2 * torch.randn(3, *x.shape[1:], generator=_generator(11), dtype=torch.float64).to(x.dtype)
    variance = 0.3**2 + level**2
    distance = x[:, None] - centres
    weights = (-(distance**2) / (2 * variance)).flatten(2).sum(-1).softmax(1)[..., None, None, None]
    return (weights * (centres + distance * 0.3**2 / variance)).sum(1)


class ConvDenoiser(nn.Module):
    """A random convolution network in EDM's preconditioning; nothing about it is linear in x or sigma."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 4, 3, padding=1)
        for parameter in self.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=_generator(parameter.numel()))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.to(x.dtype).reshape(-1, 1, 1, 1)
        total = (1 + level**2).sqrt()
        return x / total**2 + level / total * self.last(torch.sin(self.first(x / total) + level.log()))


@pytest.fixture(scope="module")
def public() -> types.ModuleType:
    """`k_diffusion.sampling` without the package's own __init__, which imports much that samplers do not need."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        pytest.skip("k-diffusion is not installed")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations or ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "k_diffusion", package)
        return importlib.import_module("k_diffusion.sampling")


def _relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("denoiser", [mixture, ConvDenoiser()], ids=["mixture", "conv"])
@pytest.mark.parametrize("schedule", [SD, LINEAR], ids=["sd", "linear"])
@pytest.mark.parametrize("spacing", ["uniform", "karras"])
@pytest.mark.parametrize(
    ("name", "public_name", "options"),
    [
        ("euler", "sample_euler", {}),
        ("ddim", "sample_euler", {"eta": 0.0}),
        ("dpmpp_2m", "sample_dpmpp_2m", {}),
        ("euler_ancestral", "sample_euler_ancestral", {"eta": 1.0}),
        ("euler_ancestral", "sample_euler_ancestral", {"eta": 0.5, "s_noise": 0.9}),
        ("dpmpp_2s_ancestral", "sample_dpmpp_2s_ancestral", {"eta": 1.0}),
        ("dpmpp_2s_ancestral", "sample_dpmpp_2s_ancestral", {"eta": 0.0}),
        ("dpmpp_2s_ancestral", "sample_dpmpp_2s_ancestral", {"eta": 0.6, "s_noise": 1.05}),
    ],
)
def test_trajectories_equal_k_diffusions(public, denoiser, schedule, spacing, name, public_name, options):
    sigmas = schedule.sampling_sigmas(9, spacing)
    x = torch.randn(2, 4, 6, 6, generator=_generator(1)) * sigmas[0]
    ours: list[StepInfo] = []
    theirs: list[dict[str, Tensor]] = []
    result = SAMPLERS[name](
        denoiser, x, sigmas, noise_sampler=gaussian_noise(_generator(2), x), callback=ours.append, **options
    )
    extra = {**options, "noise_sampler": gaussian_noise(_generator(2), x)} if "ancestral" in name else {}
    expected = getattr(public, public_name)(denoiser, x, sigmas.float(), callback=theirs.append, disable=True, **extra)
    assert result.dtype == expected.dtype == torch.float32
    assert len(ours) == len(theirs) == 9
    for mine, other in zip(ours, theirs, strict=True):
        assert _relative_error(mine.x, other["x"]) < 1e-4
        assert _relative_error(mine.denoised, other["denoised"]) < 1e-4
    assert _relative_error(result, expected) < 1e-4


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_equals_diffusers(eta):
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(10)
    x_t = torch.randn(2, 4, 6, 6, generator=_generator(1), dtype=torch.float64)
    sigmas = SD.sampling_sigmas(10)
    x = x_t * (1 + sigmas[0] ** 2).sqrt()
    draw = gaussian_noise(_generator(2), x)
    for time in scheduler.timesteps:
        sigma = SD.sigma(time)
        x_ve = x_t * (1 + sigma**2).sqrt()
        eps = (x_ve - mixture(x_ve, sigma)) / sigma
        noise = draw(sigma, sigma) if eta > 0 and int(time) > 99 else torch.zeros_like(x_t)
        x_t = scheduler.step(eps, int(time), x_t, eta=eta, variance_noise=noise).prev_sample
    result = SAMPLERS["ddim"](mixture, x, sigmas, noise_sampler=gaussian_noise(_generator(2), x), eta=eta)
    assert _relative_error(result, x_t) < 1e-4


def _gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact denoiser of a Gaussian with mean 0.7 and deviation 0.5."""
    return (0.25 * x + sigma**2 * 0.7) / (0.25 + sigma**2)


def _ode_error(name: str, steps: int) -> float:
    """From sigma 10 to 0.1 along the probability flow of `_gaussian`, against its solution by hand."""
    sigmas = torch.logspace(1, -1, steps + 1, dtype=torch.float64)
    x = torch.linspace(-30, 30, 64, dtype=torch.float64).reshape(1, 4, 4, 4)
    exact = 0.7 + (x - 0.7) * math.sqrt((0.25 + 0.1**2) / (0.25 + 10**2))
    return float((SAMPLERS[name](_gaussian, x, sigmas, noise_sampler=_silent, eta=0.0) - exact).abs().max())


@pytest.mark.parametrize(
    ("name", "order"), [("euler", 1), ("euler_ancestral", 1), ("ddim", 1), ("dpmpp_2m", 2), ("dpmpp_2s_ancestral", 2)]
)
def test_order_of_convergence(name, order):
    errors = [_ode_error(name, steps) for steps in (40, 80, 160)]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_ancestral_samples_have_the_targets_moments(name):
    sigmas = LINEAR.sampling_sigmas(200, "karras")
    x = torch.randn(1, 1, 200, 200, generator=_generator(1)) * sigmas[0]
    sample = SAMPLERS[name](_gaussian, x, sigmas, noise_sampler=gaussian_noise(_generator(2), x))
    assert float(sample.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(sample.std()) == pytest.approx(0.5, rel=0.1)


@ALL
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("spacing", ["uniform", "karras"])
def test_number_of_evaluations(name, steps, spacing):
    calls: list[float] = []

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(float(sigma))
        return mixture(x, sigma)

    x = torch.randn(1, 4, 4, 4, generator=_generator())
    SAMPLERS[name](counted, x, SD.sampling_sigmas(steps, spacing), noise_sampler=gaussian_noise(_generator(), x))
    assert len(calls) == num_evaluations(name, steps)
    assert min(calls) > 0
    assert calls[-1] == pytest.approx(min(calls))


@ALL
@pytest.mark.parametrize("steps", [1, 4])
def test_last_step_returns_the_denoised_latent_to_the_bit(name, steps):
    seen: list[Tensor] = []

    def recorded(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(mixture(x, sigma))
        return seen[-1]

    x = 14.0 * torch.randn(2, 4, 5, 5, generator=_generator())
    result = SAMPLERS[name](recorded, x, SD.sampling_sigmas(steps), noise_sampler=gaussian_noise(_generator(), x))
    assert torch.equal(result, seen[-1])


@ALL
def test_same_seed_same_samples(name):
    x = torch.randn(2, 4, 5, 5, generator=_generator())

    def run(seed: int) -> Tensor:
        return SAMPLERS[name](mixture, x, SD.sampling_sigmas(6), noise_sampler=gaussian_noise(_generator(seed), x))

    assert torch.equal(run(5), run(5))
    assert torch.equal(run(5), run(6)) == (name not in STOCHASTIC)


@ALL
def test_input_is_not_changed_and_nothing_is_printed(name, capfd):
    x = torch.randn(2, 4, 5, 5, generator=_generator())
    before = x.clone()
    SAMPLERS[name](mixture, x, SD.sampling_sigmas(3), noise_sampler=gaussian_noise(_generator(), x))
    assert torch.equal(x, before)
    assert capfd.readouterr() == ("", "")


@ALL
def test_callback_sees_every_step(name):
    sigmas, x, seen = SD.sampling_sigmas(5), torch.randn(1, 4, 5, 5, generator=_generator()), []
    SAMPLERS[name](mixture, x, sigmas, noise_sampler=gaussian_noise(_generator(), x), callback=seen.append)
    assert [info.step for info in seen] == [0, 1, 2, 3, 4]
    assert {info.num_steps for info in seen} == {5}
    assert [info.sigma for info in seen] == sigmas[:-1].tolist()
    assert torch.equal(seen[0].x, x)
    assert torch.equal(seen[0].denoised, mixture(x, sigmas[0]))


class StopError(Exception):
    pass


@ALL
def test_callback_can_stop_the_sampler(name):
    calls = 0

    def stop_at_two(info: StepInfo) -> None:
        nonlocal calls
        calls += 1
        if info.step == 2:
            raise StopError

    x = torch.randn(1, 4, 5, 5, generator=_generator())
    noise = gaussian_noise(_generator(), x)
    with pytest.raises(StopError):
        SAMPLERS[name](mixture, x, SD.sampling_sigmas(8), noise_sampler=noise, callback=stop_at_two)
    assert calls == 3


def test_samplers_build_no_graph():
    network, x = ConvDenoiser(), torch.randn(1, 4, 5, 5, generator=_generator())
    for sampler in SAMPLERS.values():
        result = sampler(network, x, SD.sampling_sigmas(3), noise_sampler=gaussian_noise(_generator(), x))
        assert not result.requires_grad


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m"])
def test_deterministic_samplers_draw_no_noise(name):
    x = torch.randn(1, 4, 5, 5, generator=_generator())
    SAMPLERS[name](mixture, x, SD.sampling_sigmas(4), noise_sampler=_silent)


def test_noise_is_drawn_in_float32_on_the_cpu():
    like = torch.zeros(3, 4, 2, 2, dtype=torch.float64)
    noise = gaussian_noise(_generator(3), like)
    expected = torch.randn(3, 4, 2, 2, generator=_generator(3))
    drawn = noise(torch.tensor(2.0), torch.tensor(1.0))
    assert drawn.dtype == torch.float64
    assert torch.equal(drawn, expected.double())
    assert not torch.equal(noise(torch.tensor(2.0), torch.tensor(1.0)), drawn)


def test_noise_with_one_generator_each_does_not_depend_on_the_batch():
    sigma = torch.tensor(1.0)
    together = gaussian_noise([_generator(3), _generator(4)], torch.zeros(2, 4, 5, 5))
    alone = gaussian_noise(_generator(4), torch.zeros(1, 4, 5, 5))
    for _ in range(3):
        assert torch.equal(together(sigma, sigma)[1:], alone(sigma, sigma))
    with pytest.raises(ValueError, match="got 2 generators for a batch of 3; give one for each item"):
        gaussian_noise([_generator(), _generator()], torch.zeros(3, 4, 5, 5))


@pytest.mark.parametrize("lookup", [get_sampler, lambda name: num_evaluations(name, 5)])
def test_unknown_sampler_lists_the_names(lookup: Callable[[str], object]):
    with pytest.raises(ValueError, match=r"'heun'; known samplers: euler, .*dpmpp_2s_ancestral, ddim"):
        lookup("heun")


def test_get_sampler():
    assert [get_sampler(name) for name in SAMPLERS] == list(SAMPLERS.values())
