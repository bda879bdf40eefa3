"""Networks whose features are used to judge videos. The user names the files with their weights; nothing is
downloaded."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..files.file_hash import file_hash
from ..prepare.clip_score import ClipScorer, clip_identity
from .options import C3D_FROM, I3D_FROM, INCEPTION_FROM


class FeatureNetwork(Protocol):
    """Computes features of one video. `identity` names everything that they depend on apart from the video."""

    identity: str

    def __call__(self, frames: Tensor, caption: str) -> dict[str, Tensor]:
        """Frames [T, 3, H, W] in [0, 1] -> features by name, [n, D] each, float32 on the CPU."""
        ...


class Inception:
    """Inception v3 with the weights of the original TensorFlow graph, as in torch-fidelity: 2048 features (FID) and
    1008 class logits (IS) of each frame."""

    def __init__(self, weights: str | Path, device: torch.device) -> None:
        """Raises ValueError for a file that is missing or is something else."""
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self.identity = f"inception-{file_hash(weights, f'get it from {INCEPTION_FROM}')}"
        state = io.BytesIO()
        torch.save(_plain_weights(weights), state)  # torch-fidelity itself would unpickle anything in the file
        state.seek(0)
        names = ["2048", "logits_unbiased"]
        try:
            network = FeatureExtractorInceptionV3("inception-v3-compat", names, feature_extractor_weights_path=state)
        except RuntimeError as error:
            raise ValueError(f"{weights} contains no weights of Inception v3: {_one_line(error)}") from None
        self._network, self._device = network.to(device), device

    @torch.no_grad()
    def __call__(self, frames: Tensor, caption: str) -> dict[str, Tensor]:
        """`features` [T, 2048] and `logits` [T, 1008]."""
        features, logits = self._network((255 * frames).round().clamp(0, 255).to(self._device, torch.uint8))
        return {"features": features.float().cpu(), "logits": logits.float().cpu()}


class I3D:
    """The Kinetics-400 I3D that is usually used for FVD, as TorchScript: 400 class scores of a whole video."""

    def __init__(self, script: str | Path, device: torch.device) -> None:
        """Raises ValueError for a file that is missing or not TorchScript."""
        self.identity = f"i3d-{file_hash(script, f'get it from {I3D_FROM}')}"
        self._path, self._device = script, device
        self._network = _script(script, device)

    @torch.no_grad()
    def __call__(self, frames: Tensor, caption: str) -> dict[str, Tensor]:
        """`features` [1, 400]. Raises ValueError if the network does not accept a video."""
        video = (255 * frames).movedim(0, 1)[None].to(self._device)
        try:
            features = self._network(video, rescale=True, resize=True, return_features=True)
        except RuntimeError as error:
            raise ValueError(
                f"{self._path} does not accept (video [1, 3, {len(frames)}, height, width], rescale, resize, "
                f"return_features): {_one_line(error)}; get an I3D that does from {I3D_FROM}"
            ) from None
        return {"features": features.float().cpu()}


class C3D:
    """The C3D that is usually used for the IS on UCF-101 (Saito et al. 2020, arXiv 1811.09245), as TorchScript:
    probabilities of the 101 classes for 16 frames at once."""

    def __init__(self, script: str | Path, device: torch.device) -> None:
        """Raises ValueError for a file that is missing or not TorchScript."""
        self.identity = f"c3d-{file_hash(script, f'get it from {C3D_FROM}')}"
        self._path, self._device = script, device
        self._network = _script(script, device)

    @torch.no_grad()
    def __call__(self, frames: Tensor, caption: str) -> dict[str, Tensor]:
        """`logits` [1, classes]: logarithms of the probabilities. Raises ValueError if the network does not accept a
        video or gives something else."""
        video = (255 * frames).round().clamp(0, 255).to(self._device, torch.uint8).movedim(0, 1)[None]
        try:
            found = self._network(video).float().cpu()
        except RuntimeError as error:
            raise ValueError(
                f"{self._path} does not accept a video [1, 3, {len(frames)}, height, width] of bytes: "
                f"{_one_line(error)}; get a C3D that does from {C3D_FROM}"
            ) from None
        if found.ndim != 2 or found.min() < 0 or not torch.allclose(found.sum(1), torch.ones(1), atol=1e-3):
            raise ValueError(f"{self._path} gives no probabilities of classes; get a C3D that does from {C3D_FROM}")
        return {"logits": found.clamp(min=torch.finfo(torch.float32).tiny).log()}


class Clip:
    """A CLIP model of open_clip: embeddings of the frames and the caption (CLIPSIM)."""

    def __init__(self, model: str, weights: str | Path, device: torch.device) -> None:
        """See `ClipScorer`."""
        self.identity = f"clip-{clip_identity(model, weights)}"
        self._scorer = ClipScorer(model, weights, str(device))

    @torch.no_grad()
    def __call__(self, frames: Tensor, caption: str) -> dict[str, Tensor]:
        """`frames` [T, D] and `text` [1, D], of length 1 each."""
        scaled = torch.nn.functional.interpolate(
            frames, self._scorer.size, mode="bicubic", align_corners=False, antialias=True
        )
        seen = self._scorer.embed_images(scaled.clamp(0, 1))
        return {"frames": seen.cpu(), "text": self._scorer.embed_text(caption)[None].cpu()}


def _script(path: str | Path, device: torch.device) -> Any:
    try:
        return torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is not TorchScript: {_one_line(error)}") from None


def _plain_weights(path: str | Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise ValueError(f"{path} contains more than weights, or is not a PyTorch file: {_one_line(error)}") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path} contains a {type(state).__name__}, not weights by name")
    return state


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
