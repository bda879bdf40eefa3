"""What the sampler adds to its LATENT, so that another node can make one of the frames again.

Nodes of the host copy this along with a LATENT, also when they pick, repeat or change frames. So it has a digest of
each frame, and `request_for` refuses frames that are no longer those of the sampler.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..artv_core.method.denoiser import run_networks
from ..artv_core.method.generate import VideoRequest
from ..artv_core.run.recording import tensor_digest

KEY = "artv_request"
"""The key in a LATENT."""


@dataclass(frozen=True)
class FrameRequest:
    """How the frames of one video were made. `num_given` of them came from references. `video` is the number of the
    video in its batch. `weights` is `weights.run_weights` of the model."""

    request: VideoRequest
    num_given: int
    video: int
    weights: str
    record: "FrameRecord"

    @classmethod
    def of_run(
        cls, request: VideoRequest, num_given: int, video: int, weights: str, record: "FrameRecord"
    ) -> "FrameRequest":
        """For a video of a run, without what belongs to the run itself: its model, and who is told of its steps."""
        return cls(replace(request, on_step=None, run_networks=run_networks), num_given, video, weights, record)

    def is_given(self, frame: int) -> bool:
        """Whether a frame was given instead of made."""
        return frame < self.num_given or frame in self.request.keyframes


@dataclass
class FrameRecord:
    """For each frame of a video: a digest of its latent in the host's scale, and what turns this latent back into the
    core's bit for bit."""

    digests: list[str] = field(default_factory=list)
    _corrections: list[Tensor | None] = field(default_factory=list)

    def add(self, latent: Tensor, core: Tensor, back: Tensor) -> None:
        """Add the next frame: its latent [C, h, w] in the host's scale, in the core's scale, and converted from the
        host's scale to the core's. The last two may differ in their last bits."""
        self.digests.append(tensor_digest(latent))
        steps = _ordered(core) - _ordered(back)
        largest = int(steps.abs().max())
        small = steps.to(torch.int8) if largest <= 127 else steps
        self._corrections.append(small if largest else None)

    def cut(self, count: int) -> None:
        """Forget all but the first `count` frames."""
        del self.digests[count:], self._corrections[count:]

    def exact(self, frame: int, back: Tensor) -> Tensor:
        """The frame's latent in the core's scale, from the one that was converted back."""
        steps = self._corrections[frame]
        return back if steps is None else _from_ordered(_ordered(back) + steps)


def _ordered(values: Tensor) -> Tensor:
    """float32 numbers as int32, so that neighbouring floats become neighbouring integers."""
    bits = values.float().contiguous().view(torch.int32)
    return torch.where(bits < 0, ~(bits & 0x7FFFFFFF), bits)


def _from_ordered(numbers: Tensor) -> Tensor:
    bits = torch.where(numbers < 0, ~numbers | -0x80000000, numbers)
    return bits.to(torch.int32).view(torch.float32)


def request_for(latent: Mapping[str, Any], frame: int, weights: str) -> FrameRequest:
    """How a frame of a LATENT was made. Raises ValueError, with a line about what to do, if the LATENT does not say, if
    its frames are not the sampler's, if the frame was not made, or if `weights` are not those that made it."""
    made, samples = latent.get(KEY), latent["samples"]
    if not isinstance(made, FrameRequest):
        raise ValueError(
            "the latent does not say how its frames were made; connect the latent of ARTV Masked Diffusion Sampler"
        )
    count = len(made.record.digests)
    if frame >= count:
        raise ValueError(f"there is no frame {frame}; the video has {count} frames, 0 to {count - 1}")
    kept = samples[: frame + 1]
    same = [digest == tensor_digest(one) for digest, one in zip(made.record.digests, kept, strict=False)]
    if len(kept) <= frame or not all(same):
        raise ValueError(
            f"frame {frame} cannot be made again, because the frames up to it are not those that the sampler made; "
            "connect the sampler's latent directly, without nodes that pick, repeat or change frames"
        )
    if made.is_given(frame):
        others = [index for index in range(count) if not made.is_given(index)]
        nearest = min(others, key=lambda index: abs(index - frame + 0.1))
        raise ValueError(
            f"frame {frame} was given, not made, so it has no steps; choose a frame that the sampler made, "
            f"such as {nearest}"
        )
    if made.weights != weights:
        raise ValueError(
            "the model is not the one that made the latent; connect the model that is connected to the sampler, "
            "with the same LoRAs"
        )
    return made


def frames_before(
    made: FrameRequest, samples: Tensor, frame: int, to_core: Callable[[Tensor], Tensor]
) -> Iterator[Tensor]:
    """The latents [C, h, w] of the frames before `frame`, in the core's scale, bit for bit as the sampler made them.
    `samples` are those of the LATENT."""
    for index in range(frame):
        yield made.record.exact(index, to_core(samples[index]))
