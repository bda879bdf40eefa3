"""Stage "distill": trains a student to make, with a few evaluations of one branch, the frames that its teacher makes
with guidance and many evaluations.

From noise the student makes whole frames in its own few steps, and in each of them it learns to end where the teacher
would have ended from the same latent (`teacher.goal`). So it sees the latents that it will see when it is used, its own
mistakes among them. Not in the paper.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import describe_checkpoint, load_checkpoint, resolve_checkpoint
from ..config import ARTVConfig, SamplingConfig
from ..method.noise_schedule import NoiseSchedule
from ..models.artv import ARTV
from ..models.hollow import hollow
from ..models.network import FrameNetwork
from .config import DistillStage, TrainConfig
from .diffusion import DiffusionTraining, MaskedDiffusionLoss, meta_arguments, store_frozen
from .norms import keep_norms_in_bfloat16
from .samples import Batch, Clips
from .start import check_same
from .teacher import Networks, StudentStep, Teacher, student_steps


class StudentLoss(MaskedDiffusionLoss):
    """The error of the student's masked x_0 in each of its steps, with a share for the noise network's own x_0.
    Gradients do not go from one step into the one before it.

    The error of a frame is the root of its mean square (pseudo-Huber, as in Song and Dhariwal 2023, arXiv 2310.14189),
    with weights as in `MaskedDiffusionLoss`. A first frame can be anything that fits the text, so its squared error is
    a hundred times that of a later frame. But drift comes from later frames. With the root, each frame counts about as
    much as another."""

    def __init__(self, model: ARTV, stage: DistillStage, teacher: Teacher, steps: Sequence[StudentStep]) -> None:
        super().__init__(model, stage)
        self.own, self.teacher, self.steps = Networks.of(model), teacher, tuple(steps)
        self.error_floor = stage.error_floor

    @property
    def frozen_networks(self) -> list[FrameNetwork]:
        """The networks of the teacher."""
        return self.teacher.parts

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "StudentLoss":
        self.teacher.apply(fn)
        return super()._apply(fn, recurse)

    def forward(  # type: ignore[override]
        self,
        target: Tensor,
        noise: Tensor,
        text: Tensor,
        references: Tensor,
        reference_level: Tensor,
        anchor: Tensor,
        anchor_level: Tensor,
        reference_latent: Tensor,
        has_reference: Tensor,
        has_anchor: Tensor,
        true_references: Tensor,
        true_anchor: Tensor,
        true_latent: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns (loss, scalars to log). As in `MaskedDiffusionLoss`; `text` is context [B, L, D]. The student sees
        `references`, `anchor` and `reference_latent`; the teacher sees those without errors of the bank (`true_...`).
        The frame begins with `noise`. The true frame `target` is only for the bank."""
        given = self.own.unguided(
            (text, references, anchor, reference_level, anchor_level), reference_latent, has_reference
        )
        taught = self.teacher.given(
            (text, true_references, true_anchor, reference_level, anchor_level), true_latent, has_reference, has_anchor
        )
        x, losses = noise * self.steps[0].levels[0].sigma, []
        logs: dict[str, Tensor] = {}
        for step in self.steps:
            denoised = self.own.denoised(given, x, step.levels[0])
            goal = self.teacher.goal(taught, x, step)
            weight = self._weight_of(step, goal, reference_latent, has_reference)
            main, own = (self._size(weight * (x_0 - goal).square()) for x_0 in denoised[:2])
            losses.append((1 - self.auxiliary_share) * main + self.auxiliary_share * own)
            result = denoised.masked.detach()
            x = result + (x - result) * step.ratio
            logs |= {"last": main.detach()}
            if denoised.mask is not None:
                copied = denoised.mask.detach().sum()
                logs["mask"] = copied / (denoised.mask[0].numel() * has_reference.sum()).clamp(min=1)
        if self.bank is not None and torch.is_grad_enabled():
            self.bank.put(x - target, has_reference)
        return torch.stack(losses).mean(), logs

    def _size(self, squares: Tensor) -> Tensor:
        """The mean size [] of the errors of frames, from weighted squared errors [B, C, h, w]."""
        floor = self.error_floor
        return ((squares.mean(dim=(1, 2, 3)) + floor**2).sqrt() - floor).mean()

    def _weight_of(self, step: StudentStep, goal: Tensor, last: Tensor, has_last: Tensor) -> Tensor:
        level, one = step.levels[0], goal.new_ones(1, 1, 1, 1)
        return self._on_cells(self._weight(one * level.a, one * level.s), goal, last, has_last, None)


