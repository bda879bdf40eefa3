"""Advice on a video whose size is far from the checkpoint's: its frames look bad, and large ones take long."""

from dataclasses import dataclass
from typing import Any

FAR = 1.5
"""A side that is more than this many times longer or shorter than the checkpoint's is far from it."""


@dataclass(frozen=True)
class SizeAdvice:
    """The size [width, height] of a video, in pixels, and the size that the checkpoint is `made_for`. `given`: the size
    is that of pictures that the user gave; else it was typed."""

    size: tuple[int, int]
    made_for: tuple[int, int]
    given: bool

    def told(self) -> dict[str, Any]:
        """For the page, which says it in the user's language."""
        return {"made_for": list(self.made_for), "given": self.given}

    def __str__(self) -> str:
        """For the log."""
        got, best = ("x".join(map(str, size)) for size in (self.size, self.made_for))
        what = "the given picture" if self.given else "the video"
        remedy = "scale the picture with ARTV Fit Image" if self.given else "set width and height to auto"
        return (
            f"{what} is {got} pixels, and this checkpoint is made for {best}. Other sizes look bad, and large ones "
            f"take long: {remedy}"
        )


def size_advice(size: tuple[int, int], made_for: tuple[int, int], given: bool) -> SizeAdvice | None:
    """Advice on a size, as in `SizeAdvice`; None if it is near enough."""
    factors = [max(one, best) / min(one, best) for one, best in zip(size, made_for, strict=True)]
    return SizeAdvice(size, made_for, given) if max(factors) > FAR else None
