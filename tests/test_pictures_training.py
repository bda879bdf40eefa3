"""Training on the world of pictures: a whole run on the CPU, what each stage is given, and what is kept."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.config import ARTVConfig, preset
from artv_core.method.options import GenerateOptions
from artv_core.run.pipeline import make_pipeline
from artv_core.synthetic.pictures.names import is_held_out, vocabulary
from artv_core.synthetic.pictures.scenes import captions
from artv_core.training import worlds
from artv_core.training.config import TrainConfig, read_config
from artv_core.training.diffusion import MaskedDiffusionLoss
from artv_core.training.run import run
from artv_core.training.start import starting_model
from artv_core.training.synthetic_clips import encode_clips, provenance, read_clips
from artv_core.training.vae import VAETraining
from artv_core.training.worlds import PicturesTraining, training_world

pytestmark = pytest.mark.usefixtures("uncounted")

CONFIGS = Path(__file__).parent.parent / "configs"

TEXT = """
name = "pictures"
preset = "small"
world = "pictures"

[overrides]
size = [32, 32]
[overrides.noise.unet]
model_channels = 32
head_channels = 16
channel_mult = [1, 2]
num_res_blocks = 1
attention_levels = [0, 1]

[latents]
clips = 6
frames = 3
batch_size = 4

[vae]
steps = 2
batch_size = 2
crop = 16
crop_share = 0.5
still_weight = 0.2
warmup_steps = 1

[decoder]
steps = 1
batch_size = 2
crop = 16
warmup_steps = 1

[diffusion]
steps = 2
batch_size = 2
warmup_steps = 1
sheet_every = 2
sheet_rows = 2
sheet_columns = 3
sheet_steps = 1
detail_weight = 1.0
"""


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "PICTURES", 1)


@pytest.fixture
def small(tmp_path: Path) -> TrainConfig:
    (tmp_path / "small.toml").write_text(TEXT)
    return read_config(tmp_path / "small.toml")


def test_the_preset_is_the_shipped_models() -> None:
    with safe_open(resolve_checkpoint("small"), "pt") as file:
        shipped = ARTVConfig.from_json(file.metadata()["artv_config"])
    assert replace(shipped, name="small", vocabulary=()) == preset("small")


def test_the_shipped_configuration_starts_from_the_shipped_autoencoder() -> None:
    config = read_config(CONFIGS / "small.toml")
    assert (config.world, config.vae.steps, config.exported_model.vocabulary) == ("pictures", 0, vocabulary())
    started = VAETraining(config).module.vae.state_dict()
    shipped = load_checkpoint(resolve_checkpoint("small")).require_vae().state_dict()
    assert all(torch.equal(started[name], tensor.float()) for name, tensor in shipped.items())


def test_a_whole_run_makes_a_checkpoint_that_generates(small: TrainConfig, tmp_path: Path) -> None:
    run(small, str(tmp_path))
    folder = tmp_path / "pictures"
    model = load_checkpoint(folder / "pictures.safetensors")
    assert model.config.vocabulary == vocabulary()
    with safe_open(folder / "pictures.safetensors", "pt") as file:
        assert json.loads(file.metadata()["training"])["data"] == "synthetic world, pictures"
    assert (folder / "diffusion/sheet-000002.png").stat().st_size > 1000
    assert (folder / "vae/sheet-000002.png").is_file()
    frames = list(make_pipeline(model).frames("a dog in a forest", GenerateOptions(num_frames=3, steps=2)))
    assert len(frames) == 3
    assert frames[2].image.shape == (1, 3, 32, 32)


def test_latents_are_kept_with_what_things_cover(small: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "vae.safetensors").write_bytes(b"as it is")
    vae, made_of = VAETraining(small).module.vae, provenance(small, tmp_path / "vae.safetensors")
    encode_clips(small, vae, made_of, tmp_path / "latents.safetensors", "cpu")
    clips = read_clips(small, made_of, tmp_path / "latents.safetensors")
    assert clips.latents.shape == (6, 3, 8, 4, 4)
    assert clips.coverage is not None
    assert clips.coverage.shape == (6, 3, 4, 4)
    assert clips.coverage.dtype == torch.uint8
    images, covered = PicturesTraining().clips(small.seed + 1_000_003, range(6), 3, (32, 32), "cpu")
    assert covered is not None
    expected = F.avg_pool2d(covered.flatten(0, 1), 8).view(6, 3, 4, 4)
    torch.testing.assert_close(clips.coverage / 255, expected, atol=0.5 / 255 + 1e-6, rtol=0)
    assert clips.coverage.float().mean() > 10
    with torch.inference_mode():
        latents = vae.encode(images.flatten(0, 1)).unflatten(0, (6, 3))
    assert (latents - clips.latents).abs().max() < 0.05 * latents.abs().max()  # computed in bfloat16


def test_clips_follow_from_their_number_alone() -> None:
    world = PicturesTraining()
    alone, _ = world.clips(5, range(1025, 1027), 2, (32, 32), "cpu")
    among, _ = world.clips(5, range(1022, 1028), 2, (32, 32), "cpu")
    assert torch.equal(alone, among[3:5])
    assert world.captions(5, 1026)[:3] == world.captions(5, 3)
    assert world.captions(5, 3) != world.captions(6, 3)


def test_the_autoencoders_samples_do_not_depend_on_how_they_are_shared(small: TrainConfig) -> None:
    for crop_share in (0.0, 1.0):
        vae = replace(small.vae, batch_size=4, crop_share=crop_share)
        training = VAETraining(replace(small, vae=vae))
        whole, parts = training.batch(3, range(4)), [training.batch(3, range(2)), training.batch(3, range(2, 4))]
        for full, halves in zip(whole, zip(*parts, strict=True), strict=True):
            torch.testing.assert_close(torch.cat(halves), full, atol=1e-6, rtol=0)
        side, count = (16, 16) if crop_share else (32, 4)
        assert whole[0].shape == whole[2].shape == (count, 3, side, side)
        assert not torch.equal(training.batch(4, range(4))[0], whole[0])


def test_sheets_and_validation_use_held_out_pairs() -> None:
    world = PicturesTraining()
    scenes = world.held_out(20)
    pairs = zip(scenes.things[:, 0].tolist(), scenes.places.tolist(), strict=True)
    assert all(is_held_out(thing, place) for thing, place in pairs)
    assert captions(world.held_out(12)) == captions(scenes)[:12]
    assert world.validation_frames(4, (32, 32)).shape == (4, 3, 32, 32)


def test_words_of_this_world_alone_have_a_meaning_at_first(small: TrainConfig) -> None:
    model = starting_model(small)
    assert model.text is not None
    embedding = model.text.model.token_embedding.weight
    dog, spaniel = (model.text.tokenize([word])[0, 1] for word in ("dog", "spaniel"))
    assert embedding[dog].abs().sum() > 0
    assert embedding[spaniel].abs().sum() == 0
    assert MaskedDiffusionLoss(model, small.diffusion).text is model.text


def test_other_shapes_than_squares_and_other_worlds_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(TEXT.replace("[32, 32]", "[32, 64]"))
    with pytest.raises(ValueError, match=r"^small\.toml: the training size is 64x32, .* must be square$"):
        read_config(path)
    with pytest.raises(ValueError, match=r"^world: got 'vast', accepted: plain, detailed, pictures$"):
        training_world("vast")
