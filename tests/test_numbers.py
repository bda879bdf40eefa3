"""Numbers that change from frame to frame, as text."""

import pytest

from artv_core.prompts.numbers import numbers_by_frame, numbers_by_prompt, whole_numbers_by_frame


def test_pairs_of_frame_and_number() -> None:
    assert numbers_by_frame("0: 3\n24: 7.5\n48: 1,25", "x") == ((0, 3.0), (24, 7.5), (48, 1.25))
    assert numbers_by_frame('"0": "3", "24": "6"', "x") == ((0, 3.0), (24, 6.0))
    assert whole_numbers_by_frame("0: 20\n24: 60", "x") == ((0, 20), (24, 60))
    assert all(isinstance(number, float) for _, number in numbers_by_frame("0: 3\n9: 4", "x"))


def test_one_number_a_line_is_for_the_prompts() -> None:
    assert numbers_by_prompt("3\n\n 6,5 \n") == (3.0, 6.5)
    assert numbers_by_prompt("3") == (3.0,)
    for text in ("", " \n", "0: 3", "3\n24: 6", "3, 6", "-1", "1e3", "three"):
        assert numbers_by_prompt(text) is None, text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0: 3\n24: much", "x contains 'much'; give a frame and a number on each line, as in '0: 7.5'"),
        ("0: -1", "x contains '-1'"),
        ("0: nan", "x contains 'nan'"),
        ("8: 3", "give a frame and a number on each line, ascending from frame 0"),
        ("0: 3\n0: 4", "x, line 2"),
    ],
)
def test_other_texts_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as refusal:
        numbers_by_frame(text, "x")
    assert message in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_whole_numbers_alone_where_those_are_asked() -> None:
    with pytest.raises(ValueError, match=r"x contains '2\.5'; give a frame and a whole number"):
        whole_numbers_by_frame("0: 2.5", "x")
