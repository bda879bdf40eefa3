"""The one-shot baseline of `benchmarks/ablations.py`: as large as `tiny`, frames see each other, exact resume."""

import math
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers", reason="the one-shot baseline is a network of diffusers': pip install diffusers")

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from ablation_parts import one_shot  # noqa: E402
from ablation_parts.one_shot import OneShot, OneShotTraining, build, sample_one_shot, train_one_shot  # noqa: E402
from diffusers.models.resnet import TemporalConvLayer  # noqa: E402

from artv_core.config import preset  # noqa: E402
from artv_core.models.artv import ARTV  # noqa: E402
from artv_core.training.config import TrainConfig, read_config  # noqa: E402
from artv_core.training.optimizers import make_optimizer  # noqa: E402

# Bit-for-bit claims hold on a CPU.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

TINY = preset("tiny")
CAPTIONS = ["a red ball moves left", "a blue square moves up", "a green ring"]


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return read_config(ROOT / "configs/tiny.toml")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of the same kind that is quick."""
    for name, value in (("CHANNELS", 16), ("LAYERS", 1), ("HEAD_CHANNELS", 8)):
        monkeypatch.setattr(one_shot, name, value)


@pytest.fixture(scope="module")
def full() -> OneShot:
    """At its size, without weights."""
    with torch.device("meta"):
        return build(TINY)


@pytest.fixture
def model() -> OneShot:
    """As training makes it from the first step on: nothing that closes a branch is zero."""
    torch.manual_seed(0)
    model = build(TINY).eval()
    for parameter in model.unet.parameters():
        if not parameter.any():
            nn.init.normal_(parameter.data, std=0.02)
    return model


def clips(frames: int = 3) -> Tensor:
    return torch.randn(3, frames, 4, 8, 8, generator=torch.Generator().manual_seed(1)).half()


def training(config: TrainConfig, **options: int) -> OneShotTraining:
    return OneShotTraining(clips(), CAPTIONS, config, **({"seed": 1, "steps": 3, "clips_per_step": 2} | options))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_as_many_parameters_as_tiny(full: OneShot):
    with torch.device("meta"):
        ours = ARTV(TINY, vae=False)
    assert parameters(full.unet) == pytest.approx(parameters(ours.noise) + parameters(ours.mask), rel=0.03)
    assert parameters(full.text) == parameters(ours.text)


@torch.no_grad()
def test_frames_influence_each_other(model: OneShot):
    x, context = clips(16)[:1].float(), model.text(model.text.tokenize(CAPTIONS[:1]))
    before = model(x, torch.tensor([500]), context)
    x[:, 3] += 1
    assert (model(x, torch.tensor([500]), context) - before)[:, 9].abs().max() > 1e-3


@torch.no_grad()
def test_text_matters(model: OneShot):
    x, context = clips()[:1].float().expand(2, -1, -1, -1, -1), model.text(model.text.tokenize(CAPTIONS[:2]))
    first, second = model(x, torch.tensor([500, 500]), context)
    assert (first - second).abs().max() > 1e-3


@torch.no_grad()
def test_a_convolution_of_frames_is_diffusers_own():
    torch.manual_seed(0)
    x, layer = torch.randn(8, 16, 5, 5), TemporalConvLayer(16, 16, norm_num_groups=4).eval()
    nn.init.normal_(layer.conv4[-1].weight)
    expected = layer(x, num_frames=4)
    for part in (layer.conv1, layer.conv2, layer.conv3, layer.conv4):
        part[-1] = one_shot.FrameConvolution(part[-1])
    torch.testing.assert_close(layer(x, num_frames=4), expected, atol=1e-5, rtol=1e-5)


def test_muon_updates_all_kernels_inside(config: TrainConfig, full: OneShot):
    muon, _ = make_optimizer(full.unet, config.diffusion).param_groups
    assert muon["use_muon"]
    assert sum(parameter.numel() for parameter in muon["params"]) > 0.99 * parameters(full.unet)


def test_nothing_is_dropped_at_random_and_the_start_is_still(config: TrainConfig):
    module = training(config).module
    assert not any(layer.p for layer in module.modules() if isinstance(layer, nn.Dropout))
    with torch.no_grad():
        assert not module.model(clips().float(), torch.tensor([1, 2, 3]), torch.randn(3, 32, 48)).any()


def test_samples_depend_on_seed_step_and_index_alone(config: TrainConfig):
    stage = training(config)
    whole, second = stage.batch(5, range(2)), stage.batch(5, range(1, 2))
    for all_of_them, one in zip(whole, second, strict=True):
        assert torch.equal(all_of_them[1:], one)
    assert not torch.equal(stage.batch(6, range(2))[1], whole[1])
    assert not torch.equal(training(config, seed=2).batch(5, range(2))[1], whole[1])


def test_the_loss_is_that_of_v_up_to_the_cap(config: TrainConfig):
    """Of an untrained network, whose v is 0, before detail is weighed."""
    plain = replace(config, diffusion=replace(config.diffusion, detail_weight=0.0))
    stage = training(plain)
    target, noise, timesteps, a, s, tokens = stage.batch(0, range(2))
    loss, logs = stage.module(target, noise, timesteps, a, s, tokens)
    v = a * noise - s * target
    torch.testing.assert_close(loss, ((s**2 * 5).clamp(max=1) * v.square()).mean())
    assert math.isfinite(logs["eps"])
    assert training(config).module(target, noise, timesteps, a, s, tokens)[0] > loss


def test_resumed_equals_uninterrupted(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Stopped by SIGTERM after two of three steps, then called again: the same weights to the bit."""
    options = {"config": config, "seed": 1, "steps": 3, "clips_per_step": 2}
    whole = train_one_shot(clips(), CAPTIONS, folder=tmp_path / "whole", **options)
    batch = OneShotTraining.batch

    def stopping(self: OneShotTraining, step: int, indices: range) -> tuple[Tensor, ...]:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(self, step, indices)

    with monkeypatch.context() as patch:
        patch.setattr(OneShotTraining, "batch", stopping)
        with pytest.raises(SystemExit):
            train_one_shot(clips(), CAPTIONS, folder=tmp_path / "stopped", **options)
    assert [path.name for path in tmp_path.glob("stopped/one_shot/state-*")] == ["state-00000002"]
    resumed = train_one_shot(clips(), CAPTIONS, folder=tmp_path / "stopped", **options).state_dict()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed[name]), name


