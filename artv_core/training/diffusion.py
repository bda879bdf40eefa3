"""Stage "diffusion": trains the noise network, the mask network and, if asked, the text encoder end to end (Eq. 4 and
7)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..checkpoint import part_of_weight
from ..config import ARTVConfig
from ..data.order import BrokenCount
from ..files.finite import NotFiniteError
from ..method.denoiser import mix
from ..method.noise_schedule import static_x0, x0_from_prediction
from ..models.artv import ARTV
from ..models.attention import CrossAttention
from ..models.fused import fuse, fuse_for_training
from ..models.hollow import hollow
from ..models.lora import add_lora
from ..models.network import FrameNetwork
from .biases import fuse_biases
from .config import DiffusionStage, TrainConfig
from .error_bank import ErrorBank
from .held_out import held_out_losses
from .loop import Stage
from .norms import keep_norms_in_bfloat16
from .rollouts import go_on
from .samples import Batch, Clips, ClipSamples
from .sheets import clips_sheet, rollout_sheet
from .throughput import count_flops


class MaskedDiffusionLoss(nn.Module):
    """Eq. 4 on the masked prediction of Eq. 7, written in x_0 space. An error of eps is a/s times that of x_0, and an
    error of v is 1/s times, so the squared error of x_0 is weighted by a^2/s^2 or 1/s^2, or by min(a^2/s^2, gamma) for
    min-SNR. The weight can be capped, because a copied x_0 does not get better as s falls. A share of the loss is the
    noise network's own, which keeps it learning where the mask copies; with a share of 0, only the masked error counts,
    as in the paper. Cap, share and the weights of cells (`detail_weight`, `change_weight`) are not in the paper. The
    plain error of the masked eps is logged as "eps"."""

    def __init__(self, model: ARTV, stage: DiffusionStage) -> None:
        super().__init__()
        self.noise, self.mask = model.noise, model.mask
        self.text = model.text if "text" in stage.train else None
        self.prediction = model.config.schedule.prediction
        self.static_noise = model.config.schedule.static_noise
        self.auxiliary_share = stage.auxiliary_share
        self.detail_weight, self.change_weight = stage.detail_weight, stage.change_weight
        self.weight_cap, self.min_snr_gamma = stage.weight_cap, stage.min_snr_gamma
        config = model.config
        shape = (config.vae.latent_channels, *(side // config.vae.factor for side in config.size))
        self.bank = ErrorBank(stage.error_bank, shape) if stage.error_share else None

    @property
    def networks(self) -> list[FrameNetwork]:
        """The networks that can be trained."""
        return [self.noise] if self.mask is None else [self.noise, self.mask]

    @property
    def frozen_networks(self) -> list[FrameNetwork]:
        """Networks that a step runs only without gradients."""
        return []

    def forward(
        self,
        target: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        a: Tensor,
        s: Tensor,
        text: Tensor,
        references: Tensor,
        reference_level: Tensor,
        anchor: Tensor,
        anchor_level: Tensor,
        reference_latent: Tensor,
        has_reference: Tensor,
        coverage: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns (loss, scalars to log). Latents are [B, C, h, w] and noised references [B, R*C, h, w]; time steps and
        levels are [B]. Text is tokens [B, L] if its encoder is trained, else context [B, L, D]. `coverage` [B, 1, h,
        w], how much of each target cell is covered by things, is used only by `change_weight`.

        `a` and `s` [B, 1, 1, 1] are the schedule's values at the time steps. They are passed in because looking them up
        here would make the host wait for the GPU.
        """
        context = text if self.text is None else self.text(text)
        x_t = a * target + s * noise
        conditions = (context, references, anchor, reference_level, anchor_level)
        prediction = _run(self.noise, x_t, timesteps, conditions)
        dynamic = x0_from_prediction(self.prediction, prediction, x_t, a, s)
        denoised, logs = dynamic, {}
        if self.mask is not None:
            logits = _run(self.mask, x_t, timesteps, conditions)
            mask = logits.sigmoid() * has_reference[:, None, None, None]
            denoised = mix(mask, static_x0(self.static_noise, reference_latent, x_t, a, s), dynamic)
            logs["mask"] = mask.detach().sum() / (mask[0].numel() * has_reference.sum()).clamp(min=1)
        weight = self._on_cells(self._weight(a, s), target, reference_latent, has_reference, coverage)
        if self.bank is not None and torch.is_grad_enabled():  # not when held-out losses are measured
            self.bank.put(denoised.detach() - target, has_reference)
        error = (denoised - target).square()
        main = (weight * error).mean()
        own = (weight * (dynamic - target).square()).mean()
        eps = ((a / s).square() * error.detach()).mean()
        logs |= {"masked": main.detach(), "own": own.detach(), "eps": eps}
        return (1 - self.auxiliary_share) * main + self.auxiliary_share * own, logs

    def _weight(self, a: Tensor, s: Tensor) -> Tensor:
        """The weight of the squared error of x_0."""
        signal_to_noise = (a / s).square()
        if self.min_snr_gamma:
            return signal_to_noise.clamp(max=self.min_snr_gamma)
        weight = signal_to_noise if self.prediction == "eps" else s.pow(-2)
        return weight.clamp(max=self.weight_cap) if self.weight_cap else weight

    def _on_cells(
        self, weight: Tensor, target: Tensor, last: Tensor, has_last: Tensor, coverage: Tensor | None
    ) -> Tensor:
        """The weight of each cell, [B, 1, h, w], if cells differ in weight."""
        if self.detail_weight:
            weight = weight * (1 + self.detail_weight * unlikeness(target))
        if self.change_weight:
            cells = 1 + self.change_weight * novelty(target, last, has_last, coverage)
            weight = weight * cells / cells.mean(dim=(2, 3), keepdim=True)
        return weight


