"""FVD, FID, IS and CLIPSIM against SciPy and against what is known of the distributions."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric

from artv_core.evaluation.distances import clip_similarity, frechet_distance, inception_score


def gaussian(count: int, width: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return scale * torch.randn(count, width, generator=generator, dtype=torch.float64) @ mixing + shift


def scipy_frechet(real: Tensor, made: Tensor) -> float:
    a, b = real.numpy(), made.numpy()
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(first @ second)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * np.real(root)))


@pytest.mark.parametrize(("count", "width"), [(500, 8), (300, 64), (40, 64)])
def test_frechet_distance_is_scipys(count: int, width: int):
    """With fewer samples than features, too, where the covariance has no full rank."""
    real, made = gaussian(count, width, 1), gaussian(count, width, 2, scale=1.3, shift=0.4)
    assert frechet_distance(real, made) == pytest.approx(scipy_frechet(real, made), rel=1e-3)
    assert frechet_distance(real.float(), made.float()) == pytest.approx(scipy_frechet(real, made), rel=1e-3)


def test_both_are_torch_fidelitys_on_the_same_features():
    real, made = gaussian(300, 32, 1), gaussian(250, 32, 2, scale=1.2)
    theirs = [fid_features_to_statistics(features) for features in (real, made)]
    expected = fid_statistics_to_metric(*theirs, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(real, made) == pytest.approx(expected, rel=1e-3)
    for splits, tolerance in ((1, 1e-3), (10, 0.02)):  # they draw other splits
        score, reference = inception_score(made, splits), isc_features_to_metric(made, splits)
        assert score.mean == pytest.approx(reference["inception_score_mean"], rel=tolerance)


def test_frechet_distance_of_known_gaussians():
    """N(0, 1) and N(m, s^2) in each of D directions: D (m^2 + (s - 1)^2)."""
    generator = torch.Generator().manual_seed(0)
    real, made = (torch.randn(200_000, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    assert frechet_distance(real, 2 * made + 0.5) == pytest.approx(4 * (0.25 + 1), rel=0.01)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(real, made) < 1e-3


def test_inception_score_is_the_divergence_scipy_says():
    logits = 3 * torch.randn(400, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    classes = torch.softmax(logits, 1).numpy()
    divergences = [scipy.stats.entropy(one, classes.mean(0)) for one in classes]
    score = inception_score(logits, splits=1)
    assert score.mean == pytest.approx(float(np.exp(np.mean(divergences))), rel=1e-3)
    assert score.deviation == 0


def test_inception_score_of_known_classes():
    sure = 100 * torch.eye(8).repeat(50, 1)
    assert inception_score(sure, splits=1).mean == pytest.approx(8, rel=1e-3)
    assert inception_score(torch.zeros(50, 8), splits=5).mean == pytest.approx(1, rel=1e-6)
    noisy = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    assert inception_score(noisy) == inception_score(noisy)
    assert inception_score(noisy) != inception_score(noisy, seed=1)
    assert inception_score(noisy).deviation > 0
    assert torch.equal(torch.random.get_rng_state(), state)


def test_clip_similarity_is_the_mean_cosine():
    texts = torch.tensor([[1.0, 0, 0], [0, 2, 0]])
    frames = torch.tensor([[[5.0, 0, 0], [0, 1, 0]], [[0, 1, 0], [0, 1, 1]]])
    assert clip_similarity(frames, texts) == pytest.approx((1 + 0 + 1 + 0.5**0.5) / 4)


@pytest.mark.parametrize(
    ("real", "made", "message"),
    [
        (torch.zeros(1, 4), torch.zeros(5, 4), r"true features are \[1, 4\]; at least two samples"),
        (torch.zeros(5, 4), torch.zeros(5), r"made features are \[5\]"),
        (torch.zeros(5, 4), torch.zeros(5, 3), "true features are 4 wide, made ones 3"),
        (torch.zeros(5, 4), torch.full((5, 4), torch.nan), "made features contain numbers that are infinite or not"),
    ],
)
def test_features_that_cannot_be_compared(real: Tensor, made: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        frechet_distance(real, made)
    with pytest.raises(ValueError, match="there are 5 samples for 6 splits; give 1 to 5 splits"):
        inception_score(torch.zeros(5, 3), splits=6)
