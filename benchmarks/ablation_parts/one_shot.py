"""All frames at once: diffusers' 3D UNet with as many parameters as `tiny`, trained as `tiny` is, to compare with."""

import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import UNet3DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from torch import Tensor, nn

from artv_core.config import ARTVConfig
from artv_core.method.noise_schedule import NoiseSchedule, x0_from_prediction
from artv_core.method.randomness import normal, stream
from artv_core.method.samplers import Denoiser, gaussian_noise, get_sampler
from artv_core.models.attention import zeroed
from artv_core.models.text import TextEncoder, tokenize
from artv_core.synthetic.shapes import vocabulary
from artv_core.training.config import DiffusionStage, TrainConfig
from artv_core.training.diffusion import forget_other_words, unlikeness
from artv_core.training.loop import Stage, run_stage
from artv_core.training.samples import draw_timestep
from artv_core.training.synthetic_clips import RandomOrder
from artv_core.training.throughput import count_flops

CHANNELS, LAYERS, HEAD_CHANNELS = 104, 2, 26
"""One level, as `tiny` has: 6,895,204 parameters, 1.3 percent fewer than noise and mask network together."""

TIMED_STEPS = 6


class OneShot(nn.Module):
    """3D UNet and text encoder, untrained. One noise level for all frames of a clip."""

    def __init__(self, config: ARTVConfig) -> None:
        super().__init__()
        self.unet = UNet3DConditionModel(
            in_channels=config.vae.latent_channels,
            out_channels=config.vae.latent_channels,
            down_block_types=("CrossAttnDownBlock3D",),
            up_block_types=("CrossAttnUpBlock3D",),
            block_out_channels=(CHANNELS,),
            layers_per_block=LAYERS,
            norm_num_groups=config.noise.unet.norm_groups,
            cross_attention_dim=config.text.width,
            attention_head_dim=HEAD_CHANNELS,
        )
        self.text = TextEncoder(config.text)
        train_like_ours(self.unet)

    def forward(self, x_t: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """Noised latents [B, T, C, h, w], time steps [B], text context [B, L, D] -> prediction [B, T, C, h, w]."""
        return self.unet(x_t.transpose(1, 2), timesteps, context, return_dict=False)[0].transpose(1, 2)


def build(config: ARTVConfig) -> OneShot:
    """The model for a configuration's latents, text encoder and norm groups. Its size fits the preset `tiny`."""
    return OneShot(config)


def train_like_ours(unet: UNet3DConditionModel) -> None:
    """As ARTV's networks: residual branches and output begin at zero, no features are dropped at random, and Muon
    updates every kernel inside. Attention is not fused: on a CPU its backward pass would be most of a step."""
    unet.set_attn_processor(AttnProcessor())
    zeroed(unet.conv_out)
    for name, layer in unet.named_modules():
        if name.endswith("proj_out"):
            zeroed(layer)
        elif isinstance(layer, ResnetBlock2D):
            zeroed(layer.conv2)
        elif isinstance(layer, nn.Dropout):
            layer.p = 0.0
        elif isinstance(layer, TemporalConvLayer):
            for part in (layer.conv1, layer.conv2, layer.conv3, layer.conv4):
                part[-1] = FrameConvolution(part[-1])


class FrameConvolution(nn.Conv2d):
    """A Conv3d of kernel (3, 1, 1), and its weights, as convolution of [frames, cells]: `make_optimizer` gives Muon the
    kernels of two dimensions."""

    def __init__(self, whole: nn.Conv3d) -> None:
        super().__init__(whole.in_channels, whole.out_channels, (3, 1), padding=(1, 0))
        self.weight, self.bias = nn.Parameter(whole.weight.detach().squeeze(-1)), whole.bias

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, h, w] -> the same shape, with as many channels as there are kernels."""
        return super().forward(x.flatten(3)).unflatten(3, x.shape[3:])


class OneShotLoss(nn.Module):
    """The squared error of x_0, weighted as that of v (1/s^2, capped) and by how unlike its frame a cell is: that of
    `MaskedDiffusionLoss`, where nothing is copied. Logged as "eps": the plain error of eps."""

    def __init__(self, model: OneShot, stage: DiffusionStage) -> None:
        super().__init__()
        self.model = model
        self.weight_cap, self.detail_weight = stage.weight_cap, stage.detail_weight

    def forward(
        self, target: Tensor, noise: Tensor, timesteps: Tensor, a: Tensor, s: Tensor, tokens: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Latents and noise [B, T, C, h, w], time steps [B], the schedule's `a` and `s` there [B, 1, 1, 1, 1], tokens
        [B, L] -> (loss, scalars)."""
        x_t = a * target + s * noise
        prediction = self.model(x_t, timesteps, self.model.text(tokens)).float()
        error = (x0_from_prediction("v", prediction, x_t, a, s) - target).square()
        unlike = unlikeness(target.flatten(0, 1)).unflatten(0, target.shape[:2])
        weight = s.pow(-2).clamp(max=self.weight_cap or math.inf) * (1 + self.detail_weight * unlike)
        return (weight * error).mean(), {"eps": ((a / s).square() * error.detach()).mean()}


