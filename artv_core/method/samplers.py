"""Samplers: from noise to a clean latent by repeated calls of `denoiser(x, sigma)`, in `x = x_0 + sigma eps`.

All have one signature, `sampler(denoiser, x, sigmas, *, noise_sampler, eta=1.0, s_noise=1.0, callback=None)`:
    denoiser       (x [B, C, h, w], sigma scalar) -> denoised [B, C, h, w]
    x              [B, C, h, w] at noise level sigmas[0]; for pure noise, standard normal times sigmas[0]
    sigmas         [steps + 1] descending, the last 0 (`NoiseSchedule.sampling_sigmas`)
    noise_sampler  (sigma, sigma_next) -> standard normal like x; only the stochastic samplers call it
    eta, s_noise   share and strength of the fresh noise; the deterministic samplers (`euler`, `dpmpp_2m`) ignore them
    callback       gets a `StepInfo` after each step's first evaluation; an exception from it ends the run
They return x at the last sigma. A step to sigma 0 returns the denoised latent bit for bit. Step sizes are computed in
Python's double precision.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .randomness import normal
from .transfer import to_device

Denoiser = Callable[[Tensor, Tensor], Tensor]
NoiseSampler = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class StepInfo:
    """What a callback gets: the step (0..num_steps-1), its noise level, x before the step, and the denoised latent.

    `mask` is the copy mask [B, 1, h, w] of this denoised latent (1 = copied). Samplers know nothing of it, so it is
    None unless the caller of the sampler fills it in, as `generate.sample_frame` does where something is copied."""

    step: int
    num_steps: int
    sigma: float
    x: Tensor
    denoised: Tensor
    mask: Tensor | None = None


Callback = Callable[[StepInfo], None]


class Sampler(Protocol):
    """The signature of all samplers; see the module's docstring."""

    def __call__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        *,
        noise_sampler: NoiseSampler,
        eta: float = 1.0,
        s_noise: float = 1.0,
        callback: Callback | None = None,
    ) -> Tensor:
        """From x at sigmas[0] to x at the last sigma."""
        ...