def unlikeness(latent: Tensor) -> Tensor:
    """How much each cell of [B, C, h, w] differs from the most common one: [B, 1, h, w], from 0 up to but not including
    1. Not in the paper.

    In a frame of one object on a plain background it is near 1 on the object, which covers few cells and is hard to
    learn.
    """
    typical = latent.flatten(2).median(dim=-1).values[..., None, None]
    distance = (latent - typical).square().sum(dim=1, keepdim=True)
    return distance / (distance + 1)


CHANGE = 0.25
"""A cell counts as changed when its channels differ from the last frame's by about this much on average, in latents of
standard deviation 1."""


def novelty(target: Tensor, last: Tensor, has_last: Tensor, coverage: Tensor | None = None) -> Tensor:
    """How little of each cell of the target [B, C, h, w] can be copied: [B, 1, h, w], from 0 to 1. Not in the paper.

    With a last frame (`has_last` [B] is 1) it is the distance of the target from that frame. Without one there is
    nothing to copy; it is then `coverage` [B, 1, h, w], how much of the cell is covered by things, or `unlikeness` if
    that is not known. The background is common to many samples and easy to learn.
    """
    has = has_last[:, None, None, None]
    changed = ((target - last).abs().mean(dim=1, keepdim=True) / CHANGE).clamp(max=1)
    return has * changed + (1 - has) * (unlikeness(target) if coverage is None else coverage)


def _run(network: FrameNetwork, x_t: Tensor, timesteps: Tensor, conditions: Sequence[Tensor]) -> Tensor:
    return network(x_t, timesteps, network.condition(*conditions)).float()


