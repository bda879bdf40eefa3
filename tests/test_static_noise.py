"""Both forms of static noise (Eq. 6): sampling and training against the formulas written out, and the checkpoint's
setting from file to frame."""

import copy
import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from artv_core.checkpoint import describe_checkpoint, load_checkpoint, save_checkpoint
from artv_core.checkpoint.info import checkpoint_facts
from artv_core.commands.info import info_lines
from artv_core.config import ARTVConfig, ScheduleConfig, preset
from artv_core.method.denoiser import Branch, MaskedDenoiser, mix
from artv_core.method.generate import VideoRequest
from artv_core.method.noise_schedule import NoiseSchedule, static_x0
from artv_core.method.text_track import TextSegment, TextTrack
from artv_core.models.artv import ARTV
from artv_core.run.journal_file import SUFFIX
from artv_core.run.recording import Recording, record_frames
from artv_core.training.config import DiffusionStage, TrainConfig
from artv_core.training.diffusion import MaskedDiffusionLoss
from artv_core.training.start import starting_model
from tests.models import frames_of, quick_options, smallest

FORMS = pytest.mark.parametrize("form", ["exact", "subtracted"])
PREDICTIONS = pytest.mark.parametrize("prediction", ["eps", "v"])
FULL = Branch(references=True, anchor=True, text=True)
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def schedule_of(form: str, prediction: str) -> NoiseSchedule:
    return NoiseSchedule(ScheduleConfig(prediction=prediction, static_noise=form))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def written_out(form: str, prediction: str, mask: Tensor, output: Tensor, x_t: Tensor, x_ref: Tensor, step: int):
    """(masked eps, x_0) by the formulas, at one time step."""
    alpha = NoiseSchedule(ScheduleConfig()).alphas_cumprod[step]
    a, s = alpha.sqrt(), (1 - alpha).sqrt()
    static = (x_t - a * x_ref) / s if form == "exact" else x_t - x_ref
    dynamic = output if prediction == "eps" else a * output + s * x_t
    eps = mask * static + (1 - mask) * dynamic
    return eps, (x_t - s * eps) / a


@FORMS
@PREDICTIONS
@pytest.mark.parametrize("step", [0, 39, 199, 519, 999])
def test_the_denoiser_agrees_with_the_formulas(form: str, prediction: str, step: int):
    schedule = schedule_of(form, prediction)
    output, logits, x_t, x_ref = (
        random(2, 4, 5, 5),
        random(2, 1, 5, 5, seed=1),
        random(2, 4, 5, 5, seed=2),
        random(2, 4, 5, 5, seed=3),
    )
    denoiser = MaskedDenoiser(
        schedule,
        lambda *_: output,
        None,
        [(FULL, 1.0)],
        mask_network=lambda *_: logits,
        reference_latent=x_ref,
        network_dtype=torch.float64,
    )
    sigma = schedule.sigmas[step]
    _, x0 = written_out(form, prediction, logits.sigmoid(), output, x_t, x_ref, step)
    # The sampler's x is x_t / a; 1 / a is the scale of rounding errors at the noisiest step.
    got = denoiser(x_t * (1 + sigma**2).sqrt(), sigma)
    torch.testing.assert_close(got, x0, rtol=1e-12, atol=1e-12 * float((1 + sigma**2).sqrt()))


@FORMS
def test_the_schedule_names_the_static_noise_that_the_copied_latent_follows_from(form: str):
    schedule, times = schedule_of(form, "eps"), torch.tensor([0, 39, 519, 999])
    x_t, x_ref = random(4, 4, 3, 3), random(4, 4, 3, 3, seed=1)
    a, s = schedule.scales(times, dtype=torch.float64)
    copied = static_x0(form, x_ref, x_t, a, s)
    torch.testing.assert_close(schedule.from_x0(copied, x_t, times), schedule.static_noise(x_t, x_ref, times), **CLOSE)
    if form == "subtracted":
        torch.testing.assert_close(copied * a, (1 - s) * x_t + s * x_ref, **CLOSE)


class Fixed(nn.Module):
    """A network that always returns the same."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def condition(self, *conditions: Tensor) -> None:
        """It has none."""

    def forward(self, *_: object) -> "Fixed":
        return self

    def float(self) -> Tensor:  # type: ignore[override]
        """As it is: a loss in double precision is compared with."""
        return self.output


@functools.cache
def untouched() -> ARTV:
    """For many losses, which change none of its networks."""
    return smallest(text=False)


def loss_of(form: str, prediction: str, share: float, step: int, present: Tensor) -> tuple[float, Tensor, Tensor]:
    """The loss, the masked eps by the formulas, and the noise network's eps, on random inputs."""
    schedule = schedule_of(form, prediction)
    output, logits, x_ref = random(2, 4, 5, 5), random(2, 1, 5, 5, seed=1), random(2, 4, 5, 5, seed=3)
    target, noise = random(2, 4, 5, 5, seed=4), random(2, 4, 5, 5, seed=5)
    times = torch.full((2,), step)
    a, s = schedule.scales(times, dtype=torch.float64)
    model = copy.copy(untouched())
    model.config = replace(model.config, schedule=ScheduleConfig(prediction=prediction, static_noise=form))
    module = MaskedDiffusionLoss(model, DiffusionStage(auxiliary_share=share, weight_cap=0.0, train=("unet",)))
    module.noise, module.mask = Fixed(output), Fixed(logits)
    none = torch.zeros(2)
    loss, _ = module(target, noise, times, a, s, none, none, none, none, none, x_ref, present)
    mask = logits.sigmoid() * present[:, None, None, None]
    masked, _ = written_out(form, prediction, mask, output, a * target + s * noise, x_ref, step)
    alone, _ = written_out(form, prediction, 0 * mask, output, a * target + s * noise, x_ref, step)
    return loss.item(), masked - noise, alone - noise