def gaussian_noise(generator: torch.Generator | Sequence[torch.Generator], like: Tensor) -> NoiseSampler:
    """A noise sampler that draws on the CPU in float32 and returns tensors like `like` [B, ...].

    With one generator per batch item, an item's noise does not depend on the rest of the batch. Raises ValueError if
    their number is not B.
    """
    if isinstance(generator, torch.Generator):
        return lambda sigma, sigma_next: to_device(normal(tuple(like.shape), generator), like.device, like.dtype)
    generators = tuple(generator)
    if len(generators) != like.shape[0]:
        raise ValueError(f"got {len(generators)} generators for a batch of {like.shape[0]}; give one for each item")

    def draw(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        drawn = torch.stack([normal(tuple(like.shape[1:]), item) for item in generators])
        return to_device(drawn, like.device, like.dtype)

    return draw


@torch.no_grad()
def euler(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise_sampler: NoiseSampler,
    eta: float = 1.0,
    s_noise: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """Euler's method on the probability flow ODE (Karras et al. 2022, arXiv 2206.00364). Deterministic; order 1."""
    for step, sigma, sigma_next in _steps(sigmas):
        denoised = denoiser(x, sigma)
        _report(callback, step, sigmas, x, denoised)
        x = _hold(x, denoised, float(sigma), float(sigma_next))
    return x


@torch.no_grad()
def euler_ancestral(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise_sampler: NoiseSampler,
    eta: float = 1.0,
    s_noise: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """Euler steps that go below the next noise level and come back up with fresh noise (k-diffusion's "ancestral")."""
    for step, sigma, sigma_next in _steps(sigmas):
        denoised = denoiser(x, sigma)
        _report(callback, step, sigmas, x, denoised)
        down, up = ancestral_step(float(sigma), float(sigma_next), eta)
        x = _hold(x, denoised, float(sigma), down)
        if up > 0:
            x = x + noise_sampler(sigma, sigma_next) * (s_noise * up)
    return x


@torch.no_grad()
def ddim(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise_sampler: NoiseSampler,
    eta: float = 1.0,
    s_noise: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """DDIM (Song et al. 2021, arXiv 2010.02502, Eq. 12), with DDIM's own eta of Eq. 16: 0 deterministic, 1 DDPM.

    Divided by the next level's `a`, the noise of Eq. 12 becomes `eta * sigma_next * sqrt(1 - (sigma_next / sigma)^2)`,
    as in the ancestral step. So in this scale DDIM equals `euler_ancestral`, and with eta 0 it equals `euler`. "DDIM"
    usually means eta 0; `GenerateOptions` uses 0 for this sampler unless `eta` is given.
    """
    return euler_ancestral(
        denoiser, x, sigmas, noise_sampler=noise_sampler, eta=eta, s_noise=s_noise, callback=callback
    )


@torch.no_grad()
def dpmpp_2m(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise_sampler: NoiseSampler,
    eta: float = 1.0,
    s_noise: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Algorithm 2): deterministic, order 2, 1 evaluation a step."""
    previous: Tensor | None = None
    previous_length = 0.0
    for step, sigma, sigma_next in _steps(sigmas):
        denoised = denoiser(x, sigma)
        _report(callback, step, sigmas, x, denoised)
        length = _log_length(sigma, sigma_next)
        target = denoised
        if previous is not None and math.isfinite(length):
            target = denoised + (denoised - previous) * (length / (2 * previous_length))
        x = _hold(x, target, float(sigma), float(sigma_next))
        previous, previous_length = denoised, length
    return x


@torch.no_grad()
def dpmpp_2s_ancestral(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise_sampler: NoiseSampler,
    eta: float = 1.0,
    s_noise: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2S) (arXiv 2211.01095, Algorithm 1) with ancestral noise: the paper's sampler. Order 2 with eta 0.

    Each step first goes to the midpoint in log sigma. Then it takes the whole step with the denoised latent from there.
    That needs two evaluations. A step to sigma 0 has no midpoint and needs one.
    """
    for step, sigma, sigma_next in _steps(sigmas):
        denoised = denoiser(x, sigma)
        _report(callback, step, sigmas, x, denoised)
        down, up = ancestral_step(float(sigma), float(sigma_next), eta)
        if down > 0:
            middle = math.sqrt(float(sigma) * down)
            x_middle = _hold(x, denoised, float(sigma), middle)
            denoised = denoiser(x_middle, sigma.new_tensor(middle))
        x = _hold(x, denoised, float(sigma), down)
        if up > 0:
            x = x + noise_sampler(sigma, sigma_next) * (s_noise * up)
    return x


SAMPLERS: dict[str, Sampler] = {
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
    "ddim": ddim,
}


def get_sampler(name: str) -> Sampler:
    """The sampler with this name. Raises ValueError, which lists the names, if there is none."""
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; known samplers: {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


def num_evaluations(name: str, num_steps: int) -> int:
    """Number of denoiser calls in `num_steps` steps that end at sigma 0, for eta up to 1. Raises ValueError on an
    unknown name."""
    get_sampler(name)
    return 2 * num_steps - 1 if name == "dpmpp_2s_ancestral" else num_steps


def evaluated_sigmas(name: str, sigmas: Tensor, eta: float = 1.0) -> list[float]:
    """The noise levels at which a sampler calls its denoiser, in order. `sigmas` are those passed to the sampler. The
    levels do not depend on the denoiser's output. Raises ValueError on an unknown name."""
    seen: list[float] = []

    def note(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(float(sigma))
        return x

    get_sampler(name)(note, torch.zeros(1), sigmas, noise_sampler=lambda sigma, sigma_next: torch.zeros(1), eta=eta)
    return seen


def ancestral_step(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """(down, up): go to noise level `down`, then add noise of level `up`. down^2 + up^2 = sigma_next^2.

    With eta 1, `up` is that of the forward process's posterior (DDPM). With eta 0 it is 0. It never exceeds sigma_next.
    """
    up = min(sigma_next, eta * sigma_next * math.sqrt(max(0.0, 1 - (sigma_next / sigma) ** 2)))
    return math.sqrt(sigma_next**2 - up**2), up


def _steps(sigmas: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    # On the CPU in float64: computing a step's size must not wait for the device, and MPS has no float64.
    levels = sigmas.detach().cpu().double()
    for step in range(len(levels) - 1):
        yield step, levels[step], levels[step + 1]


def _report(callback: Callback | None, step: int, sigmas: Tensor, x: Tensor, denoised: Tensor) -> None:
    if callback is not None:
        callback(StepInfo(step, len(sigmas) - 1, float(sigmas[step]), x, denoised))


def _hold(x: Tensor, denoised: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """Move x from sigma to sigma_next along a straight line, with the denoised latent held fixed."""
    if sigma_next == 0:
        return denoised
    return denoised + (x - denoised) * (sigma_next / sigma)


def _log_length(sigma: Tensor, sigma_next: Tensor) -> float:
    return math.log(float(sigma) / float(sigma_next)) if float(sigma_next) > 0 else math.inf
