"""How far a video wanders from its first frame, read from its latents as they leave the sampler. Ours."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..media import evenly_spaced


@dataclass(frozen=True)
class DriftReading:
    """One frame against the first: `shift` of the channels' means, `spread` of the channels' standard deviations (1 =
    unchanged), `motion` since the frame before (mean absolute change), and the share of the frame that was `copied`."""

    index: int
    shift: float
    spread: float
    motion: float
    copied: float


class DriftMeter:
    """Reads one video's frames in order; keeps two latents and no more."""

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._before: Tensor | None = None

    def read(self, index: int, latent: Tensor, mask: Tensor | None = None) -> DriftReading:
        """`latent` [C, h, w] in any one scale; `mask` [h, w], 1 = copied."""
        first = latent if self._first is None else self._first
        before = latent if self._before is None else self._before
        self._first, self._before = first, latent
        shift = (latent.mean(dim=(1, 2)) - first.mean(dim=(1, 2))).abs().mean()
        spread = latent.std(dim=(1, 2)).mean() / first.std(dim=(1, 2)).mean().clamp(min=1e-6)
        motion = (latent - before).abs().mean()
        return DriftReading(
            index, float(shift), float(spread), float(motion), 0.0 if mask is None else float(mask.mean())
        )


def drift_table(readings: Sequence[DriftReading], rows: int = 12) -> str:
    """At most `rows` readings, evenly spaced, as lines of text under a heading."""
    chosen = [readings[index] for index in evenly_spaced(len(readings), rows)]
    lines = [f"{r.index:6d}  {r.shift:6.3f}  {r.spread:6.3f}  {r.motion:6.3f}  {r.copied:6.3f}" for r in chosen]
    return "\n".join([" frame   shift  spread  motion  copied", *lines])
