"""The noise schedule: betas, sigmas, the forward process, and conversion of a network's prediction to a clean latent.

There are two scales. Networks see the variance-preserving `x_t = a x_0 + s eps` (Eq. 3). Samplers use the
variance-exploding `x = x_0 + sigma eps`. The two differ by the factor `a`, and `sigma = s / a`.
Time steps count from 0 (nearly clean) to N-1 (nearly noise). Tables are float64 on the CPU; latents stay on their
device.
"""

import numpy as np
import torch
from torch import Tensor

from ..config import ScheduleConfig

SPACINGS = ("uniform", "karras")
PREDICTIONS = ("eps", "v")
STATIC_NOISES = ("exact", "subtracted")


class NoiseSchedule:
    """The noise schedule a checkpoint was trained with.

    `alphas_cumprod` and `sigmas` are float64 CPU tables of shape [N], indexed by time step; sigmas ascend.
    Raises ValueError on an invalid configuration.
    """

    def __init__(self, config: ScheduleConfig):
        if config.prediction not in PREDICTIONS:
            raise ValueError(f"unknown prediction {config.prediction!r}; accepted are {', '.join(PREDICTIONS)}")
        if config.static_noise not in STATIC_NOISES:
            raise ValueError(f"unknown static_noise {config.static_noise!r}; accepted are {', '.join(STATIC_NOISES)}")
        if config.zero_terminal_snr and config.prediction != "v":
            raise ValueError(f"got prediction {config.prediction!r} with zero_terminal_snr; accepted is 'v'")
        self.prediction, self.static_form = config.prediction, config.static_noise
        self.num_timesteps = config.num_timesteps
        self.alphas_cumprod = torch.cumprod(1 - _betas(config), dim=0)
        if config.zero_terminal_snr:
            self.alphas_cumprod = _with_zero_terminal_snr(self.alphas_cumprod)
        self.sigmas = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    def timestep(self, sigma: Tensor | float) -> Tensor:
        """The time step of noise level `sigma` (any shape), interpolated linearly in log sigma. Not in the paper.

        Float64 on the CPU. Levels outside the table are clamped to its ends: sigma 0 is time step 0.
        """
        log_sigma = _on_cpu(sigma).log()
        return _interpolate(log_sigma, self.sigmas.log(), self._time())

    def sigma(self, timestep: Tensor | float) -> Tensor:
        """Inverse of `timestep`: the noise level at a time step (any shape, need not be whole). Float64 on the CPU."""
        return _interpolate(_on_cpu(timestep), self._time(), self.sigmas.log()).exp()

    def sampling_sigmas(self, num_steps: int, spacing: str = "uniform") -> Tensor:
        """The noise levels of a frame's sampling steps: [num_steps + 1] float64 on the CPU, descending, the last is 0.

        "uniform": whole time steps, evenly spaced from N-1 downward ("trailing", Lin et al. 2023, arXiv 2305.08891).
        "karras": from the largest to the smallest sigma of the table, evenly spaced in sigma^(1/7) (Karras et al. 2022,
        arXiv 2206.00364, Eq. 5).
        Raises ValueError on an unknown spacing or a number of steps outside 1 to N.
        """
        if not 1 <= num_steps <= self.num_timesteps:
            raise ValueError(f"num_steps is {num_steps}, accepted are 1 to {self.num_timesteps}")
        if spacing == "uniform":
            levels = self.sigmas[self._trailing_steps(num_steps)]
        elif spacing == "karras":
            levels = self._karras_sigmas(num_steps)
        else:
            raise ValueError(f"unknown spacing {spacing!r}; accepted are {', '.join(SPACINGS)}")
        return torch.cat([levels, levels.new_zeros(1)])

    def scales(self, timesteps: Tensor, *, ndim: int = 4, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """(a, s) of Eq. 3 for time steps [B]: each [B, 1, 1, 1] (`ndim` dimensions), on the time steps' device."""
        sigma = self.sigma(timesteps).reshape(-1, *[1] * (ndim - 1))
        a = (1 + sigma**2).rsqrt()
        return a.to(dtype).to(timesteps.device), (sigma * a).to(dtype).to(timesteps.device)

    def add_noise(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Eq. 3: `x_t = a x_0 + s eps`. x0 and noise [B, ...], one time step per batch item [B]."""
        a, s = self._scales_like(x0, timesteps)
        return a * x0 + s * noise

    def augment(self, latent: Tensor, noise: Tensor, level: Tensor | int) -> Tensor:
        """Noise augmentation of a condition (paper, 3.3). latent and noise [B, ...]; level is one integer, or one for
        each batch item [B].

        Level 0 means clean and returns the latent bit for bit. Level k > 0 is Eq. 3 at time step k. So no level stands
        for time step 0, whose noise is hardly visible (not in the paper). Raises ValueError on levels outside 0..N-1.
        """
        levels = torch.as_tensor(level)
        lowest, highest = int(levels.min()), int(levels.max())
        if lowest < 0 or highest >= self.num_timesteps:
            wrong = lowest if lowest < 0 else highest
            raise ValueError(f"noise level is {wrong}, accepted are 0 (clean) to {self.num_timesteps - 1}")
        if highest == 0:
            return latent
        if isinstance(level, int):
            return self._augment_all(latent, noise, level)
        levels = levels.expand(latent.shape[0])
        noisy = self.add_noise(latent, noise, levels)
        clean = (levels == 0).to(latent.device).reshape(-1, *[1] * (latent.ndim - 1))
        return torch.where(clean, latent, noisy)

    def _augment_all(self, latent: Tensor, noise: Tensor, level: int) -> Tensor:
        # The scales are Python numbers: a tensor would have to be copied to the latent's device.
        sigma = self.sigma(level)
        a = (1 + sigma**2).rsqrt()
        dtype = torch.promote_types(latent.dtype, torch.float32)
        return float(a) * latent.to(dtype) + float(sigma * a) * noise.to(dtype)

    def static_noise(self, x_t: Tensor, x_ref: Tensor, timesteps: Tensor) -> Tensor:
        """The static noise of Eq. 6, in the form of the configuration (`static_x0`). [B, C, h, w].

        "exact": `(x_t - a x_ref) / s`, the noise in x_t if the frame equals the reference. "subtracted": `x_t - x_ref`.
        """
        if self.static_form == "subtracted":
            return x_t - x_ref
        a, s = self._scales_like(x_t, timesteps)
        return (x_t - a * x_ref) / s

    def to_x0(self, prediction: Tensor, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """The clean latent that follows from a network's prediction (eps or v, by the configuration). [B, C, h, w]."""
        return x0_from_prediction(self.prediction, prediction, x_t, *self._scales_like(x_t, timesteps))

    def from_x0(self, x0: Tensor, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """Inverse of `to_x0`: the prediction (eps or v) that gives this clean latent. [B, C, h, w]."""
        a, s = self._scales_like(x_t, timesteps)
        return (x_t - a * x0) / s if self.prediction == "eps" else (a * x_t - x0) / s

    def target(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The training target for `add_noise(x0, noise, timesteps)`: equals `from_x0`, but without a division."""
        if self.prediction == "eps":
            return noise
        a, s = self._scales_like(x0, timesteps)
        return a * noise - s * x0

    def _time(self) -> Tensor:
        return torch.arange(self.num_timesteps, dtype=torch.float64)

    def _trailing_steps(self, num_steps: int) -> Tensor:
        ends = torch.arange(num_steps, 0, -1, dtype=torch.float64) * self.num_timesteps / num_steps
        return ends.round().long() - 1

    def _karras_sigmas(self, num_steps: int, rho: float = 7.0) -> Tensor:
        high, low = self.sigmas[-1] ** (1 / rho), self.sigmas[0] ** (1 / rho)
        return (high + torch.linspace(0, 1, num_steps, dtype=torch.float64) * (low - high)) ** rho

    def _scales_like(self, latent: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(a, s) on the latent's device, in at least float32: so half-precision latents give float32 results."""
        dtype = torch.promote_types(latent.dtype, torch.float32)
        a, s = self.scales(timesteps, ndim=latent.ndim, dtype=dtype)
        return a.to(latent.device), s.to(latent.device)


def x0_from_prediction(kind: str, prediction: Tensor, x_t: Tensor, a: Tensor | float, s: Tensor | float) -> Tensor:
    """Solve Eq. 3 for x_0, given eps or `v = a eps - s x_0` (Salimans and Ho 2022, arXiv 2202.00512). [B, C, h, w]."""
    return (x_t - s * prediction) / a if kind == "eps" else a * x_t - s * prediction


def static_x0(form: str, x_ref: Tensor, x_t: Tensor, a: Tensor | float, s: Tensor | float) -> Tensor:
    """The clean latent that follows from the static noise of Eq. 6: what a mask of 1 gives. [B, C, h, w].

    Our copy of the paper lost the formula and the approximation that follows it, so there are two forms:

    "exact" (derived from Eq. 5): static noise is `(x_t - a x_ref) / s`, and x_0 is the reference itself, bit for bit.
    "subtracted" (a reading of "subtracting the reference image from the input noised image", sections 1 and 3.2):
    static noise is `x_t - x_ref`, and x_0 is `((1 - s) x_t + s x_ref) / a`. At the noisiest time steps this is far
    from any frame; at the last ones it is about x_t, so a mask of 1 there means "keep what is there".

    x_t is the noised image of Eq. 3, `a x_0 + s eps` with `a^2 + s^2 = 1`, which the networks see. A sampler's
    `x = x_0 + sigma eps` must be multiplied by `a = 1 / sqrt(1 + sigma^2)` first: subtracting the reference from x
    itself would be a third form. The result serves both predictions, because eps and v are converted to x_0 as well.
    """
    return x_ref if form == "exact" else x0_from_prediction("eps", x_t - x_ref, x_t, a, s)


def _betas(config: ScheduleConfig) -> Tensor:
    if config.num_timesteps < 2 or not 0 < config.beta_start <= config.beta_end < 1:
        raise ValueError(
            f"schedule with {config.num_timesteps} time steps and betas {config.beta_start} to {config.beta_end}; "
            "accepted are 2 or more time steps and 0 < beta_start <= beta_end < 1"
        )
    if config.betas == "linear":
        return torch.linspace(config.beta_start, config.beta_end, config.num_timesteps, dtype=torch.float64)
    if config.betas == "scaled_linear":
        ends = config.beta_start**0.5, config.beta_end**0.5
        return torch.linspace(*ends, config.num_timesteps, dtype=torch.float64) ** 2
    raise ValueError(f"unknown betas {config.betas!r}; accepted are scaled_linear, linear")


def _with_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Lin et al. 2023 (arXiv 2305.08891), Algorithm 1: shift a = sqrt(alphas_cumprod) so that it ends at 0, then scale
    it so that it starts at its old value. The betas follow from the result.

    Samplers divide by a, so its last value is not 0 but half of the one before (not in that paper). So the last sigma
    is finite, and the largest: 4508 with SD's betas (4519 in ComfyUI). At this sigma, float32 still represents a latent
    plus noise to within 0.0005.
    """
    a = alphas_cumprod.sqrt()
    rescaled = ((a - a[-1]) * (a[0] / (a[0] - a[-1]))) ** 2
    rescaled[0] = alphas_cumprod[0]  # exact, without rounding
    rescaled[-1] = rescaled[-2] / 4
    return rescaled


def _on_cpu(value: Tensor | float) -> Tensor:
    # Move to the CPU first: some devices have no float64.
    return torch.as_tensor(value).detach().cpu().double()


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    return torch.as_tensor(np.interp(x.numpy(), xs.numpy(), ys.numpy()), dtype=torch.float64)
