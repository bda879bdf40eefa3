"""The text encoder against transformers' CLIPTextModel on the same random weights; its tokens against open_clip's."""

import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from artv_core.config import TextConfig, preset
from artv_core.models.text import TextEncoder
from tests.forked import COMMANDS, python_with

SMALL = TextConfig(width=32, layers=3, heads=4, context_length=16, layer="last")


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(SMALL).eval()


@pytest.mark.parametrize(("layer", "activation"), [("penultimate", "gelu"), ("last", "gelu"), ("last", "quick_gelu")])
def test_equals_transformers(layer: str, activation: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config = TextConfig(width=32, layers=3, heads=4, context_length=77, layer=layer, activation=activation)
    ours = TextEncoder(config).eval()
    for parameter in ours.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.02)
    theirs = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            hidden_size=32,
            intermediate_size=128,
            num_hidden_layers=2 if layer == "penultimate" else 3,
            num_attention_heads=4,
            max_position_embeddings=77,
            vocab_size=49408,
            hidden_act=activation,
        )
    ).eval()
    load_into_transformers(theirs, ours.state_dict())
    tokens = ours.tokenize(["a large red circle moving right", "", "word " * 100])
    with torch.no_grad():
        got, expected = ours(tokens), theirs(tokens).last_hidden_state
    assert got.shape == (3, 77, 32)
    assert ((got - expected).abs().max() / expected.abs().max()).item() < 1e-5


def load_into_transformers(theirs: torch.nn.Module, state: dict[str, Tensor]) -> None:
    """Fill every tensor of `theirs`: transformers' names, with query, key and value apart, from SD 2's."""
    prefix = "text_model." if any(key.startswith("text_model.") for key in theirs.state_dict()) else ""
    renamed = {}
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for key, tensor in state.items():
        key = key.removeprefix("model.")
        if key in ("token_embedding.weight", "positional_embedding"):
            renamed["embeddings." + key.replace("positional_embedding", "position_embedding.weight")] = tensor
        elif key.startswith("ln_final"):
            renamed[key.replace("ln_final", "final_layer_norm")] = tensor
        elif ".attn.in_proj_" in key:
            for name, part in zip("qkv", tensor.chunk(3), strict=True):
                target = key.replace("attn.in_proj_", f"self_attn.{name}_proj.")
                renamed[target.replace("transformer.resblocks", "encoder.layers")] = part
        else:
            target = key.replace("transformer.resblocks", "encoder.layers").replace(
                "attn.out_proj", "self_attn.out_proj"
            )
            for ours, other in names.items():
                target = target.replace(ours, other)
            renamed[target] = tensor
    wanted = [key for key in theirs.state_dict() if not key.endswith("position_ids")]
    theirs.load_state_dict({key: renamed[key.removeprefix(prefix)] for key in wanted}, strict=True)


def test_key_names_are_those_of_sd2(encoder: TextEncoder) -> None:
    names = {key for key in encoder.state_dict() if "resblocks" not in key or "resblocks.2." in key}
    block = "model.transformer.resblocks.2."
    assert names == {
        "model.token_embedding.weight",
        "model.positional_embedding",
        "model.ln_final.weight",
        "model.ln_final.bias",
        *(f"{block}{norm}.{kind}" for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")),
        *(f"{block}attn.{name}" for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")),
        *(f"{block}mlp.{name}.{kind}" for name in ("c_fc", "c_proj") for kind in ("weight", "bias")),
    }


def test_penultimate_does_not_compute_the_last_block() -> None:
    encoder = TextEncoder(TextConfig(width=16, layers=2, heads=2, context_length=8)).eval()
    encoder.model.transformer.resblocks[-1].register_forward_hook(lambda *_: pytest.fail("the last block ran"))
    encoder(encoder.tokenize(["a star"]))


def test_a_token_sees_only_what_comes_before_it(encoder: TextEncoder) -> None:
    first, second = encoder(encoder.tokenize(["red circle moving right", "red circle moving left"]))
    assert torch.allclose(first[:4], second[:4], atol=1e-6)
    assert not torch.allclose(first[4], second[4], atol=1e-4)


def test_gradients_reach_the_embedding(encoder: TextEncoder) -> None:
    encoder(encoder.tokenize(["red"])).sum().backward()
    assert encoder.model.token_embedding.weight.grad is not None


def test_of_open_clip_only_what_is_used_is_imported() -> None:
    ran = python_with(*COMMANDS).run("import sys; print({'open_clip', 'timm', 'transformers'} & set(sys.modules))")
    assert (ran.stdout, ran.stderr) == ("set()\n", "")


def test_a_missing_open_clip_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)  # as Python marks what cannot be imported
    with pytest.raises(ModuleNotFoundError, match=r"^open_clip is missing; install the package open_clip_torch$"):
        TextEncoder(preset("tiny").text)


def test_tokens_equal_open_clip_at_77() -> None:
    open_clip = pytest.importorskip("open_clip")
    encoder = TextEncoder(TextConfig(width=8, layers=2, heads=1))
    texts = ["A large RED circle, moving right!", "", "naïve café 123 &amp; more", "long words indeed " * 60]
    assert torch.equal(encoder.tokenize(texts), open_clip.tokenize(texts))


def test_padding_with_end_tokens() -> None:
    config = TextConfig(width=8, layers=2, heads=1, context_length=8)
    zeros, ends = (TextEncoder(replace(config, pad_with_end=value)).tokenize(["! star", ""]) for value in (False, True))
    star = zeros[0, 2].item()
    assert zeros.tolist() == [[49406, 256, star, 49407, 0, 0, 0, 0], [49406, 49407, 0, 0, 0, 0, 0, 0]]
    assert ends.tolist() == [[49406, 256, star, *[49407] * 5], [49406, *[49407] * 7]]


def test_sd15_is_built_without_memory_and_has_its_size() -> None:
    with torch.device("meta"):
        encoder = TextEncoder(preset("sd15").text)
    assert sum(tensor.numel() for tensor in encoder.state_dict().values()) == 123_060_480


def test_truncation_keeps_the_end_token(encoder: TextEncoder) -> None:
    (tokens,) = encoder.tokenize(["star " * 40])
    assert tokens.shape == (16,)
    assert tokens[0] == 49406
    assert tokens[-1] == 49407


def test_a_single_string_is_one_text(encoder: TextEncoder) -> None:
    assert torch.equal(encoder.tokenize("a star"), encoder.tokenize(["a star"]))


def test_lost_words(encoder: TextEncoder) -> None:
    numbers = [
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "Red",
        "blue",
        "green",
        "star",
    ]
    assert encoder.lost_words(" ".join(numbers)) == []
    assert encoder.lost_words(" ".join([*numbers, "Circle", "left"])) == ["Circle", "left"]
    assert encoder.lost_words("red " * 13 + "antidisestablishmentarianism") == ["antidisestablishmentarianism"]
    assert encoder.lost_words("") == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (TextConfig(width=10, layers=2, heads=4), "not a multiple"),
        (TextConfig(width=8, layers=1, heads=2, layer="penultimate"), "two layers"),
    ],
)
def test_impossible_configurations(config: TextConfig, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TextEncoder(config)
