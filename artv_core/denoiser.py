"""From networks to one denoised frame: three-scale guidance (Eq. 8), then the static/dynamic mix (Eq. 5-7).

A denoiser answers `denoised = D(x, sigma)` for `x = x_0 + sigma eps` and knows nothing of frames, steps or samplers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor

from .schedule import NoiseSchedule, x0_from_prediction

MIX_MODES = ("after_guidance", "every_branch")

Network = Callable[[Tensor, Tensor, Any], Tensor]
"""network(x_t [B, C, h, w], timesteps [B] float32, conditions) -> prediction [K * B, C, h, w] or logits
[K * B, 1, h, w], branch-major, for as many branches as the conditions are of."""


def mix(mask: Tensor, reference: Tensor, denoised_dynamic: Tensor) -> Tensor:
    """Eq. 7 in x_0 space, where static noise is the reference: `mask * reference + (1 - mask) * denoised_dynamic`.

    mask [B, 1, h, w] in [0, 1], 1 = copied; latents [B, C, h, w]. At least float32. Mask 1 gives the reference's bits
    and mask 0 the dynamic latent's.
    """
    dtype = torch.promote_types(denoised_dynamic.dtype, torch.float32)
    mask, reference, dynamic = mask.to(dtype), reference.to(dtype), denoised_dynamic.to(dtype)
    difference = reference - dynamic
    # Reckoned from the nearer end, both ends are exact. torch.lerp does so too, but promises it for no device.
    return torch.where(mask < 0.5, dynamic + mask * difference, reference - (1 - mask) * difference)


def mix_eps(mask: Tensor, static_noise: Tensor, dynamic_noise: Tensor) -> Tensor:
    """Eq. 7 as printed: `eps_hat = mask * static_noise + (1 - mask) * dynamic_noise`. The proof of `mix`."""
    return mask * static_noise + (1 - mask) * dynamic_noise


@dataclass(frozen=True)
class GuidanceScales:
    """Classifier-free guidance (Eq. 8): one scale per condition, 1 = as trained, 0 = ignored. Raises ValueError."""

    references: float = 1.0
    anchor: float = 1.0
    text: float = 1.0

    def __post_init__(self) -> None:
        for name in ("references", "anchor", "text"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"guidance scale for {name} is {getattr(self, name)}, accepted are finite numbers")


@dataclass(frozen=True)
class Branch:
    """Which conditions one evaluation of the noise network is given; the others are blank."""

    references: bool
    anchor: bool
    text: bool


def guidance_branches(
    scales: GuidanceScales, has_references: bool, has_anchor: bool, has_text: bool
) -> list[tuple[Branch, float]]:
    """The evaluations that Eq. 8 needs, each with its coefficient; coefficients sum to 1. Nesting is ours.

    Conditions are added one by one in the order references, anchor, text, and each step along this chain is scaled. So
    a branch's coefficient is the scale of the condition it added (1 for the blank branch) minus that of the next one.
    A condition that is absent adds no branch, and a branch with coefficient 0 is dropped, be it the fully conditioned
    one: the mask network has conditions of its own (see `MaskedDenoiser`). All scales 1 leave only the full branch.
    """
    scale_of = {"references": scales.references, "anchor": scales.anchor, "text": scales.text}
    has = {"references": has_references, "anchor": has_anchor, "text": has_text}
    present = [name for name in scale_of if has[name]]
    chain = [1.0, *(scale_of[name] for name in present), 0.0]
    branches = []
    for depth in range(len(present) + 1):
        given = present[:depth]
        coefficient = chain[depth] - chain[depth + 1]
        if coefficient != 0:
            branches.append((Branch("references" in given, "anchor" in given, "text" in given), coefficient))
    return branches


class MaskedDenoiser:
    """`denoiser(x, sigma) -> denoised`: guide the noise network's x_0, then mix in what did not move.

    `branches` comes from `guidance_branches`; `conditions` serve all of them in that order as one batch, branch-major
    ([branches * B]). `reference_latent` [B, C, h, w] is the clean frame to copy from. `mask_network` is optional (first
    frame, or a checkpoint without one): then nothing is copied.

    mix_mode "after_guidance" (ours): one mask, of the fully conditioned branch; `mask_conditions` have batch B.
    mix_mode "every_branch" (Eq. 7, then Eq. 8, literally): every branch that has references is mixed with its own mask;
    `mask_conditions` have batch [such branches * B], branch-major.

    Networks get `network_dtype`; everything else is float32, or float64 if that is. `mask` is the last evaluation's
    [B, 1, h, w] (with "every_branch", that of the last branch mixed), or None where nothing was mixed. Raises
    ValueError on arguments that do not fit together.
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
    ):
        if mix_mode not in MIX_MODES:
            raise ValueError(f"unknown mix_mode {mix_mode!r}; accepted are {', '.join(MIX_MODES)}")
        if mask_network is not None and reference_latent is None:
            raise ValueError("a mask network was given without a reference_latent; give both or neither")
        if not branches:
            raise ValueError("no branches were given; take them from guidance_branches")
        self.schedule = schedule
        self.noise_network = noise_network
        self.conditions = conditions
        self.branches = tuple(branches)
        self.mask_network = mask_network
        self.mask_conditions = mask_conditions
        self.reference_latent = reference_latent
        self.mix_mode = mix_mode
        self.network_dtype = network_dtype
        self.dtype = torch.promote_types(network_dtype, torch.float32)
        self.mask: Tensor | None = None

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x [B, C, h, w] = x_0 + sigma eps, sigma a scalar > 0. Returns denoised [B, C, h, w]."""
        level = float(sigma)
        a = 1 / math.sqrt(1 + level**2)
        s = level * a
        x_t = x.to(self.dtype) * a
        prediction = self._evaluate(self.noise_network, x_t, level, self.conditions)
        x_t_of_branches = repeat(x_t, "b c h w -> (k b) c h w", k=len(self.branches))
        dynamic = x0_from_prediction(self.schedule.prediction, prediction, x_t_of_branches, a, s)
        dynamic_of_branches = rearrange(dynamic, "(k b) c h w -> k b c h w", k=len(self.branches))
        if self.mix_mode == "every_branch":
            return self._guide(self._mix_branches(dynamic_of_branches, x_t, level))
        return self._mix_once(self._guide(dynamic_of_branches), x_t, level)

    def _evaluate(self, network: Network, x_t: Tensor, sigma: float, conditions: Any) -> Tensor:
        timestep = float(self.schedule.timestep(sigma))
        timesteps = torch.full((x_t.shape[0],), timestep, dtype=torch.float32, device=x_t.device)
        return network(x_t.to(self.network_dtype), timesteps, conditions).to(self.dtype)

    def _guide(self, denoised_of_branches: Tensor) -> Tensor:
        """Eq. 8 as a weighted sum over [branches, B, C, h, w]."""
        guided = torch.zeros_like(denoised_of_branches[0])
        for (_, coefficient), denoised in zip(self.branches, denoised_of_branches, strict=True):
            guided = guided + coefficient * denoised
        return guided

    def _mix_once(self, dynamic: Tensor, x_t: Tensor, sigma: float) -> Tensor:
        if self.mask_network is None or self.reference_latent is None:
            return dynamic
        self.mask = self._evaluate(self.mask_network, x_t, sigma, self.mask_conditions).sigmoid()
        return mix(self.mask, self.reference_latent, dynamic)

    def _mix_branches(self, dynamic_of_branches: Tensor, x_t: Tensor, sigma: float) -> Tensor:
        mixed = [index for index, (branch, _) in enumerate(self.branches) if branch.references]
        if self.mask_network is None or self.reference_latent is None or not mixed:
            return dynamic_of_branches
        logits = self._evaluate(self.mask_network, x_t, sigma, self.mask_conditions)
        masks = rearrange(logits.sigmoid(), "(k b) c h w -> k b c h w", k=len(mixed))
        self.mask = masks[-1]
        results = list(dynamic_of_branches)
        for index, mask in zip(mixed, masks, strict=True):
            results[index] = mix(mask, self.reference_latent, results[index])
        return torch.stack(results)
