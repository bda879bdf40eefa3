"""FVD, FID, IS and CLIPSIM as computed here, against the reference implementations on the same features."""

from typing import Any

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric

from artv_core.evaluation.distances import clip_similarity, frechet_distance, inception_score

WIDTHS = {"FVD": 400, "FID": 2048}
"""Of the features of I3D and Inception."""
CLASSES = 1008
AGREEMENT = {
    "FVD": "FVD, features of 400: largest relative difference from SciPy",
    "FID": "FID, features of 2048: largest relative difference from torch-fidelity",
    "IS": "IS: relative difference from torch-fidelity",
    "CLIPSIM": "CLIPSIM: relative difference from torch",
}
BARS = dict.fromkeys(AGREEMENT.values(), ("at most", 0.001))


def measure(quick: bool) -> dict[str, Any]:
    """Random features of the widths that the networks give, fewer and more of them than that."""
    counts = (100,) if quick else (300, 3000)
    found = {
        AGREEMENT["FVD"]: max(frechet(count, WIDTHS["FVD"], scipy_frechet) for count in counts),
        AGREEMENT["FID"]: max(frechet(count, WIDTHS["FID"], fidelity_frechet) for count in counts),
        AGREEMENT["IS"]: inception(counts[-1]),
        AGREEMENT["CLIPSIM"]: similarity(counts[-1]),
    }
    return {"samples": list(counts), "bars": found}


def frechet(count: int, width: int, reference: Any) -> float:
    first, second = features(count, width, 1), 1.2 * features(count, width, 2) + 0.3
    expected = reference(first, second)
    return abs(frechet_distance(first, second) - expected) / expected


def features(count: int, width: int, seed: int) -> Tensor:
    """Correlated, of unlike spread, above 0, as those of a network behind a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / width**0.5
    return F.relu(torch.randn(count, width, generator=generator, dtype=torch.float64) @ mixing)


def scipy_frechet(first: Tensor, second: Tensor) -> float:
    a, b = first.numpy(), second.numpy()
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * np.real(root)))


def fidelity_frechet(first: Tensor, second: Tensor) -> float:
    statistics = [fid_features_to_statistics(part) for part in (first, second)]
    return float(fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"])


def inception(count: int) -> float:
    logits = 3 * torch.randn(count, CLASSES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = isc_features_to_metric(logits, 1)["inception_score_mean"]
    return float(abs(inception_score(logits, 1).mean - expected) / expected)


def similarity(count: int) -> float:
    generator = torch.Generator().manual_seed(0)
    frames, texts = torch.randn(count, 4, 512, generator=generator), torch.randn(count, 512, generator=generator)
    frames, texts = frames + 1, texts + 1
    expected = F.cosine_similarity(frames.double(), texts[:, None].double(), dim=-1).mean()
    return float(abs(clip_similarity(frames, texts) - expected) / expected)