class OneShotTraining(Stage):
    """The stage as the loop wants it; it makes its samples, whole clips, itself."""

    name = "one_shot"
    config: DiffusionStage
    module: OneShotLoss

    def __init__(
        self,
        latents: Tensor,
        captions: Sequence[str],
        config: TrainConfig,
        *,
        seed: int,
        steps: int,
        clips_per_step: int,
    ) -> None:
        """Raises ValueError where the schedule's prediction is not v, or captions are not as many as clips."""
        if config.model.schedule.prediction != "v":
            raise ValueError(f"got prediction {config.model.schedule.prediction!r}; the one-shot model predicts 'v'")
        if len(captions) != len(latents):
            raise ValueError(f"got {len(captions)} captions for {len(latents)} clips; give one for each")
        self.samples, self.seed, self.latents, self.model_config = self, seed, latents, config.model
        self.config = shortened(config.diffusion, steps, clips_per_step)
        self.schedule = NoiseSchedule(config.model.schedule)
        self.order = RandomOrder(len(latents), clips_per_step, seed)
        self.tokens, self.no_tokens = tokenize(captions, config.model.text), tokenize([""], config.model.text)[0]
        torch.manual_seed(seed)
        model = build(config.model)
        forget_other_words(model, vocabulary())
        self.module = OneShotLoss(model, self.config).to(memory_format=torch.channels_last)

    def batch(self, step: int, indices: range) -> tuple[Tensor, ...]:
        """Arguments of `OneShotLoss.forward`, keyed by (seed, step, index)."""
        chosen = self.order.batch(step)
        samples = [self._sample(int(chosen[index]), (self.seed, step, index)) for index in indices]
        target, noise, timesteps, tokens = (torch.stack(parts) for parts in zip(*samples, strict=True))
        a, s = self.schedule.scales(timesteps, ndim=5)
        return target, noise, timesteps, a, s, tokens

    def _sample(self, clip: int, key: tuple[int, int, int]) -> tuple[Tensor, ...]:
        rng = random.Random("/".join(map(str, key)))
        tokens = self.tokens[clip] if rng.random() >= self.config.drop_text else self.no_tokens
        timestep = torch.tensor(draw_timestep(self.config, rng, self.schedule.sigmas))
        latents = self.latents[clip].float()
        return latents, normal(tuple(latents.shape), stream(*key)), timestep, tokens

    def empty_module(self) -> OneShotLoss:
        """One like this on the meta device."""
        return meta_loss(self.model_config, self.config)

    def flops_per_sample(self) -> float:
        """Of one clip."""
        return flops_per_step(self.model_config, 1, self.latents.shape[1])


def shortened(stage: DiffusionStage, steps: int, clips_per_step: int) -> DiffusionStage:
    """The stage with so many steps, of which as large a share warms up and decays."""
    warm, decay = (round(part * steps / stage.steps) for part in (stage.warmup_steps, stage.decay_steps))
    size = {"steps": steps, "batch_size": clips_per_step, "micro_batch": 0}
    return replace(stage, **size, warmup_steps=warm, decay_steps=decay, start_from="")


def meta_loss(config: ARTVConfig, stage: DiffusionStage) -> OneShotLoss:
    with torch.device("meta"):
        return OneShotLoss(build(config), stage)


