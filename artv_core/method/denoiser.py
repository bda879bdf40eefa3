"""Runs the networks to denoise one frame: three-scale guidance (Eq. 8), then the static/dynamic mix (Eq. 5-7).

A denoiser computes `denoised = D(x, sigma)` for `x = x_0 + sigma eps`. It does not depend on frames, steps or samplers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from ..models.unet import Reuse
from .noise_schedule import NoiseSchedule, static_x0, x0_from_prediction
from .transfer import to_device

MIX_MODES = ("after_guidance", "every_branch")

Network = Callable[..., Any]
"""network(x_t [B, C, h, w], timesteps [B] float32, conditions) -> prediction [K * B, C, h, w] or logits
[K * B, 1, h, w], branch-major, where K is the number of branches in the conditions. With a `Reuse` as fourth argument,
it returns (prediction or logits, features)."""


def mix(mask: Tensor, static: Tensor, denoised_dynamic: Tensor) -> Tensor:
    """Eq. 7 in x_0 space: `mask * static + (1 - mask) * denoised_dynamic`. That the two are weighed like this is our
    inference; our copy of the paper lost the formula. The same weights in eps space give the same result (`mix_eps`).

    mask [B, 1, h, w] in [0, 1], 1 = copied. `static` is what is copied (`static_x0`; in the exact form the reference);
    latents [B, C, h, w]. Computed in at least float32. Mask 1 gives `static` bit for bit, mask 0 the dynamic latent.
    """
    dtype = torch.promote_types(denoised_dynamic.dtype, torch.float32)
    mask, static, dynamic = mask.to(dtype), static.to(dtype), denoised_dynamic.to(dtype)
    difference = static - dynamic
    # Interpolate from the nearer end, so that mask 0 and 1 are exact. torch.lerp does so too, but does not promise it.
    return torch.where(mask < 0.5, dynamic + mask * difference, static - (1 - mask) * difference)


def mix_eps(mask: Tensor, static_noise: Tensor, dynamic_noise: Tensor) -> Tensor:
    """Eq. 7 in eps space, as we infer it: `eps_hat = mask * static_noise + (1 - mask) * dynamic_noise`. Tests compare
    `mix` with it."""
    return mask * static_noise + (1 - mask) * dynamic_noise


@dataclass(frozen=True)
class GuidanceScales:
    """Classifier-free guidance (Eq. 8): one scale per condition, 1 = as trained, 0 = no guidance of its own. With 0,
    references and anchor still act through what the text adds to them and through the mask. `history` is not in the
    paper: it guides away from the result with noisier references (fractional history guidance, Song et al. 2025, arXiv
    2502.06764). Raises ValueError if a scale is not finite."""

    references: float = 1.0
    anchor: float = 1.0
    text: float = 1.0
    history: float = 1.0

    def __post_init__(self) -> None:
        for name in ("references", "anchor", "text", "history"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"guidance scale for {name} is {getattr(self, name)}, accepted are finite numbers")


@dataclass(frozen=True)
class Branch:
    """Which conditions the noise network gets in one branch of guidance. The other conditions are blank. `noisier`: the
    references have the noise of history guidance."""

    references: bool
    anchor: bool
    text: bool
    noisier: bool = False


def guidance_branches(
    scales: GuidanceScales, has_references: bool, has_anchor: bool, has_text: bool
) -> list[tuple[Branch, float]]:
    """The branches that Eq. 8 needs, each with its coefficient. The coefficients sum to 1.

    Conditions are added one by one in the order references, anchor, text, and each step of this chain has its scale
    (the nesting is not in the paper). So a branch's coefficient is the scale of the condition that it adds (1 for the
    blank branch) minus the scale of the next condition (0 after the last). A condition that is absent adds no branch. A
    branch with coefficient 0 is dropped, even the fully conditioned one: the mask network has its own conditions (see
    `MaskedDenoiser`). If all scales are 1, only the fully conditioned branch remains.

    With references, a history scale h adds h - 1 times the difference between the fully conditioned branch and the same
    with noisier references.
    """
    scale_of = {"references": scales.references, "anchor": scales.anchor, "text": scales.text}
    has = {"references": has_references, "anchor": has_anchor, "text": has_text}
    present = [name for name in scale_of if has[name]]
    chain = [1.0, *(scale_of[name] for name in present), 0.0]
    history = scales.history if has_references else 1.0
    branches = []
    for depth in range(len(present) + 1):
        given = present[:depth]
        coefficient = chain[depth] - chain[depth + 1]
        coefficient += (history - 1) * (depth == len(present))
        if coefficient != 0:
            branches.append((Branch("references" in given, "anchor" in given, "text" in given), coefficient))
    if history != 1:
        branches.append((Branch(True, has_anchor, has_text, noisier=True), 1 - history))
    return branches


@dataclass(frozen=True, eq=False)
class FrameTask:
    """One frame's networks and conditions, for some guidance branches. Tasks are compared by identity, so that a faster
    `run_networks` can tell when the conditions change.

    `coefficients` [K] are those of the branches, in the order of `conditions`. `mixed` lists the branches that are each
    mixed with their own mask before guidance. None means one mask, after guidance. Without `mask_network` nothing is
    mixed. `static_noise` is the form of Eq. 6 (`static_x0`).
    """

    prediction: str
    noise_network: Network
    mask_network: Network | None
    conditions: Any
    mask_conditions: Any
    coefficients: Tensor
    reference_latent: Tensor | None
    mixed: tuple[int, ...] | None
    network_dtype: torch.dtype
    static_noise: str


class NetworkResult(NamedTuple):
    """Denoised latents [B, C, h, w], the mask [B, 1, h, w] of the last mix, and features to reuse (noise, mask
    network)."""

    denoised: Tensor
    mask: Tensor | None
    features: tuple[Any, Any] = (None, None)


def predict(
    network: Network, x_t: Tensor, timesteps: Tensor, conditions: Any, dtype: torch.dtype, reuse: Reuse | None
) -> tuple[Tensor, Any]:
    """A network's output for x_t, computed in `dtype` and returned in the dtype of x_t. With `reuse`, also its deep
    features, else None."""
    if reuse is None:
        return network(x_t.to(dtype), timesteps, conditions).to(x_t.dtype), None
    output, features = network(x_t.to(dtype), timesteps, conditions, reuse)
    return output.to(x_t.dtype), features


Predict = Callable[..., tuple[Tensor, Any]]
"""`predict`, or a faster function with the same results."""

Beside = Callable[[Callable[[], Any]], Callable[[], Any]]
"""beside(work) starts `work()`, perhaps in parallel to other work, and returns a function that returns its result."""


def at_once(work: Callable[[], Any]) -> Callable[[], Any]:
    """The simplest `Beside`: does the work at once, not in parallel."""
    result = work()
    return lambda: result


def run_networks(
    task: FrameTask,
    x: Tensor,
    level: Tensor,
    reuse: tuple[Reuse, Reuse] | None = None,
    predict: Predict = predict,
    beside: Beside = at_once,
) -> NetworkResult:
    """One evaluation of both networks. x [B, C, h, w] is x_0 + sigma eps; `level` [3] has a, s (Eq. 3) and the time
    step of this sigma.

    Pure function: every tensor is an argument and no state is kept, so that it can be compiled or captured whole.
    `reuse` has one entry for the noise network and one for the mask network. `beside` runs the mask network.
    """
    a, s, timestep = level.unbind()
    x_t = x.to(level.dtype) * a
    timesteps = timestep.float().expand(x.shape[0])

    def logits_and_features() -> tuple[Tensor, Any]:
        return predict(task.mask_network, x_t, timesteps, task.mask_conditions, task.network_dtype, reuse and reuse[1])

    copies = task.mask_network is not None and task.reference_latent is not None
    mask_result = beside(logits_and_features) if copies else None
    prediction, deep = predict(
        task.noise_network, x_t, timesteps, task.conditions, task.network_dtype, reuse and reuse[0]
    )
    branches = len(task.coefficients)
    dynamic = x0_from_prediction(task.prediction, prediction, x_t.repeat(branches, 1, 1, 1), a, s)
    dynamic = rearrange(dynamic, "(k b) c h w -> k b c h w", k=branches)
    if mask_result is None or task.reference_latent is None:
        return NetworkResult(_guide(task.coefficients, dynamic), None, (deep, None))
    logits, deep_mask = mask_result()
    masks, kept = logits.sigmoid(), (deep, deep_mask)
    static = static_x0(task.static_noise, task.reference_latent, x_t, a, s)
    if task.mixed is None:
        return NetworkResult(mix(masks, static, _guide(task.coefficients, dynamic)), masks, kept)
    each = rearrange(masks, "(k b) c h w -> k b c h w", k=len(task.mixed))
    results = list(dynamic)
    for index, mask in zip(task.mixed, each, strict=True):
        results[index] = mix(mask, static, results[index])
    return NetworkResult(_guide(task.coefficients, torch.stack(results)), each[-1], kept)


def _guide(coefficients: Tensor, denoised_of_branches: Tensor) -> Tensor:
    """Eq. 8 as a weighted sum over [branches, B, C, h, w]."""
    guided = torch.zeros_like(denoised_of_branches[0])
    for coefficient, denoised in zip(coefficients, denoised_of_branches, strict=True):
        guided = guided + coefficient * denoised
    return guided


RunNetworks = Callable[[FrameTask, Tensor, Tensor, tuple[Reuse, Reuse] | None], NetworkResult]
"""`run_networks`, or a faster function with the same results."""


@dataclass(frozen=True)
class Shortcuts:
    """Ways to skip work, at some cost in quality. Nothing is skipped by default. Not in the ART-V paper.

    `reuse_every`: run the full networks only in every N-th evaluation; in between, run only the outermost
    `reuse_blocks` blocks and reuse the deep features (DeepCache, see `Reuse`). `guidance_interval`: use guidance only
    between these two shares of the time steps (0 clean, 1 noise), and elsewhere only the fully conditioned branch
    (Kynkäänniemi et al. 2024, arXiv 2404.07724). Raises ValueError if a value is out of range.
    """

    reuse_every: int = 1
    reuse_blocks: int = 1
    guidance_interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        for name in ("reuse_every", "reuse_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"guidance_interval is {low} to {high}; accepted are 0 to 1, the lower number first")

    @property
    def limits_guidance(self) -> bool:
        """Whether some time steps run without guidance."""
        return self.guidance_interval != (0.0, 1.0)


class Levels:
    """The numbers that an evaluation needs about its noise level, on a device. One copy brings those of a whole run."""

    def __init__(
        self, schedule: NoiseSchedule, dtype: torch.dtype, device: torch.device, sigmas: Sequence[float] = ()
    ) -> None:
        self._schedule, self._dtype, self._device = schedule, dtype, device
        self._rows: dict[float, Tensor] = {}
        self._add(list(dict.fromkeys(sigmas)))

    def at(self, sigma: float) -> Tensor:
        """[3]: a and s of Eq. 3, and the time step. A level that is not in the table yet takes a copy of its own."""
        if sigma not in self._rows:
            self._add([sigma])
        return self._rows[sigma]

    def _add(self, sigmas: Sequence[float]) -> None:
        if not sigmas:
            return
        signals = [1 / math.sqrt(1 + sigma**2) for sigma in sigmas]
        steps = [float(self._schedule.timestep(sigma)) for sigma in sigmas]
        numbers = [(a, sigma * a, step) for sigma, a, step in zip(sigmas, signals, steps, strict=True)]
        table = to_device(torch.tensor(numbers, dtype=self._dtype), self._device)
        self._rows |= dict(zip(sigmas, table.unbind(), strict=True))


class MaskedDenoiser:
    """`denoiser(x, sigma) -> denoised`: apply guidance to the noise network's x_0, then mix in the static parts, in the
    form of static noise (Eq. 6) that the schedule's configuration names.

    `branches` comes from `guidance_branches`. `conditions` are those of all branches, in the same order, as one batch
    [branches * B], branch-major. `reference_latent` [B, C, h, w] is the clean frame to copy from. Without a
    `mask_network` (first frame, or a checkpoint without one) nothing is copied.

    mix_mode "after_guidance" (not in the paper): one mask, from the fully conditioned branch. `mask_conditions` have
    batch B.
    mix_mode "every_branch" (Eq. 7, then Eq. 8, in the paper's order): every branch that has references is mixed with
    its own mask. `mask_conditions` have batch [such branches * B], branch-major.

    `unguided` are both networks' conditions for the fully conditioned branch alone. They are needed if `shortcuts`
    limit guidance. The networks compute in `network_dtype`; everything else is float32, or float64 if that is. The
    frames of a run may share `levels`. `mask` is the mask [B, 1, h, w] of the last evaluation (with "every_branch", of
    its last mixed branch), or None if nothing was mixed. Raises ValueError on arguments that do not fit together.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        noise_network: Network,
        conditions: Any,
        branches: Sequence[tuple[Branch, float]],
        *,
        mask_network: Network | None = None,
        mask_conditions: Any = None,
        reference_latent: Tensor | None = None,
        mix_mode: str = "after_guidance",
        network_dtype: torch.dtype = torch.float32,
        unguided: tuple[Any, Any] | None = None,
        shortcuts: Shortcuts = Shortcuts(),
        run_networks: RunNetworks = run_networks,
        levels: Levels | None = None,
    ):
        if mix_mode not in MIX_MODES:
            raise ValueError(f"unknown mix_mode {mix_mode!r}; accepted are {', '.join(MIX_MODES)}")
        if mask_network is not None and reference_latent is None:
            raise ValueError("a mask network was given without a reference_latent; give both or neither")
        if not branches:
            raise ValueError("no branches were given; take them from guidance_branches")
        if shortcuts.limits_guidance and unguided is None:
            raise ValueError("guidance_interval needs the conditions of the fully conditioned branch; none were given")
        self.schedule = schedule
        self.noise_network, self.conditions, self.branches = noise_network, conditions, tuple(branches)
        self.mask_network, self.mask_conditions = mask_network, mask_conditions
        self.reference_latent = reference_latent
        self.mix_mode = mix_mode
        self.network_dtype = network_dtype
        self.dtype = torch.promote_types(network_dtype, torch.float32)
        self.unguided, self.shortcuts = unguided, shortcuts
        self.mask: Tensor | None = None
        self._run_networks, self._levels = run_networks, levels
        self._tasks: dict[bool, FrameTask] = {}
        self._reused = _Reused(shortcuts)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x [B, C, h, w] = x_0 + sigma eps, sigma a scalar > 0. Returns denoised [B, C, h, w]."""
        if self._levels is None:
            self._levels = Levels(self.schedule, self.dtype, x.device)
        guided = self._is_guided(float(sigma))
        if guided not in self._tasks:
            self._tasks[guided] = self._task(guided, x.device)
        level = self._levels.at(float(sigma))
        evaluated = self._run_networks(self._tasks[guided], x, level, self._reused.now(guided))
        self._reused.keep(evaluated.features)
        self.mask = evaluated.mask
        return evaluated.denoised

    def _is_guided(self, sigma: float) -> bool:
        if not self.shortcuts.limits_guidance:
            return True
        low, high = self.shortcuts.guidance_interval
        return low <= float(self.schedule.timestep(sigma)) / (self.schedule.num_timesteps - 1) <= high

    def _task(self, guided: bool, device: torch.device) -> FrameTask:
        conditions, mask_conditions, branches = self.conditions, self.mask_conditions, self.branches
        if not guided and self.unguided is not None:
            conditions, mask_conditions = self.unguided
            branches = ((Branch(references=True, anchor=True, text=True), 1.0),)
        mixed = tuple(index for index, (branch, _) in enumerate(branches) if branch.references)
        literal = self.mix_mode == "every_branch"
        return FrameTask(
            self.schedule.prediction,
            self.noise_network,
            self.mask_network if mixed or not literal else None,
            conditions,
            mask_conditions,
            to_device(torch.tensor([coefficient for _, coefficient in branches], dtype=self.dtype), device),
            self.reference_latent,
            mixed if literal else None,
            self.network_dtype,
            self.schedule.static_form,
        )


class _Reused:
    """Keeps deep features from one evaluation for the next."""

    def __init__(self, shortcuts: Shortcuts) -> None:
        self._shortcuts, self._since, self._guided = shortcuts, 0, False
        self._features: tuple[Any, Any] | None = None

    def now(self, guided: bool) -> tuple[Reuse, Reuse] | None:
        """What the next evaluation of the two networks reuses. None if features are never reused."""
        every, blocks = self._shortcuts.reuse_every, self._shortcuts.reuse_blocks
        if every == 1:
            return None
        # With and without guidance the batch differs, so features cannot be shared.
        if self._since % every == 0 or guided != self._guided:
            self._since, self._features = 0, None
        self._since, self._guided = self._since + 1, guided
        noise, mask = self._features or (None, None)
        return Reuse(blocks, noise), Reuse(blocks, mask)

    def keep(self, features: tuple[Any, Any]) -> None:
        """Keep the features of an evaluation."""
        self._features = features
