"""FVD, FID, IS and CLIPSIM computed from features, by torchmetrics. `networks` computes the features."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Score(NamedTuple):
    """An inception score: mean and standard deviation over its splits."""

    mean: float
    deviation: float


def frechet_distance(real: Tensor, made: Tensor) -> float:
    """The Fréchet distance between the Gaussians fitted to two sets of features [N, D] and [M, D] (Heusel et al. 2017,
    arXiv 1706.08500), computed in float64. It is the FID for features of an image network, and the FVD for those of a
    video network.

    Few samples bias it upward, so only compare distances of equal numbers of samples. Raises ValueError for fewer than
    two samples on a side, features of different width, and features that are NaN or infinite.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    _check(real, "true")
    _check(made, "made")
    if real.shape[1] != made.shape[1]:
        raise ValueError(f"true features are {real.shape[1]} wide, made ones {made.shape[1]}; use one network for both")
    metric = FrechetInceptionDistance(_AsTheyAre(real.shape[1]), sync_on_compute=False)
    metric.update(real.double(), real=True)
    metric.update(made.double(), real=False)
    return max(0.0, float(metric.compute()))


def inception_score(logits: Tensor, splits: int = 10, seed: int = 0) -> Score:
    """The inception score of class logits [N, C] (Salimans et al. 2016, arXiv 1606.03498), over `splits` parts drawn by
    `seed`. Raises ValueError for fewer samples than splits."""
    from torchmetrics.image.inception import InceptionScore

    _check(logits, "made")
    if not 1 <= splits <= len(logits):
        raise ValueError(f"there are {len(logits)} samples for {splits} splits; give 1 to {len(logits)} splits")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about memory use, and about a single split, which has no deviation
        torch.manual_seed(seed)
        metric = InceptionScore(_AsTheyAre(logits.shape[1]), splits=splits, sync_on_compute=False)
        metric.update(logits.double())
        mean, deviation = metric.compute()
    return Score(float(mean), 0.0 if splits == 1 else float(deviation))


def clip_similarity(frames: Tensor, texts: Tensor) -> float:
    """CLIPSIM: the mean cosine similarity of each video's frames [N, T, D] and its text [N, D] (Wu et al. 2021, arXiv
    2104.14806), over frames, then over videos. The embeddings need not have length 1."""
    frames, texts = (nn.functional.normalize(tensor.double(), dim=-1) for tensor in (frames, texts))
    return float(torch.einsum("ntd,nd->nt", frames, texts).mean())


class _AsTheyAre(nn.Module):
    """Replaces torchmetrics' feature network, because its inputs are features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _check(features: Tensor, name: str) -> None:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"{name} features are {list(features.shape)}; at least two samples of one width are needed")
    if not torch.isfinite(features).all():
        raise ValueError(f"{name} features contain numbers that are infinite or not a number")
