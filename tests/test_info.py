"""What a page is told of a checkpoint: the same figures as in the file, and no path."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from artv_core.checkpoint import (
    PARTS,
    describe_checkpoint,
    load_checkpoint,
    save_checkpoint,
    shipped_checkpoint,
)
from artv_core.checkpoint.info import base_warning, checkpoint_facts, parts_in
from tests.models import untrained


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of trained parts alone."""
    path = tmp_path_factory.mktemp("partial") / "partial.safetensors"
    save_checkpoint(untrained(), path, parts=["branches", "mask"], base="sd.safetensors")
    return path


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the first keys of a public Stable Diffusion checkpoint without a VAE."""
    path = tmp_path_factory.mktemp("public") / "sd.safetensors"
    keys = ("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.model.ln_final.weight")
    save_file({key: torch.zeros(1) for key in keys}, path)
    return path


def test_facts_are_those_of_the_file_and_can_be_sent() -> None:
    path = shipped_checkpoint("tiny")
    summary = describe_checkpoint(path)
    facts = checkpoint_facts(summary)
    model = load_checkpoint(path)
    assert facts["parameters_together"] == sum(tensor.numel() for tensor in model.state_dict().values())
    assert facts["parameters"]["mask"] == sum(tensor.numel() for tensor in model.mask.state_dict().values())
    assert facts["megabytes"] == pytest.approx(path.stat().st_size / 1e6)
    assert (facts["size"], facts["fps"], facts["missing"]) == ([64, 64], 8, [])
    assert facts["vocabulary"] == list(summary.config.vocabulary)
    sampling = summary.config.sampling
    assert facts["recommended"]["cfg"] == sampling.guidance_text != sampling.first_frame_guidance
    assert facts["recommended"]["cfg_first_frame"] == sampling.first_frame_guidance
    assert str(path.parent) not in json.dumps(facts)
    assert json.loads(json.dumps(facts)) == facts


def test_missing_is_what_neither_the_file_nor_its_base_holds(partial: Path, public: Path) -> None:
    summary = describe_checkpoint(partial)
    alone = checkpoint_facts(summary)
    assert (alone["missing"], alone["trained_on"]) == (["unet", "vae", "text"], "sd.safetensors")
    assert checkpoint_facts(summary, base=public)["missing"] == ["vae"]
    assert checkpoint_facts(summary, base=shipped_checkpoint("tiny"))["missing"] == []


def test_missing_is_what_loading_lacks(partial: Path, public: Path, tmp_path: Path) -> None:
    """Another kind of VAE does not count, and a base of another kind is refused, as when it is loaded."""
    summary, other = describe_checkpoint(partial), tmp_path / "other.safetensors"
    keys = ("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.weight")
    save_file({key: torch.zeros(1) for key in keys}, other)
    assert summary.config.vae.kind == "taesd"
    assert checkpoint_facts(summary, base=other)["missing"] == ["vae", "text"]
    save_file({keys[0]: torch.zeros(1), "conditioner.embedders.1.model.x": torch.zeros(1)}, other)
    with pytest.raises(ValueError, match=r"is an SDXL checkpoint; .*partial\.safetensors needs a Stable Diffusion 2"):
        checkpoint_facts(summary, base=other)
    assert checkpoint_facts(describe_checkpoint(shipped_checkpoint("tiny")), base=other)["missing"] == []


def test_a_base_that_predicts_something_else_is_a_warning(partial: Path, public: Path, tmp_path: Path) -> None:
    summary, other = describe_checkpoint(partial), tmp_path / "other.safetensors"
    assert summary.config.schedule.prediction == "v"
    save_file(load_file(public), other, {"modelspec.prediction_type": "epsilon"})
    problem = 'predicts eps, the configuration says v; take another base, or train with prediction = "eps"'
    assert base_warning(summary, other) == f"{other} {problem}"
    assert checkpoint_facts(summary, base=other)["warning"] == f"other.safetensors {problem}"
    assert checkpoint_facts(summary, base=public)["warning"] is base_warning(summary, public) is None
    whole = describe_checkpoint(shipped_checkpoint("tiny"))
    assert checkpoint_facts(whole, base=other)["warning"] is base_warning(whole, other) is None


def test_parts_of_a_base(public: Path, tmp_path: Path) -> None:
    assert parts_in(shipped_checkpoint("tiny")) == tuple(part for part in PARTS if part != "lora")
    assert parts_in(public) == ("unet", "text")
    with pytest.raises(ValueError, match="no such file"):
        parts_in(tmp_path / "none.safetensors")
