"""FVD, FID, IS and CLIPSIM from features, by torchmetrics; what features are is the business of `extractors`."""

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
    """Between the Gaussians fitted to two sets of features [N, D] and [M, D] (Heusel et al. 2017, arXiv 1706.08500):
    FID of an image network's, FVD of a video network's. Reckoned in float64.

    It is biased upward by few samples, so only distances of equal numbers of samples compare. Raises ValueError, one
    line, for fewer than two samples on a side, other widths, and features that are no numbers.
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
    """Of class scores [N, C] before their softmax (Salimans et al. 2016, arXiv 1606.03498), over `splits` parts that
    `seed` draws. Raises ValueError, one line, for fewer samples than splits."""
    from torchmetrics.image.inception import InceptionScore

    _check(logits, "made")
    if not 1 <= splits <= len(logits):
        raise ValueError(f"there are {len(logits)} samples for {splits} splits; give 1 to {len(logits)} splits")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that all is kept in memory, and that one split has no deviation
        torch.manual_seed(seed)
        metric = InceptionScore(_AsTheyAre(logits.shape[1]), splits=splits, sync_on_compute=False)
        metric.update(logits.double())
        mean, deviation = metric.compute()
    return Score(float(mean), 0.0 if splits == 1 else float(deviation))


def clip_similarity(frames: Tensor, texts: Tensor) -> float:
    """CLIPSIM: the mean cosine of each video's frames [N, T, D] and its text [N, D] (Wu et al. 2021, arXiv 2104.14806),
    over frames, then over videos; embeddings of any length."""
    frames, texts = (nn.functional.normalize(tensor.double(), dim=-1) for tensor in (frames, texts))
    return float(torch.einsum("ntd,nd->nt", frames, texts).mean())


class _AsTheyAre(nn.Module):
    """Stands where torchmetrics has its feature network: what it is given are features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _check(features: Tensor, name: str) -> None:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"{name} features are {list(features.shape)}; at least two samples of one width are needed")
    if not torch.isfinite(features).all():
        raise ValueError(f"{name} features hold numbers that are infinite or not a number")
