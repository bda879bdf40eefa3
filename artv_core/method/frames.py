"""Which earlier frames a frame may see: the last few as references, and one anchor chosen by a policy.

The buffer holds a bounded number of latents however long the video grows.
"""

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

ANCHOR_KINDS = ("segment", "first", "rolling", "given", "none")


@dataclass(frozen=True)
class Frame:
    """A finished frame: absolute index, latent [B, C, h, w] float32 in the model's own scale, and the copy mask
    [B, 1, h, w] averaged over the denoising steps (1 = copied), or None where there was nothing to copy."""

    index: int
    latent: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class AnchorPolicy:
    """Where the anchor comes from.

    "segment" (the paper's): the first frame for the first prompt, then for each later prompt the last frame of the
    prompt before. "first": the first frame throughout. "rolling": the frame `window` before (ours). "given": `latent`
    [B, C, h, w] or [1, C, h, w]. "none": no anchor. Raises ValueError on anything else.
    """

    kind: str = "segment"
    window: int = 10
    latent: Tensor | None = None

    def __post_init__(self) -> None:
        if self.kind not in ANCHOR_KINDS:
            raise ValueError(f"unknown anchor policy {self.kind!r}; accepted are {', '.join(ANCHOR_KINDS)}")
        if self.window < 1:
            raise ValueError(f"anchor window is {self.window}; at least 1 is needed")
        if (self.kind == "given") != (self.latent is not None):
            raise ValueError('an anchor latent and the anchor policy "given" need each other')


class FrameBuffer:
    """The frames made so far, as much of them as the next frame needs. Latents are [B, C, h, w]."""

    def __init__(self, num_references: int, policy: AnchorPolicy):
        self.num_references = num_references
        self.policy = policy
        self.count = 0
        self._recent: deque[Tensor] = deque(maxlen=max(num_references, policy.window))
        self._anchor: Tensor | None = policy.latent

    def begin_segment(self) -> None:
        """The next frame is the first one of a new prompt."""
        if self.policy.kind == "segment" and self.count > 0:
            self._anchor = self._recent[-1]

    def append(self, latent: Tensor) -> None:
        """Take the next frame."""
        if self.count == 0 and self.policy.kind in ("segment", "first"):
            self._anchor = latent
        self._recent.append(latent)
        self.count += 1

    def references(self) -> Tensor | None:
        """The last frames [B, R, C, h, w], oldest first; the earliest repeated where there are fewer (the paper's
        "multiple copies"). None before the first frame."""
        if not self.count:
            return None
        known = list(self._recent)[-self.num_references :]
        return torch.stack([known[0]] * (self.num_references - len(known)) + known, dim=1)

    def anchor(self) -> Tensor | None:
        """The anchor [B, C, h, w] for the next frame, or None."""
        if self.policy.kind == "rolling" and self.count:
            return self._recent[max(0, len(self._recent) - self.policy.window)]
        return self._anchor