def flops_per_step(config: ARTVConfig, clips_per_step: int, frames: int = 16) -> float:
    """Floating-point operations of one training step, forward and backward, by the count that all stages use."""
    height, width = (side // config.vae.factor for side in config.size)
    with torch.device("meta"):
        clip = torch.zeros(1, frames, config.vae.latent_channels, height, width)
        scale, tokens = torch.ones(1, 1, 1, 1, 1), torch.zeros(1, config.text.context_length, dtype=torch.long)
        arguments = (clip, clip, torch.zeros(1), scale, scale, tokens)
    return float(clips_per_step * count_flops(meta_loss(config, DiffusionStage()), arguments))


def train_one_shot(
    latents: Tensor,
    captions: list[str],
    *,
    config: TrainConfig,
    seed: int,
    steps: int,
    clips_per_step: int,
    folder: Path,
    minutes: float | None = None,
) -> OneShot:
    """Train on latents [N, T, C, h, w] of any float type, core scale, by the recipe of `config.diffusion`, and return
    the model with its averaged weights. Its `steps`, `batch_size` and `config.seed` give way to what is named here.

    States are kept in `folder/one_shot`: called again, it goes on from there. `minutes`: if a timing of some steps says
    that `steps` would take longer, there are as many as fit, and the learning rate decays over these; the number is
    kept in the folder. Raises ValueError as `OneShotTraining`, and for a state of another size.
    """

    def stage(steps: int) -> OneShotTraining:
        return OneShotTraining(latents, captions, config, seed=seed, steps=steps, clips_per_step=clips_per_step)

    if minutes is not None:
        steps = min(steps, _steps_within(minutes, stage, folder / "steps.json"))
    trained = run_stage(stage(steps), folder, resume=True)
    assert isinstance(trained, OneShotLoss)
    return trained.model


def _steps_within(minutes: float, stage: Callable[[int], OneShotTraining], kept: Path) -> int:
    if not kept.is_file():
        steps = max(1, int(60 * minutes / seconds_per_step(stage(TIMED_STEPS))))
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(steps))
    return int(json.loads(kept.read_text()))


def seconds_per_step(stage: OneShotTraining) -> float:
    """Train a stage in a folder that is thrown away: the median time from one step to the next."""
    began, arguments = [], stage.arguments

    def noted(batch: tuple[Tensor, ...], device: torch.device) -> tuple:
        began.append(time.perf_counter())
        return arguments(batch, device)

    stage.arguments = noted
    with tempfile.TemporaryDirectory() as folder:
        run_stage(stage, Path(folder), resume=False)
    return statistics.median(later - earlier for earlier, later in pairwise(began))


@torch.no_grad()
def sample_one_shot(
    model: OneShot,
    captions: list[str],
    *,
    config: ARTVConfig,
    seed: int,
    steps: int = 12,
    guidance: float = 3.0,
    frames: int = 16,
    sampler: str = "dpmpp_2m",
) -> Tensor:
    """Latents [N, frames, C, h, w] of N clips, float32, core scale, on the model's device. Clip n has seed `seed + n`.

    `guidance` is the text's scale: 1 as trained, 0 text ignored. Raises ValueError on an unknown sampler or number of
    steps.
    """
    schedule = NoiseSchedule(config.schedule)
    sigmas = schedule.sampling_sigmas(steps)
    height, width = (side // config.vae.factor for side in config.size)
    shape, seeds = (frames, config.vae.latent_channels, height, width), [seed + n for n in range(len(captions))]
    start = torch.stack([normal(shape, stream(each, "one shot", "initial")) for each in seeds])
    x = start.to(next(model.parameters()).device) * float(sigmas[0])
    noise = gaussian_noise([stream(each, "one shot", "sampler") for each in seeds], x)
    return get_sampler(sampler)(guided(model, captions, schedule, guidance), x, sigmas, noise_sampler=noise)


def guided(model: OneShot, captions: list[str], schedule: NoiseSchedule, guidance: float) -> Denoiser:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598): `denoiser(x, sigma)` for x [N, T, C, h, w]."""
    texts = captions if guidance == 1 else captions + [""] * len(captions)
    context = model.text(model.text.tokenize(texts))
    branches = len(texts) // len(captions)

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        a = 1 / math.sqrt(1 + float(sigma) ** 2)
        timesteps = schedule.timestep(sigma).float().to(x.device).expand(len(texts))
        x_t = a * x.repeat(branches, 1, 1, 1, 1)
        denoised = x0_from_prediction("v", model(x_t, timesteps, context), x_t, a, float(sigma) * a)
        with_text, *without = denoised.chunk(branches)
        return without[0] + guidance * (with_text - without[0]) if without else with_text

    return denoiser