def test_steps_fit_into_the_minutes(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A tenth of a minute at two seconds a step is three steps, and stays so."""
    taken = []
    monkeypatch.setattr(one_shot, "seconds_per_step", lambda stage: 2.0)
    monkeypatch.setattr(one_shot, "run_stage", lambda stage, *_, **__: taken.append(stage.config.steps) or stage.module)
    options = {"config": config, "seed": 1, "clips_per_step": 2, "folder": tmp_path}
    for steps, minutes in ((50, 0.1), (2, 0.1), (50, 9.0), (50, None)):
        train_one_shot(clips(), CAPTIONS, steps=steps, minutes=minutes, **options)
    assert taken == [3, 2, 3, 50]


def test_warm_up_and_decay_keep_their_shares(config: TrainConfig):
    stage = training(config, steps=750, clips_per_step=4).config
    assert (stage.steps, stage.batch_size, stage.warmup_steps, stage.decay_steps) == (750, 4, 20, 250)


def test_flops_are_counted(full: OneShot, monkeypatch: pytest.MonkeyPatch):
    """Of the full size: about two for each weight, cell and pass, of which there are three."""
    monkeypatch.undo()
    least = 6 * parameters(full.unet) * 64 * 4
    assert 0.9 * 3 * least < one_shot.flops_per_step(TINY, 3, frames=4) < 1.2 * 3 * least


def test_sampling_follows_from_the_seed(model: OneShot):
    def sample(captions: list[str], seed: int, **options: float) -> Tensor:
        return sample_one_shot(model, captions, config=TINY, seed=seed, steps=2, frames=5, **options)

    made = sample(CAPTIONS[:2], 7)
    assert made.shape == (2, 5, 4, 8, 8)
    assert made.isfinite().all()
    assert torch.equal(made, sample(CAPTIONS[:2], 7))
    torch.testing.assert_close(made[1:], sample(CAPTIONS[1:2], 8), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(made, sample(CAPTIONS[:2], 9), atol=1e-2)


def test_guidance_goes_from_no_text_to_text_and_beyond(model: OneShot):
    def sample(guidance: float) -> Tensor:
        return sample_one_shot(model, CAPTIONS[:1], config=TINY, seed=1, steps=1, frames=3, guidance=guidance)

    without, with_text = sample(0.0), sample(1.0)
    assert not torch.equal(without, with_text)
    torch.testing.assert_close(sample(3.0), without + 3 * (with_text - without), atol=1e-3, rtol=1e-3)


def test_what_does_not_fit_is_one_line(config: TrainConfig):
    with pytest.raises(ValueError, match="got 2 captions for 3 clips"):
        OneShotTraining(clips(), CAPTIONS[:2], config, seed=1, steps=1, clips_per_step=1)
    eps = replace(config, overrides={"schedule": {"prediction": "eps"}})
    with pytest.raises(ValueError, match="predicts 'v'"):
        training(eps)
