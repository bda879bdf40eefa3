"""The teacher of a few-step student: its guided, masked frames, and what a student's step should predict.

The student takes Euler steps from one of its noise levels to the next. From the same latent, the teacher takes several
shorter steps over the same distance. There is exactly one clean latent with which the student's step ends where the
teacher's steps end: that is the goal (progressive distillation, Salimans and Ho 2022, arXiv 2202.00512). Not in the
ART-V paper.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import SamplingConfig
from ..method.denoiser import Branch, GuidanceScales, guidance_branches, mix
from ..method.noise_schedule import NoiseSchedule, static_x0, x0_from_prediction
from ..models.artv import ARTV
from ..models.network import FrameConditions, FrameNetwork

Conditions = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Arguments of `FrameNetwork.condition`: context, references, anchor, and the levels of both."""

CHAIN = (
    Branch(references=False, anchor=False, text=False),
    Branch(references=True, anchor=False, text=False),
    Branch(references=True, anchor=True, text=False),
    Branch(references=True, anchor=True, text=True),
)
"""The branches of Eq. 8 for a frame that has everything. A frame that lacks a condition gets the same result from any
branch that has it, because it is blank there too."""


class Level(NamedTuple):
    """A noise level: sigma, a and s of Eq. 3, and the time step."""

    sigma: float
    a: float
    s: float
    timestep: float


class StudentStep(NamedTuple):
    """A step of the student: the teacher's levels in it, the first of which is the student's, and the sigma where it
    ends."""

    levels: tuple[Level, ...]
    end: float

    @property
    def ratio(self) -> float:
        """The sigma at the end over the sigma at the start."""
        return self.end / self.levels[0].sigma


def student_steps(schedule: NoiseSchedule, evaluations: int, substeps: int) -> list[StudentStep]:
    """The steps of a frame, at the levels that `NoiseSchedule.sampling_sigmas` gives a student of this
    number of `evaluations`, each with `substeps` levels of the teacher.

    The teacher's levels are evenly spaced time steps between those of the student; after the student's last one they
    go on to the first time step.
    """
    sigmas = [float(sigma) for sigma in schedule.sampling_sigmas(evaluations)]
    starts = [float(schedule.timestep(sigma)) for sigma in sigmas[:-1]]
    steps = []
    for index, (start, end) in enumerate(pairwise([*starts, -1.0])):
        times = [start + (end - start) * k / substeps for k in range(substeps)]
        levels = [sigmas[index], *(float(schedule.sigma(time)) for time in times[1:])]
        steps.append(StudentStep(tuple(_level(sigma, schedule) for sigma in levels), sigmas[index + 1]))
    return steps


def _level(sigma: float, schedule: NoiseSchedule) -> Level:
    a = 1 / math.sqrt(1 + sigma**2)
    return Level(sigma, a, sigma * a, float(schedule.timestep(sigma)))


def goal(denoise: Callable[[Tensor, Level], Tensor], x: Tensor, step: StudentStep) -> Tensor:
    """The clean latent [B, C, h, w] with which one Euler step from x = x_0 + sigma eps ends where the teacher's steps
    end: DPM-Solver++(2M), with `denoise` as the teacher. If the step ends at sigma 0, it is the teacher's result.

    It is a weighted mean of what the teacher predicts on the way. Computed as such, no digits are lost at large sigma.
    """
    sigmas = [*(level.sigma for level in step.levels), step.end]
    seen, kept, now = torch.zeros_like(x), 1.0, x  # always now = seen + kept * x
    previous, previous_length = None, 0.0
    for level, (sigma, following) in zip(step.levels, pairwise(sigmas), strict=True):
        predicted = denoise(now, level)
        length = math.log(sigma / following) if following else math.inf
        ahead = predicted
        if previous is not None and following:
            ahead = predicted + (predicted - previous) * (length / (2 * previous_length))
        ratio = following / sigma
        seen, kept = ahead + (seen - ahead) * ratio, kept * ratio
        now, previous, previous_length = seen + kept * x, predicted, length
    return seen / (1 - kept)


class Given(NamedTuple):
    """What frames are made from, B of them. The conditions of the noise network are those of K branches [K * B],
    branch-major, with `coefficients` [K, B, 1, 1, 1]. `reference_latent` [B, C, h, w] is copied where `has_reference`
    [B, 1, 1, 1] is 1."""

    noise: FrameConditions
    mask: FrameConditions | None
    coefficients: Tensor
    reference_latent: Tensor
    has_reference: Tensor


class Denoised(NamedTuple):
    """Clean latents [B, C, h, w], masked and before that (`dynamic`), and the mask [B, 1, h, w], if there is one."""

    masked: Tensor
    dynamic: Tensor
    mask: Tensor | None


