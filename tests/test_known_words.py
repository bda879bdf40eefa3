"""Words that a model with a closed vocabulary does not know, and what is said of them."""

import re
import time
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as strings

from artv_core.models.known_words import MOST_SHOWN, UnknownWord, unknown_words, without_comments, words_warning
from artv_core.synthetic.pictures.names import vocabulary as named_things
from artv_core.synthetic.shapes import vocabulary as shapes

VOCABULARY = ("a", "red", "circle", "moving", "gray", "airplane")


def test_each_unknown_word_is_found_once_in_order() -> None:
    found = unknown_words(["A Red dragon, moving; a DRAGON and a circle!", "red and wild"], VOCABULARY)
    assert [one.word for one in found] == ["dragon", "and", "wild"]


def test_a_model_with_an_open_vocabulary_knows_every_word() -> None:
    assert unknown_words(["anything at all"], ()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a (red circle:1.3) and ((moving))", ["and"]),
        ("a red_circle, a red-circle", []),
        ("the circle's red", ["the"]),
        ("circle\u2019s", []),
        ("2 circles", ["2", "circles"]),
        ("\u4e00\u53ea\u72d7, red", ["\u4e00\u53ea\u72d7"]),
        ("(dog:9000)", ["dog", "9000"]),  # an error that is told where the text is encoded
        ("", []),
        ("... !?", []),
    ],
)
def test_what_counts_as_a_word(text: str, words: list[str]) -> None:
    assert [one.word for one in unknown_words([text], VOCABULARY)] == words


def test_words_with_a_hyphen_can_be_in_a_vocabulary() -> None:
    assert unknown_words(["a T-Shirt"], ("a", "t-shirt")) == []


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("dogs", "dog"),
        ("grey", "gray"),
        ("purpel", "purple"),
        ("plane", "airplane"),
        ("boat", "sailboat"),
        ("rain", "rainbow"),
        ("lake", None),  # not "cake"
        ("running", None),
        ("anó", None),
    ],
)
def test_close_words_are_named(word: str, near: str | None) -> None:
    assert unknown_words([word], named_things()) == [UnknownWord(word, near)]


def test_captions_of_the_shipped_models_are_known() -> None:
    assert unknown_words(["a large red circle moving right on a blue background"], shapes()) == []
    assert unknown_words(["two dogs in the snow"], named_things()) == [
        UnknownWord("two"),
        UnknownWord("dogs", "dog"),
        UnknownWord("the"),
        UnknownWord("snow", "snowy"),
    ]


def test_the_warning_is_one_short_line() -> None:
    unknown = unknown_words(["dogs running by a lake"], named_things())
    assert words_warning("small", unknown) == (
        "small does not know these words and ignores them: dogs (dog?), running, by, lake"
    )
    many = [f"w{'x' * number}" for number in range(30)]
    line = words_warning("small", unknown_words([" ".join(many)], named_things()))
    assert line.endswith(f"and {30 - MOST_SHOWN} more")
    assert len(words_warning("small", unknown_words(["y" * 10_000], named_things()))) < 100


def test_long_texts_take_no_time() -> None:
    start = time.perf_counter()
    words = ["".join(letters) for letters in product("abcdefghij", repeat=4)]
    vocabulary = [f"{one}{other}" for one in named_things() for other in named_things()[:50]]
    assert len(unknown_words([" ".join(words)], vocabulary)) > 0.99 * len(words)
    assert time.perf_counter() - start < 5


@given(strings.text(alphabet="/*\na ", max_size=30))
def test_comments_are_those_of_the_page(text: str) -> None:
    assert without_comments(text) == re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)


def test_comments_that_nothing_closes_are_not_searched_for() -> None:
    """Or thousands of them would take minutes, in which the server answers nobody."""

    class Unsearched(str):
        def find(self, *_: object) -> int:
            raise AssertionError("the rest of the text is searched")

    text = "/* a " * 1000
    assert without_comments(Unsearched(text)) == text
