r"""Weights in prompts. What each text means was taken from ComfyUI 0.33.0; `tests/host/test_prompt_weights.py` asks it
again where there is one."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from artv_core.commands.options import warn_of_words
from artv_core.evaluation.making import make_videos
from artv_core.evaluation.prompt_sets import Prompt
from artv_core.method.options import GenerateOptions
from artv_core.method.text_track import TextTrack
from artv_core.models.artv import ARTV
from artv_core.models.prompt_weights import escape_parentheses, read_weights, without_weights
from artv_core.run.pipeline import Pipeline, Prompts
from tests.models import smallest

MEANINGS = {
    "a red circle": [("a red circle", 1)],
    "a (red) circle": [("a ", 1), ("red", 1.1), (" circle", 1)],
    "a (red circle:1.3) moving": [("a ", 1), ("red circle", 1.3), (" moving", 1)],
    "((red)) (((circle)))": [("red", 1.1**2), (" ", 1), ("circle", 1.1**3)],
    "(a (red) circle:0.5)": [("a ", 0.5), ("red", 0.55), (" circle", 0.5)],
    "(a (red:1.4) circle)": [("a ", 1.1), ("red", 1.4), (" circle", 1.1)],
    "((red:1.4))": [("red", 1.4)],
    "((red):1.4)": [("red", 1.54)],
    "(red:-1)": [("red", -1)],
    "(red:0)": [("red", 0)],
    "(red: 1.2 )": [("red", 1.2)],
    "(red:.5)": [("red", 0.5)],
    "(red:1.0) circle": [("red", 1), (" circle", 1)],
    "(at 12:30 in red:1.2)": [("at 12:30 in red", 1.2)],
    "(red:dark)": [("red:dark", 1.1)],
    "(red:)": [("red:", 1.1)],
    "(:1.2)": [(":1.2", 1.1)],
    "red:1.2": [("red:1.2", 1)],
    r"a circle \(red\)": [("a circle (red)", 1)],
    r"(a circle \(red\):1.2)": [("a circle (red)", 1.2)],
    r"(red \(dark:1.2\))": [("red (dark:1.2)", 1.1)],
    "a (red circle": [("a ", 1), ("(red circle", 1)],
    "a red) circle": [("a red) circle", 1)],
    "a ) (red) (": [("a ) (red) (", 1)],
    "((red) circle": [("((red) circle", 1)],
    "((red)": [("(red", 1.1)],
    "()": [],
    "a () circle": [("a ", 1), (" circle", 1)],
    "[red:1.2] {a|b}": [("[red:1.2] {a|b}", 1)],
    "": [],
}


@pytest.fixture(scope="module")
def model() -> ARTV:
    return smallest()


@pytest.mark.parametrize("prompt", MEANINGS)
def test_a_weight_means_what_it_means_in_comfyui(prompt: str) -> None:
    parts = read_weights(prompt)
    assert [part.text for part in parts] == [text for text, _ in MEANINGS[prompt]]
    assert [part.weight for part in parts] == pytest.approx([weight for _, weight in MEANINGS[prompt]])
    assert without_weights(prompt) == "".join(text for text, _ in MEANINGS[prompt])


@pytest.mark.parametrize("text", [*MEANINGS, "\\", "\\(", "a\\\\(b)", "))((", ")\\)"])
def test_escaped_text_is_read_as_it_stands(text: str) -> None:
    assert read_weights(escape_parentheses(text)) == ([(text, 1.0)] if text else [])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("(red:nan)", "the weight nan in a prompt is not valid; accepted are numbers from -1000 to 1000"),
        ("a (red:inf)", "the weight inf in a prompt"),
        ("(red:1e400)", "the weight 1e400 in a prompt"),
        ("(in the year:2024)", "the weight 2024 in a prompt"),
        ("(" * 101 + "red" + ")" * 101, "nested more than 100 deep"),
    ],
)
def test_weights_that_cannot_be(model: ARTV, prompt: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Pipeline(model).encode_prompts([(0, "a fox"), (8, prompt)])
    assert "\n" not in str(caught.value)


def test_the_encoding_is_weighted_around_the_empty_prompts(model: ARTV) -> None:
    weighted, plain, empty = (
        Pipeline(model).encode_prompts(text).context(0) for text in ("a (red circle:1.3) up", "a red circle up", "")
    )
    expected = plain.clone()
    expected[2:4] = empty[2:4] + 1.3 * (plain[2:4] - empty[2:4])  # after the start and "a"
    assert torch.allclose(weighted, expected, atol=1e-6)
    assert (weighted - plain)[2:4].abs().max() > 1e-2
    assert torch.equal(weighted[:2], plain[:2])
    assert torch.equal(weighted[4:], plain[4:])


def test_a_weight_of_0_leaves_nothing_of_a_words_own_encoding(model: ARTV) -> None:
    contexts = [Pipeline(model).encode_prompts(text).context(0) for text in ("a (red:0)", "")]
    assert torch.allclose(contexts[0][2], contexts[1][2], atol=1e-6)


@pytest.mark.parametrize("prompt", ["a red circle", "", "(a red:1.0) circle", r"a circle \(red\)", "word " * 100])
def test_prompts_without_weights_are_encoded_as_ever(model: ARTV, prompt: str) -> None:
    words = without_weights(prompt)
    assert torch.equal(Pipeline(model).encode_prompts(prompt).context(0), model.encode_text([words])[0])


def test_a_long_prompt_is_cut_and_keeps_its_end(model: ARTV) -> None:
    assert model.text is not None
    tokens, weights = model.text.tokenize_weighted(read_weights("word " * 40 + "(red:1.5) " * 100))
    expected = model.text.tokenize(["word " * 40 + "red " * 100])
    assert torch.equal(tokens, expected)
    assert weights[-1] == weights[0] == 1
    assert set(weights.tolist()) <= {1.0, 1.5}


def test_texts_of_a_batch_and_negatives_have_weights_too(model: ARTV) -> None:
    track = Pipeline(model).encode_prompts([(0, ["a (red:1.5) circle", "a red circle"])])
    alone = [Pipeline(model).encode_prompts(text).context(0) for text in ("a (red:1.5) circle", "a red circle")]
    assert torch.equal(track.context(0), torch.stack(alone))
    assert not torch.equal(alone[0], alone[1])


def test_weights_are_not_called_unknown_words(
    model: ARTV, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = ("a", "an", "red", "circle", "moving", "right")
    monkeypatch.setattr(model, "config", replace(model.config, vocabulary=known))
    warn_of_words(Pipeline(model), ["a (red circle:1.3) moving (right)"])
    assert capsys.readouterr().err == ""
    warn_of_words(Pipeline(model), ["an (elephant:1.3)"])
    assert "does not know these words and ignores them: elephant; it knows" in capsys.readouterr().err


def test_captions_of_test_sets_are_read_as_they_stand(model: ARTV, tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    class Watched(Pipeline):
        def encode_prompts(self, prompts: Prompts) -> TextTrack:
            track = super().encode_prompts(prompts)
            seen.append(track.context(0))
            return track

    options = GenerateOptions(num_frames=1, steps=1, height=64, width=64).resolved(model.config)
    make_videos(Watched(model), [Prompt("clip", "a (red:1.5) circle")], options, tmp_path)
    assert (tmp_path / "clip.txt").read_text(encoding="utf-8") == "a (red:1.5) circle\n"
    assert torch.equal(seen[0], model.encode_text(["a (red:1.5) circle"])[0])


def test_no_prompt_is_read_slowly() -> None:
    begin = time.perf_counter()
    for text in ("()" * 100_000, "(" * 200_000, ")" * 200_000, "(a:" * 90 + "b" * 100_000 + ")" * 90):
        read_weights(text)
    assert time.perf_counter() - begin < 20