class DiffusionTraining(Stage):
    """The stage "diffusion" for the training loop. The VAE and, unless it is trained, the text encoder only encode."""

    name = "diffusion"
    config: DiffusionStage
    module: MaskedDiffusionLoss
    samples: ClipSamples

    def __init__(self, config: TrainConfig, model: ARTV, clips: Clips) -> None:
        self.config, self.evaluate_every = config.diffusion, config.diffusion.evaluate_every
        self.run, self.model, self.clips, self.broken = config, model, clips, BrokenCount()
        frames = self.config.sheet_rows * self.config.sheet_columns
        self.sheet_samples = float(frames * (self.config.sheet_steps or model.config.sampling.steps))
        self.samples = ClipSamples(config.diffusion, config.seed, model, clips)
        choose_trained(model, config.diffusion.train)
        store_frozen(model, config.diffusion.mixed_precision)
        if model.text is not None:  # weights without gradients get no optimiser state, and a state must have all
            model.text.unused_blocks().requires_grad_(False)
        for network in (model.noise, model.mask):
            if network is not None:
                network.gradient_checkpointing = config.diffusion.gradient_checkpointing
                keep_norms_in_bfloat16(network)
        self.module = self.make_module(model).to(memory_format=torch.channels_last)

    def make_module(self, model: ARTV) -> MaskedDiffusionLoss:
        """What is trained, with the networks of `model`."""
        return MaskedDiffusionLoss(model, self.config)

    def fuse(self, device: torch.device) -> None:
        """Let norms, gates and sums run as fused kernels, with gradients where networks are trained."""
        for network in self.module.networks:
            if fuse_for_training(network, device):
                fuse_biases(network)
        for network in self.module.frozen_networks:
            fuse(network, device, torch.bfloat16)

    def arguments(self, batch: Batch, device: torch.device) -> tuple[Tensor, ...]:
        """Arguments of `MaskedDiffusionLoss.forward`: encoded and noised, with references made by the model itself for
        the samples that were drawn for it."""
        batch, latents, text = self.encoded(batch, device)
        return self.noised(batch, self.with_errors(batch, latents), text)

    def encoded(self, batch: Batch, device: torch.device) -> tuple[Batch, Tensor, Tensor]:
        """The batch on the device, its latents [B, R + 2, C, h, w], and its text."""
        for line in self.broken.add(batch.broken):
            print(f"\nreplaced: {line}")
        rolled, seeds = batch.rolled, batch.seeds  # on the host; reading them from the device means waiting
        batch = batch.to(device)
        latents = batch.frames if self.clips.source.holds_latents else self._encode(batch.frames, batch.shown)
        text = self._context(batch.text, device)
        count = self.samples.num_references
        if self.config.rollout_share:
            context = text if self.module.text is None else self.module.text(text)
            own = go_on(self.model, latents[:, :count], context, rolled, seeds, self.config)
            latents = torch.cat([own, latents[:, count:]], dim=1)
        return batch, latents, text

    def noised(self, batch: Batch, latents: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        """The arguments of the module that follow from these latents."""
        count = self.samples.num_references
        scales = (batch.signal[..., None, None, None], batch.spread[..., None, None, None])
        noisy = scales[0] * latents + scales[1] * batch.noise
        covered = () if batch.coverage is None else (batch.coverage,)
        return (
            latents[:, -1],
            batch.noise[:, -1],
            batch.timesteps,
            scales[0][:, -1],
            scales[1][:, -1],
            text,
            noisy[:, :count].flatten(1, 2),
            batch.levels[:, 0],
            noisy[:, count],
            batch.levels[:, 1],
            latents[:, count - 1],
            batch.present[:, count - 1],
            *covered,
        )

    def with_errors(self, batch: Batch, latents: Tensor) -> Tensor:
        """Latents [B, R + 2, C, h, w] with errors of the bank, if there is one: one error in all references of a
        sample, as a video drifts slowly, and another in its anchor."""
        bank, picks = self.module.bank, batch.error_picks
        if bank is None or picks is None:
            return latents
        count, target = self.samples.num_references, latents[:, -1]
        in_references, in_anchor = (bank.picked(pick, target)[:, None] for pick in picks.unbind(dim=1))
        errors = [in_references.expand(-1, count, -1, -1, -1), in_anchor, torch.zeros_like(in_anchor)]
        return latents + torch.cat(errors, dim=1) * batch.present[..., None, None, None]

    def _encode(self, frames: Tensor, shown: Tensor) -> Tensor:
        """Core-scale latents [B, R + 2, C, h, w], zero for frames that are not shown."""
        self.model.require_vae().to(frames.device)
        latents = self.model.encode_images(frames.flatten(0, 1)[shown])
        blank = latents.new_zeros(frames.shape[0] * frames.shape[1], *latents.shape[1:])
        return blank.index_copy(0, shown, latents).unflatten(0, frames.shape[:2])

    def _context(self, text: Tensor, device: torch.device) -> Tensor:
        if text.ndim == 3 or self.module.text is not None:
            return text
        assert self.model.text is not None
        return self.model.text.to(device)(text)

    def empty_module(self) -> MaskedDiffusionLoss:
        """The same networks on the meta device, with the same parts to be trained."""
        with hollow():
            model = ARTV(self.model.config, mask=self.model.mask is not None, vae=False)
            add_new_weights(model, self.config)
            choose_trained(model, self.config.train)
            return self.make_module(model)

    def flops_per_sample(self) -> float:
        """FLOPs per sample at the training size; other aspect ratios have about as many cells."""
        return count_flops(self.empty_module(), self.meta_arguments())

    def meta_arguments(self) -> tuple[Tensor, ...]:
        """Arguments of the module for one sample, on the meta device."""
        return meta_arguments(self.model.config, "text" in self.config.train)

    def evaluate(self, accelerator: Accelerator, module: nn.Module) -> Mapping[str, float]:
        """Held-out losses by band of time steps and by noise level."""
        if not len(self.clips.held_out):
            return {}
        return held_out_losses(self, accelerator, module)

    def sheet(self, module: nn.Module, step: int, folder: Path) -> Mapping[str, float]:
        """Draw a sheet of held-out prompts, or of held-out clips continued from their first frames. Without held-out
        clips it shows clips from training."""
        assert isinstance(module, MaskedDiffusionLoss)
        if self.model.vae is None:
            return {}  # already reported when the stage started
        model, path, stage = with_networks(self.model, module), folder / f"sheet-{step:06d}.png", self.config
        shown = self.clips.held_out if len(self.clips.held_out) else self.clips.trained_on
        try:
            if not self.run.data.path:
                size, steps = (stage.sheet_rows, stage.sheet_columns), stage.sheet_steps or None
                return rollout_sheet(model, path, *size, self.run.world, steps)
            return clips_sheet(model, self.clips.source, shown, path, stage)
        except NotFiniteError as error:
            print(f"\n{path.name} was not drawn: {error}")
            return {}


def add_new_weights(model: ARTV, stage: DiffusionStage) -> None:
    """Give the noise network the weights that it has only for training: low-rank changes, if they are trained."""
    if "lora" in stage.train:
        add_lora(model.noise.diffusion_model, stage.lora_rank)


def choose_trained(model: ARTV, parts: Sequence[str]) -> None:
    """Let exactly the weights of these parts (names in `checkpoint.PARTS`) require gradients."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of_weight(name) in parts)


def store_frozen(model: ARTV, mixed_precision: str) -> None:
    """Store matrices and kernels that are not trained in the half precision that training computes in. Everything that
    is trained stays float32, as do norms and biases, which are small."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision)
    for parameter in model.parameters():
        if dtype is not None and not parameter.requires_grad and parameter.ndim >= 2:
            parameter.data = parameter.data.to(dtype)


def with_networks(model: ARTV, trained: MaskedDiffusionLoss) -> ARTV:
    """A model for sampling: the trained networks and text encoder together with the other parts of `model`."""
    with hollow():
        result = ARTV(model.config, mask=False, vae=False, text=False)
    result.noise, result.mask, result.vae = trained.noise, trained.mask, model.vae
    result.text = model.text if trained.text is None else trained.text
    device = next(trained.noise.parameters()).device
    for part in (result.vae, result.text):
        if part is not None:
            part.to(device)
    result.null_context = model.null_context.to(device)
    if trained.text is not None:
        result.update_null_context()
    return result.eval()


def meta_arguments(config: ARTVConfig, tokens: bool) -> tuple[Tensor, ...]:
    """Arguments of `MaskedDiffusionLoss.forward` for one sample, on the meta device, with text as `tokens` or as
    context."""
    channels, factor = config.vae.latent_channels, config.vae.factor
    height, width = (side // factor for side in config.size)
    count = config.noise.adapter.num_references
    with torch.device("meta"):
        latent, number, scale = torch.zeros(1, channels, height, width), torch.zeros(1), torch.ones(1, 1, 1, 1)
        length, breadth = config.text.context_length, config.text.width
        text = torch.zeros(1, length, dtype=torch.long) if tokens else torch.zeros(1, length, breadth)
        references = torch.zeros(1, count * channels, height, width)
    return latent, latent, number, scale, scale, text, references, number, latent, number, latent, number


def start_mask(model: ARTV, stage: DiffusionStage) -> None:
    """Before the first step: the mask network starts by copying little. No condition starts from zero weights, because
    there is no pretrained network that it could disturb. Not in the paper."""
    if model.mask is None:
        return
    unet = model.mask.diffusion_model
    closing = [*model.mask.reference_adapter.zero_out, unet.reference_level_embed[2], unet.anchor_level_embed[2]]
    closing += [module.anchor_to_out for module in unet.modules() if isinstance(module, CrossAttention)]
    for layer in [*closing, unet.out[2]]:
        layer.reset_parameters()
    nn.init.constant_(unet.out[2].bias, stage.mask_bias)  # type: ignore[arg-type]


def forget_other_words(model: ARTV, words: Sequence[str]) -> None:
    """Before the first step on a synthetic world: remove the meaning of words that its captions never contain. Not in
    the paper."""
    assert model.text is not None
    known = model.text.tokenize([" ".join(chunk) for chunk in _chunks(words, 8)]).unique()
    embedding = model.text.model.token_embedding.weight
    with torch.no_grad():
        seen = torch.zeros(embedding.shape[0], 1)
        seen[known] = 1
        embedding.mul_(seen)


def _chunks(words: Sequence[str], size: int) -> list[Sequence[str]]:
    return [words[start : start + size] for start in range(0, len(words), size)]