class DistillTraining(DiffusionTraining):
    """The stage "distill" for the training loop. `config` is a run's `TrainConfig.as_student`. The model's recommended
    settings become those of the student."""

    name = "distill"
    config: DistillStage
    module: StudentLoss

    def __init__(self, config: TrainConfig, model: ARTV, clips: Clips, teacher: ARTV) -> None:
        stage = config.diffusion
        assert isinstance(stage, DistillStage)
        sampling = student_sampling(teacher.config.sampling, stage.evaluations)
        model.config = replace(model.config, sampling=sampling)
        store_frozen(teacher.requires_grad_(False), stage.mixed_precision)
        keep_norms_in_bfloat16(teacher)
        self.taught_by = teacher
        self.steps = student_steps(NoiseSchedule(model.config.schedule), stage.evaluations, stage.substeps)
        super().__init__(config, model, clips)

    def make_module(self, model: ARTV) -> StudentLoss:
        """What is trained, with the teacher beside it."""
        on_meta = model.null_context.is_meta
        return StudentLoss(
            model, self.config, Teacher(_hollow(self.taught_by) if on_meta else self.taught_by), self.steps
        )

    def arguments(self, batch: Batch, device: torch.device) -> tuple[Tensor, ...]:
        """The arguments of `StudentLoss.forward`."""
        batch, latents, text = self.encoded(batch, device)
        true = self.noised(batch, latents, text)
        seen = self.noised(batch, self.with_errors(batch, latents), text)
        has_anchor = batch.present[:, self.samples.num_references]
        return (*seen[:2], *seen[5:12], has_anchor, true[6], true[8], true[10])

    def meta_arguments(self) -> tuple[Tensor, ...]:
        """As `arguments`, for one sample, on the meta device."""
        usual = meta_arguments(self.model.config, tokens=False)
        return (*usual[:2], *usual[5:12], usual[11], usual[6], usual[8], usual[10])


def _hollow(model: ARTV) -> ARTV:
    """The same networks without numbers, on the meta device."""
    with hollow():
        return ARTV(model.config, mask=model.mask is not None, vae=False, text=False)


def student_sampling(teacher: SamplingConfig, evaluations: int) -> SamplingConfig:
    """The settings that a student's checkpoint recommends: its evaluations, without guidance and fresh noise, at the
    noise levels of its teacher."""
    plain: dict[str, Any] = {"guidance_references": 1.0, "guidance_anchor": 1.0, "guidance_text": 1.0}
    plain |= {"first_frame_guidance": 1.0, "first_frame_steps": 0}
    return replace(teacher, sampler="euler", steps=evaluations, eta=0.0, **plain)


def exported_model(config: TrainConfig) -> ARTVConfig:
    """The configuration written to the checkpoint of a run or, with `as_student`, of a student."""
    model, stage = config.exported_model, config.diffusion
    if not isinstance(stage, DistillStage):
        return model
    teacher = describe_checkpoint(resolve_checkpoint(stage.teacher)).config.sampling
    return replace(model, sampling=student_sampling(teacher, stage.evaluations))


def load_teacher(config: TrainConfig, student: ARTV) -> ARTV:
    """The teacher of a run (`TrainConfig.as_student`). Raises ValueError if it is not a model like the student, or has
    another text encoder."""
    stage = config.diffusion
    assert isinstance(stage, DistillStage)
    path = resolve_checkpoint(stage.teacher)
    teacher = load_checkpoint(path, base=resolve_checkpoint(config.base) if config.base else None, without=("vae",))
    check_same(path, teacher.config, config.model, ("noise", "mask", "text", "vae", "schedule"), "name another teacher")
    if not torch.equal(teacher.null_context, student.null_context):
        raise ValueError(
            f"{path} cannot teach {stage.start_from}: their text encoders differ; "
            "leave out start_from, or name another teacher"
        )
    teacher.text = None
    return teacher
