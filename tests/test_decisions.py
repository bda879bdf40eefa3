"""The variants of `benchmarks/decisions.py`: each can be built, and each patch changes what it says it changes."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import decisions  # noqa: E402

from artv_core.config import preset  # noqa: E402
from artv_core.method.generate import GenerateOptions, generate_frames  # noqa: E402
from artv_core.models.artv import ARTV  # noqa: E402
from artv_core.models.attention import CrossAttention, TokenProjections  # noqa: E402
from artv_core.run.pipeline import Pipeline  # noqa: E402
from artv_core.synthetic.shapes import sample_clip  # noqa: E402
from artv_core.training.config import read_config  # noqa: E402
from artv_core.training.diffusion import DiffusionTraining  # noqa: E402
from artv_core.training.start import synthetic_clips  # noqa: E402
from artv_core.training.synthetic_clips import LatentClips  # noqa: E402


@pytest.mark.parametrize("name", decisions.TRAINED)
def test_every_trained_variant_can_be_built(name: str):
    base = read_config(ROOT / "configs/tiny.toml")
    config = decisions.variant_config(base, "some", decisions.TRAINED[name], 400, 32)
    assert (config.diffusion.steps, config.diffusion.batch_size) == (400, 32)
    with torch.device("meta"):
        ARTV(config.model)


@pytest.mark.parametrize("name", decisions.SAMPLING)
def test_every_sampled_variant_has_options_of_its_own(name: str):
    variant = decisions.SAMPLING[name]
    chosen = GenerateOptions(**(decisions.COMPARED | variant.options)).resolved(preset("tiny"))
    same = chosen == GenerateOptions(**decisions.COMPARED).resolved(preset("tiny"))
    assert same == (name in (decisions.BEFORE, "copy noised", "rolling anchor"))


def test_copying_the_noised_reference_changes_later_frames():
    torch.manual_seed(0)
    model = ARTV(preset("tiny")).eval()
    torch.nn.init.constant_(model.mask.diffusion_model.out[2].bias, 20.0)  # copies all
    track = Pipeline(model).encode_prompts("a red circle")
    options = GenerateOptions(num_frames=2, steps=2, reference_noise_level=200)
    given = [torch.zeros(1, 4, 8, 8)]
    (clean,) = generate_frames(model, track, options, given=given)
    with decisions.noised_copy():
        (noised,) = generate_frames(model, track, options, given=given)
    assert clean.latent.abs().max() < 1e-3
    assert noised.latent.std() > 0.1


def test_training_on_the_noised_copy_hands_it_to_the_loss():
    torch.manual_seed(0)
    config = read_config(ROOT / "configs/tiny.toml")
    stage = replace(config.diffusion, first_share=0.0, drop_references=0.0, detail_weight=0.0)
    clips = LatentClips(torch.randn(2, 4, 4, 8, 8).half(), tuple(sample_clip(0, index).caption for index in range(2)))
    config = replace(config, diffusion=stage)
    training = DiffusionTraining(config, ARTV(config.model), synthetic_clips(config, clips))
    batch, cpu = training.samples.batch(0, range(2)), torch.device("cpu")
    clean = training.arguments(batch, cpu)
    with decisions.noised_copy_in_training():
        noised = training.arguments(batch, cpu)
    assert torch.equal(noised[10], clean[6][:, -4:])
    assert not torch.equal(noised[10], clean[10])


def test_joint_attention_sees_the_anchor_without_an_output_of_its_own():
    torch.manual_seed(0)
    attention = CrossAttention(64, 32, 48, 32)
    text, anchor = attention.project_text(torch.randn(1, 5, 48)), attention.project_anchor(torch.randn(1, 3, 32))
    cells = torch.randn(1, 16, 64)
    both, alone = TokenProjections([text], [anchor]), TokenProjections([text], None)
    assert torch.equal(attention(cells, both), attention(cells, alone))  # its own output is zero until trained
    with decisions.joint_attention():
        assert not torch.allclose(attention(cells, both), attention(cells, alone))


def test_tables_compare_with_what_is_recommended():
    def result(question: str, drift: float) -> dict:
        return {"question": question, "budget": "some", "prompts": 2, "measured": {"drift": drift}}

    text = decisions.markdown({decisions.BEFORE: result("as it is", 1.0), "6 steps": result("steps", 2.5)})
    assert f"| measure | {decisions.BEFORE} | 6 steps |" in text
    assert "| drift | 1 | 2.5 |" in text
