"""Sizes as people write them: width first, everywhere."""

import pytest

from artv_core.method.image_size import check_side, parse_size


@pytest.mark.parametrize(
    ("text", "size"), [("512x288", (288, 512)), (" 64X32 ", (32, 64)), ("8x16384", (16384, 8)), ("256", (256, 256))]
)
def test_the_width_comes_first(text: str, size: tuple[int, int]):
    assert parse_size(text, "--size") == size


@pytest.mark.parametrize(
    "text", ["", "x", "7x64", "64x16385", "64x", "x64", "64x64x64", "-64x64", "6.4x64", "٦٤x٦٤", "9" * 400]
)
def test_what_is_no_size_is_one_line_that_names_the_option(text: str):
    with pytest.raises(ValueError, match=r"^--sizes is '.*'; give width x height in pixels, 8 to 16384 each") as raised:
        parse_size(text, "--sizes")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 250


@pytest.mark.parametrize(
    ("side", "nearest"), [(0, 8), (-8, 8), (60, 64), (68, 64), (16_385, 16_384), (16_392, 16_384), (10**9, 16_384)]
)
def test_a_side_that_is_no_multiple_is_one_line_with_one_that_is(side: int, nearest: int):
    with pytest.raises(
        ValueError, match=f"^height is {side}; accepted are multiples of 8 up to 16384, such as {nearest}$"
    ):
        check_side("height", side, 8)
    check_side("height", nearest, 8)