@FORMS
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("step", [0, 199, 999])
@pytest.mark.parametrize("present", [(1.0, 1.0), (1.0, 0.0)])
def test_the_loss_is_the_error_of_the_masked_eps_and_a_share_of_the_noise_networks_own(form, share, step, present):
    """With a share of 0 the masked error alone, as in the paper; samples without references are not masked."""
    loss, masked, alone = loss_of(form, "eps", share, step, torch.tensor(present, dtype=torch.float64))
    wanted = (1 - share) * masked.square().mean() + share * alone.square().mean()
    assert loss == pytest.approx(wanted.item(), rel=1e-11)


@FORMS
def test_the_loss_of_v_is_the_error_of_the_masked_v(form: str):
    """An error of v is 1 / a times that of eps."""
    loss, masked, _ = loss_of(form, "v", 0.0, 519, torch.ones(2, dtype=torch.float64))
    a, _ = schedule_of(form, "v").scales(torch.tensor([519]), dtype=torch.float64)
    assert loss == pytest.approx((masked / a).square().mean().item(), rel=1e-11)


@FORMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mask_zero_is_the_dynamic_latent_and_mask_one_the_static_one_to_the_bit(form: str, dtype: torch.dtype):
    x_t, x_ref, dynamic = (random(3, 4, 8, 8, seed=seed).to(dtype) for seed in range(3))
    zeros = torch.zeros(3, 1, 8, 8, dtype=dtype)
    schedule = schedule_of(form, "eps")
    for step in (0, 519, 999):
        a, s = schedule.scales(torch.full((3,), step), dtype=dtype)
        static = static_x0(form, x_ref, x_t, a, s)
        assert torch.equal(mix(zeros, static, dynamic), dynamic)
        assert torch.equal(mix(1 - zeros, static, dynamic), static)
        assert torch.equal(static, x_ref) == (form == "exact")


# The checkpoint's setting


def subtracted(model: ARTV) -> ARTV:
    """The same weights with the other form."""
    schedule = replace(model.config.schedule, static_noise="subtracted")
    model.config = replace(model.config, schedule=schedule)
    return model


def latents(model: ARTV, recording: Recording | None = None) -> list[Tensor]:
    text = TextTrack([TextSegment(0, model.encode_text(["a red circle"]))])
    if recording is None:
        return [frame.latent for frame in frames_of(model, text, quick_options(3, steps=2))]
    request = VideoRequest(text, quick_options(3, steps=2).resolved(model.config))
    return [frame.latent for frame in record_frames(model, request, recording)]


def test_the_form_is_in_the_file_and_decides_the_frames(tmp_path: Path):
    usual = latents(smallest())
    path = tmp_path / "subtracted.safetensors"
    save_checkpoint(subtracted(smallest()), path, dtype=torch.float32)
    read = load_checkpoint(path)
    assert read.config.schedule.static_noise == "subtracted"
    made = latents(read)
    assert torch.equal(made[0], usual[0]), "a first frame has nothing to copy"
    assert not torch.allclose(made[1], usual[1], atol=1e-3)
    assert checkpoint_facts(describe_checkpoint(path))["static_noise"] == "subtracted"
    assert any("subtracted, x_t - x_ref" in line for line in info_lines(describe_checkpoint(path)))


def test_the_usual_form_is_not_written_so_that_old_files_and_journals_match():
    assert "static_noise" not in preset("tiny").to_json()
    assert ARTVConfig.from_json(preset("tiny").to_json()).schedule.static_noise == "exact"
    other = '{"schedule": {"static_noise": "both"}}'
    with pytest.raises(ValueError, match="static_noise: got 'both', accepted are exact, subtracted"):
        ARTVConfig.from_json(other)
    with pytest.raises(ValueError, match="unknown static_noise 'both'; accepted are exact, subtracted"):
        NoiseSchedule(ScheduleConfig(static_noise="both"))


def test_a_journal_of_one_form_is_not_gone_on_with_in_the_other(tmp_path: Path):
    kept = latents(smallest(), Recording(tmp_path))
    again = latents(smallest(), Recording(tmp_path))
    assert all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))
    assert len(list(tmp_path.glob(f"*{SUFFIX}"))) == 1
    other = latents(subtracted(smallest()), Recording(tmp_path))
    assert not torch.equal(other[1], kept[1])
    assert len(list(tmp_path.glob(f"*{SUFFIX}"))) == 2


def test_training_takes_the_form_from_the_configuration(tmp_path: Path):
    config = TrainConfig(overrides={"schedule": {"static_noise": "subtracted"}})
    model = starting_model(config)
    assert MaskedDiffusionLoss(model, config.diffusion).static_noise == "subtracted"
    model.config = preset("tiny")
    save_checkpoint(model, tmp_path / "exact.safetensors")
    going_on = replace(config, diffusion=replace(config.diffusion, start_from=str(tmp_path / "exact.safetensors")))
    with pytest.raises(ValueError, match="schedule is configured differently"):
        starting_model(going_on)
