"""Advice comes for sizes that are far from the checkpoint's, and names what was got, what is right and what to do."""

import pytest

from nodes.size_advice import size_advice

BEST = (64, 64)


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (96, 96), (48, 64)])
def test_sizes_near_the_checkpoints_need_none(size):
    assert size_advice(size, BEST, given=True) is None


@pytest.mark.parametrize("size", [(1024, 1024), (104, 64), (64, 104), (40, 64)])
def test_sizes_far_from_it_are_told_with_the_remedy(size):
    given, typed = (size_advice(size, BEST, given=one) for one in (True, False))
    assert given.told() == {"made_for": [64, 64], "given": True}
    width, height = size
    assert f"the given picture is {width}x{height} pixels, and this checkpoint is made for 64x64" in str(given)
    assert "ARTV Fit Image" in str(given)
    assert f"the video is {width}x{height} pixels" in str(typed)
    assert "set width and height to auto" in str(typed)
