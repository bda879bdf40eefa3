"""Which earlier frames a new frame sees: the last few as references, and one anchor that a policy chooses.

The buffer keeps a fixed number of latents, however long the video is.
"""

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

ANCHOR_KINDS = ("segment", "first", "rolling", "given", "none")


@dataclass(frozen=True)
class Frame:
    """A finished frame: absolute index, latent [B, C, h, w] float32 in the model's own scale, and the copy mask
    [B, 1, h, w], averaged over the denoising steps (1 = copied), or None if nothing was copied."""

    index: int
    latent: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class AnchorPolicy:
    """Where the anchor comes from.

    "segment" (the paper's): the first frame for the first prompt, and for each later prompt the last frame of the
    previous prompt. "first": always the first frame. "rolling": the frame `window` frames earlier, or the first frame
    if there are fewer (not in the paper). "given": `latent` [B, C, h, w] or [1, C, h, w], or instead `by_segment` with
    one such latent for each prompt, in the order of their first frames (not in the paper). "none": no anchor.
    Raises ValueError on another kind, a window below 1, or latents that do not fit the kind.
    """

    kind: str = "segment"
    window: int = 10
    latent: Tensor | None = None
    by_segment: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ANCHOR_KINDS:
            raise ValueError(f"unknown anchor policy {self.kind!r}; accepted are {', '.join(ANCHOR_KINDS)}")
        if self.window < 1:
            raise ValueError(f"anchor window is {self.window}; at least 1 is needed")
        if (self.kind == "given") != (self.latent is not None or bool(self.by_segment)):
            raise ValueError('an anchor latent and the anchor policy "given" need each other')
        if self.latent is not None and self.by_segment:
            raise ValueError("an anchor for all prompts and one for each prompt were given; give one or the other")

    def check_segments(self, num_segments: int) -> None:
        """Raises ValueError if there are anchors by segment, but not one for each of the prompts."""
        if self.by_segment and len(self.by_segment) != num_segments:
            raise ValueError(
                f"the number of anchor images is {len(self.by_segment)}, the number of prompts {num_segments}; "
                "give one image for each prompt, in the order of the prompts"
            )


class FrameBuffer:
    """Those of the frames made so far that the next frame needs. Latents are [B, C, h, w]."""

    def __init__(self, num_references: int, policy: AnchorPolicy):
        self.num_references = num_references
        self.policy = policy
        self.count = 0
        self._segment = -1
        self._recent: deque[Tensor] = deque(maxlen=max(num_references, policy.window))
        self._anchor: Tensor | None = policy.latent

    def begin_segment(self) -> None:
        """Call before the first frame of a new prompt: may change the anchor."""
        self._segment += 1
        if self.policy.by_segment:
            self._anchor = self.policy.by_segment[self._segment]
        if self.policy.kind == "segment" and self.count > 0:
            self._anchor = self._recent[-1]

    def append(self, latent: Tensor) -> None:
        """Add a finished frame."""
        if self.count == 0 and self.policy.kind in ("segment", "first"):
            self._anchor = latent
        self._recent.append(latent)
        self.count += 1

    def restart(self, latent: Tensor) -> None:
        """Add a keyframe that begins a new shot. The video goes on from it as from a first frame: later frames see no
        frame before it as reference or as rolling anchor, and with the policy "segment" it becomes the anchor. Not in
        the paper."""
        self._recent.clear()
        if self.policy.kind == "segment":
            self._anchor = latent
        self.append(latent)

    def references(self) -> Tensor | None:
        """The last R frames [B, R, C, h, w], oldest first. If there are fewer, the oldest one is repeated (the paper's
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
