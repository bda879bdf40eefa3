from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from artv_core.config import ScheduleConfig, preset, validate
from artv_core.method.denoiser import Branch, MaskedDenoiser
from artv_core.method.noise_schedule import NoiseSchedule
from artv_core.method.samplers import SAMPLERS, get_sampler

SD = ScheduleConfig()
LINEAR = ScheduleConfig(betas="linear", beta_start=1e-4, beta_end=0.02, prediction="v")
BOTH = pytest.mark.parametrize("config", [SD, LINEAR], ids=["sd", "linear"])
LEVELS = torch.tensor([0, 1, 37, 500, 998, 999])


def _public(config: ScheduleConfig, **options: bool) -> DDPMScheduler:
    return DDPMScheduler(
        num_train_timesteps=config.num_timesteps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.betas,
        prediction_type="epsilon" if config.prediction == "eps" else "v_prediction",
        **options,
    )


def _latents(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(count, 4, 3, 5, generator=generator, dtype=dtype)
    return x0, torch.randn(count, 4, 3, 5, generator=generator, dtype=dtype)


@BOTH
def test_tables_equal_the_public_ones(config):
    schedule = NoiseSchedule(config)
    assert schedule.alphas_cumprod.dtype == schedule.sigmas.dtype == torch.float64
    torch.testing.assert_close(
        schedule.alphas_cumprod.float(), _public(config).alphas_cumprod, rtol=2e-5, atol=0, check_device=False
    )
    assert (schedule.sigmas.diff() > 0).all()


def test_sd_end_points():
    sigmas = NoiseSchedule(SD).sigmas
    assert float(sigmas[0]) == pytest.approx(0.0292, abs=1e-4)
    assert float(sigmas[-1]) == pytest.approx(14.6146, abs=1e-3)


@BOTH
def test_zero_terminal_snr(config):
    plain = NoiseSchedule(config)
    schedule = NoiseSchedule(replace(config, prediction="v", zero_terminal_snr=True))
    assert schedule.alphas_cumprod[0] == plain.alphas_cumprod[0]
    assert (schedule.alphas_cumprod[1:] < plain.alphas_cumprod[1:]).all()
    assert (schedule.sigmas.diff() > 0).all()
    # Nothing but noise, for float16 and for a network; yet float32 holds a latent beside it.
    assert schedule.alphas_cumprod[-1] < 2**-24
    assert 4000 < schedule.sigmas[-1] < 40_000
    public = _public(replace(config, prediction="v"), rescale_betas_zero_snr=True).alphas_cumprod
    torch.testing.assert_close(schedule.alphas_cumprod[:-1].sqrt().float(), public[:-1].sqrt(), rtol=2e-4, atol=2e-6)


def test_zero_terminal_snr_of_sd_ends_where_hosts_do():
    sigmas = NoiseSchedule(ScheduleConfig(prediction="v", zero_terminal_snr=True)).sigmas
    assert float(sigmas[-1]) == pytest.approx(4518.8, rel=3e-3)


def test_zero_terminal_snr_needs_v():
    with pytest.raises(ValueError, match="got prediction 'eps' with zero_terminal_snr; accepted is 'v'"):
        NoiseSchedule(ScheduleConfig(zero_terminal_snr=True))
    config = replace(preset("tiny"), schedule=ScheduleConfig(zero_terminal_snr=True))
    with pytest.raises(ValueError, match=r"schedule.prediction: got 'eps', zero_terminal_snr needs 'v'"):
        validate(config)


@BOTH
@pytest.mark.parametrize("spacing", ["uniform", "karras"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling_from_nothing_but_noise(config, spacing, sampler):
    """A denoiser that knows the one frame there is, and says so by v, as a network would."""
    schedule = NoiseSchedule(replace(config, prediction="v", zero_terminal_snr=True))
    x0, noise = (latent.float() for latent in _latents(1))

    def network(x_t: torch.Tensor, timesteps: torch.Tensor, conditions: None) -> torch.Tensor:
        return schedule.from_x0(x0.double(), x_t.double(), timesteps).float()

    sigmas = schedule.sampling_sigmas(8, spacing)
    denoiser = MaskedDenoiser(schedule, network, None, [(Branch(False, False, True), 1.0)])
    fresh = torch.Generator().manual_seed(3)
    result = get_sampler(sampler)(
        denoiser,
        noise * float(sigmas[0]),
        sigmas,
        noise_sampler=lambda *_: torch.randn(x0.shape, generator=fresh),
    )
    torch.testing.assert_close(result, x0, rtol=0, atol=1e-4)


@BOTH
def test_sigma_and_timestep_are_inverse(config):
    schedule = NoiseSchedule(config)
    times = torch.linspace(0, 999, 4321, dtype=torch.float64)
    torch.testing.assert_close(schedule.timestep(schedule.sigma(times)), times, rtol=0, atol=1e-8)
    torch.testing.assert_close(schedule.sigma(torch.arange(1000)), schedule.sigmas, rtol=1e-12, atol=0)
    assert torch.equal(schedule.timestep(schedule.sigmas).float(), torch.arange(1000.0))


def test_timestep_between_two_entries_is_linear_in_log_sigma():
    schedule = NoiseSchedule(SD)
    middle = (schedule.sigmas[70] * schedule.sigmas[71]).sqrt()
    assert float(schedule.timestep(middle)) == pytest.approx(70.5, abs=1e-9)


@BOTH
def test_timestep_stays_at_the_ends(config):
    schedule = NoiseSchedule(config)
    times = schedule.timestep(torch.tensor([0.0, 1e-6, 1e9]))
    assert times.tolist() == [0.0, 0.0, 999.0]
    assert float(schedule.timestep(0.0)) == 0.0


@BOTH
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 25, 50, 333, 999, 1000])
def test_uniform_spacing_equals_public_trailing(config, steps):
    schedule = NoiseSchedule(config)
    public = DDIMScheduler(num_train_timesteps=config.num_timesteps, timestep_spacing="trailing")
    public.set_timesteps(steps)
    sigmas = schedule.sampling_sigmas(steps)
    assert sigmas.shape == (steps + 1,)
    assert sigmas.dtype == torch.float64
    assert (sigmas.diff() < 0).all()
    assert float(sigmas[-1]) == 0
    assert np.abs(schedule.timestep(sigmas[:-1]).numpy() - public.timesteps.numpy()).max() < 1e-9


@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_karras_spacing(steps):
    schedule = NoiseSchedule(SD)
    sigmas = schedule.sampling_sigmas(steps, "karras")
    assert sigmas.shape == (steps + 1,)
    assert (sigmas.diff() < 0).all()
    assert float(sigmas[-1]) == 0
    assert float(sigmas[0]) == pytest.approx(float(schedule.sigmas[-1]), rel=1e-12)
    roots = sigmas[:-1] ** (1 / 7)
    if steps > 2:
        assert float(sigmas[-2]) == pytest.approx(float(schedule.sigmas[0]), rel=1e-12)
        torch.testing.assert_close(roots.diff(), roots.diff()[:1].expand(steps - 1), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("steps", [0, -3, 1001])
@pytest.mark.parametrize("spacing", ["uniform", "karras"])
def test_bad_number_of_steps(steps, spacing):
    with pytest.raises(ValueError, match=rf"num_steps is {steps}, accepted are 1 to 1000"):
        NoiseSchedule(SD).sampling_sigmas(steps, spacing)


def test_unknown_names():
    with pytest.raises(ValueError, match="'cosine'; accepted are uniform, karras"):
        NoiseSchedule(SD).sampling_sigmas(5, "cosine")
    with pytest.raises(ValueError, match="'cosine'; accepted are scaled_linear, linear"):
        NoiseSchedule(ScheduleConfig(betas="cosine"))
    with pytest.raises(ValueError, match="'x0'; accepted are eps, v"):
        NoiseSchedule(ScheduleConfig(prediction="x0"))


@pytest.mark.parametrize("wrong", [{"beta_start": 0.0}, {"beta_end": 1.0}, {"beta_start": 0.1}, {"num_timesteps": 1}])
def test_impossible_betas(wrong):
    with pytest.raises(ValueError, match="accepted are 2 or more time steps and 0 < beta_start <= beta_end < 1"):
        NoiseSchedule(ScheduleConfig(**wrong))


@BOTH
def test_scales(config):
    schedule = NoiseSchedule(config)
    a, s = schedule.scales(LEVELS)
    assert a.shape == s.shape == (6, 1, 1, 1)
    assert a.dtype == s.dtype == torch.float32
    expected = schedule.alphas_cumprod[LEVELS]
    torch.testing.assert_close(a.flatten(), expected.sqrt().float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(s.flatten(), (1 - expected).sqrt().float(), rtol=1e-6, atol=0)


@BOTH
def test_forward_process_equals_the_public_one(config):
    x0, noise = _latents(6, dtype=torch.float32)
    noisy = NoiseSchedule(config).add_noise(x0, noise, LEVELS)
    torch.testing.assert_close(noisy, _public(config).add_noise(x0, noise, LEVELS), rtol=1e-5, atol=1e-5)


def test_forward_process_of_stacked_references():
    schedule = NoiseSchedule(SD)
    x0, noise = _latents(6)
    stacked = schedule.add_noise(x0.reshape(3, 2, 4, 3, 5), noise.reshape(3, 2, 4, 3, 5), torch.tensor([3, 300, 900]))
    single = schedule.add_noise(x0, noise, torch.tensor([3, 3, 300, 300, 900, 900]))
    assert torch.equal(stacked.reshape(6, 4, 3, 5), single)


def test_half_precision_latents_come_out_as_float32():
    x0, noise = _latents(6, dtype=torch.float16)
    assert NoiseSchedule(SD).add_noise(x0, noise, LEVELS).dtype == torch.float32


def test_augment_level_zero_is_clean_to_the_bit():
    schedule = NoiseSchedule(SD)
    latent, noise = _latents(4, dtype=torch.float32)
    assert torch.equal(schedule.augment(latent, noise, 0), latent)
    mixed = schedule.augment(latent, noise, torch.tensor([0, 200, 0, 1]))
    assert torch.equal(mixed[[0, 2]], latent[[0, 2]])
    noisy = schedule.add_noise(latent, noise, torch.tensor([0, 200, 0, 1]))
    assert torch.equal(mixed[[1, 3]], noisy[[1, 3]])
    assert not torch.equal(mixed[3], latent[3])
    assert torch.equal(schedule.augment(latent, noise, 200), schedule.add_noise(latent, noise, torch.full((4,), 200)))


@pytest.mark.parametrize(("level", "wrong"), [(-1, -1), (1000, 1000), (torch.tensor([3, 5000]), 5000)])
def test_augment_refuses_levels_there_are_not(level, wrong):
    latent, noise = _latents(2)
    with pytest.raises(ValueError, match=rf"noise level is {wrong}, accepted are 0 \(clean\) to 999"):
        NoiseSchedule(SD).augment(latent, noise, level)


@BOTH
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_predictions_and_x0_are_inverse(config, prediction):
    schedule = NoiseSchedule(ScheduleConfig(**{**vars(config), "prediction": prediction}))
    x0, noise = _latents(1000)
    times = torch.arange(1000)
    x_t = schedule.add_noise(x0, noise, times)
    target = schedule.target(x0, noise, times)
    torch.testing.assert_close(schedule.to_x0(target, x_t, times), x0, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(schedule.from_x0(x0, x_t, times), target, rtol=1e-10, atol=1e-10)
    anything = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    back = schedule.from_x0(schedule.to_x0(anything, x_t, times), x_t, times)
    torch.testing.assert_close(back, anything, rtol=1e-9, atol=1e-9)


@BOTH
def test_v_equals_the_public_velocity(config):
    schedule = NoiseSchedule(ScheduleConfig(**{**vars(config), "prediction": "v"}))
    x0, noise = _latents(6, dtype=torch.float32)
    velocity = _public(config).get_velocity(x0, noise, LEVELS)
    torch.testing.assert_close(schedule.target(x0, noise, LEVELS), velocity, rtol=1e-5, atol=1e-5)


@BOTH
def test_static_noise_of_a_still_scene_is_the_noise_itself(config):
    schedule = NoiseSchedule(config)
    x0, noise = _latents(1000)
    times = torch.arange(1000)
    x_t = schedule.add_noise(x0, noise, times)
    torch.testing.assert_close(schedule.static_noise(x_t, x0, times), noise, rtol=1e-9, atol=1e-9)


def test_conversions_pass_gradients():
    schedule = NoiseSchedule(LINEAR)
    x0, noise = _latents(6)
    prediction = torch.zeros_like(x0, requires_grad=True)
    schedule.to_x0(prediction, schedule.add_noise(x0, noise, LEVELS), LEVELS).sum().backward()
    assert prediction.grad is not None
    torch.testing.assert_close(
        prediction.grad, -schedule.scales(LEVELS, dtype=torch.float64)[1].expand(x0.shape), rtol=1e-12, atol=0
    )