class Networks(NamedTuple):
    """The networks of one model, and the forms of its predictions and of its static noise."""

    noise: FrameNetwork
    mask: FrameNetwork | None
    prediction: str
    static_noise: str

    @classmethod
    def of(cls, model: ARTV) -> "Networks":
        """Those of a model."""
        schedule = model.config.schedule
        return cls(model.noise, model.mask, schedule.prediction, schedule.static_noise)

    def denoised(self, given: Given, x: Tensor, level: Level) -> Denoised:
        """One evaluation, as `denoiser.run_networks` makes it, where frames with and without references are mixed."""
        branches, (_, a, s, timestep) = len(given.coefficients), level
        x_t, timesteps = a * x, x.new_full((x.shape[0],), timestep)
        of_branches = x_t.repeat(branches, 1, 1, 1)
        prediction = _output(self.noise, of_branches, timesteps.repeat(branches), given.noise)
        each = x0_from_prediction(self.prediction, prediction, of_branches, a, s).unflatten(0, (branches, -1))
        dynamic = (given.coefficients * each).sum(dim=0)
        if self.mask is None or given.mask is None:
            return Denoised(dynamic, dynamic, None)
        mask = _output(self.mask, x_t, timesteps, given.mask).sigmoid() * given.has_reference
        static = static_x0(self.static_noise, given.reference_latent, x_t, a, s)
        return Denoised(mix(mask, static, dynamic), dynamic, mask)

    def unguided(self, conditions: Conditions, reference_latent: Tensor, has_reference: Tensor) -> Given:
        """The conditions of one branch that has everything."""
        return Given(
            self.noise.condition(*conditions),
            None if self.mask is None else self.mask.condition(*conditions),
            torch.ones_like(has_reference)[None, :, None, None, None],
            reference_latent,
            has_reference[:, None, None, None],
        )


def _output(network: FrameNetwork, x_t: Tensor, timesteps: Tensor, conditions: FrameConditions) -> Tensor:
    output = network(x_t, timesteps, conditions)
    assert isinstance(output, Tensor)
    return output.float()


class Teacher:
    """A frozen model with its recommended guidance. It is no module, so that it is not trained, averaged or saved."""

    def __init__(self, model: ARTV) -> None:
        self.networks = Networks.of(model.eval().requires_grad_(False))
        self.null_context = model.null_context.detach().clone()
        self.branches, table = guidance_table(model.config.sampling)
        self.table = torch.tensor(table, device=self.null_context.device)

    @property
    def parts(self) -> list[FrameNetwork]:
        """Its networks."""
        return [network for network in (self.networks.noise, self.networks.mask) if network is not None]

    def apply(self, change: Callable[[Tensor], Tensor]) -> None:
        """Do to its tensors what is done to those of a module, such as moving them to a device."""
        for network in self.parts:
            network._apply(change)
        self.null_context, self.table = change(self.null_context), change(self.table)

    @torch.no_grad()
    def given(
        self, conditions: Conditions, reference_latent: Tensor, has_reference: Tensor, has_anchor: Tensor
    ) -> Given:
        """The conditions of all branches that some frame needs, and each frame's coefficients. `has_reference` and
        `has_anchor` are [B]."""
        noise, mask = self.networks.noise, self.networks.mask
        guided = zip(*(self._seen(branch, conditions) for branch in self.branches), strict=True)
        kind = (2 * has_reference + has_anchor).long()
        return Given(
            noise.condition(*(torch.cat(of_branches) for of_branches in guided)),
            None if mask is None else mask.condition(*conditions),
            self.table[kind].T[..., None, None, None],
            reference_latent,
            has_reference[:, None, None, None],
        )

    def _seen(self, branch: Branch, conditions: Conditions) -> Conditions:
        """The conditions of one branch."""
        context, references, anchor, reference_level, anchor_level = conditions
        return (
            context if branch.text else self.null_context.to(context.dtype).expand_as(context),
            references * branch.references,
            anchor * branch.anchor,
            reference_level * branch.references,
            anchor_level * branch.anchor,
        )

    @torch.no_grad()
    def goal(self, given: Given, x: Tensor, step: StudentStep) -> Tensor:
        """What the student should predict for x [B, C, h, w] at the start of this step (`goal`)."""
        return goal(lambda now, level: self.networks.denoised(given, now, level).masked, x, step)


def guidance_table(sampling: SamplingConfig) -> tuple[list[Branch], list[list[float]]]:
    """The branches of `CHAIN` that some frame needs, and their coefficients: a row for each kind of frame. The kind is
    2 for a frame with references, plus 1 for one with an anchor."""
    rows = []
    for kind in range(4):
        has = {"references": kind >= 2, "anchor": kind % 2 == 1, "text": True}
        text = sampling.guidance_text if has["references"] else sampling.first_frame_guidance
        scales = GuidanceScales(sampling.guidance_references, sampling.guidance_anchor, text)
        row = [0.0] * len(CHAIN)
        for branch, coefficient in guidance_branches(scales, has["references"], has["anchor"], True):
            alike = [all(getattr(link, name) == getattr(branch, name) for name in has if has[name]) for link in CHAIN]
            row[max(index for index, same in enumerate(alike) if same)] += coefficient
        rows.append(row)
    used = [index for index in range(len(CHAIN)) if any(row[index] for row in rows)]
    return [CHAIN[index] for index in used], [[row[index] for index in used] for row in rows]
