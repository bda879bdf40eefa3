"""The synthetic world, the sampling of training examples, and the loop: exact resume, independence of the processes."""

import copy
import os
import random
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from artv_core import cli
from artv_core.checkpoint import describe_checkpoint, load_checkpoint, save_checkpoint, shipped_checkpoint
from artv_core.config import preset
from artv_core.method.noise_schedule import NoiseSchedule
from artv_core.models.artv import ARTV
from artv_core.synthetic.reading import score_clip, summarise
from artv_core.synthetic.shapes import DIRECTIONS, SPEEDS, held_out_combinations, render, sample_clip, vocabulary
from artv_core.training.config import DiffusionStage, TrainConfig, read_config
from artv_core.training.diffusion import DiffusionTraining, forget_other_words, novelty, start_mask, unlikeness
from artv_core.training.optimizers import learning_rate_factor, make_optimizer
from artv_core.training.run import run
from artv_core.training.samples import ClipSamples, draw_sample
from artv_core.training.start import starting_model, synthetic_clips
from artv_core.training.synthetic_clips import LatentClips, provenance
from artv_core.training.vae import VAETraining, unchanged_cells
from artv_core.training.worlds import crop_to_object
from tests.forked import python_with

pytestmark = pytest.mark.usefixtures("counted_once")

ROOT = Path(__file__).parent.parent

# Bit-for-bit claims hold on a CPU; a GPU's backward passes are not deterministic, and two processes want two of them.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

TRAINING = ("artv_core.training.run", "tests.tokenizer")
"""What a process that trains imports."""

UNMEASURED = """
from artv_core.training import config, diffusion, loop, run, samples
diffusion.DiffusionTraining.flops_per_sample = lambda stage: 1.0
loop.peak_flops = lambda device, half: (1.0, "not measured")
"""
"""As `counted_once`, for other processes: `finished` has counted and measured them."""

SMALL = """
name = "small"
preset = "tiny"
[overrides]
size = [32, 32]
[overrides.noise.unet]
model_channels = 32
head_channels = 16
num_res_blocks = 1
[overrides.mask.unet]
channel_mult = [1]
attention_levels = []
[latents]
clips = 6
frames = 4
[vae]
steps = 2
batch_size = 2
mixed_precision = "bf16"
[decoder]
steps = 1
batch_size = 2
mixed_precision = "bf16"
[diffusion]
steps = 4
batch_size = 4
warmup_steps = 4
save_minutes = 1000.0
sheet_rows = 1
sheet_columns = 2
sheet_steps = 1
"""


@pytest.fixture
def small(tmp_path: Path) -> TrainConfig:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return read_config(path)


def stage(config: TrainConfig) -> DiffusionTraining:
    torch.manual_seed(0)
    clips = LatentClips(torch.randn(6, 12, 4, 8, 8).half(), tuple(sample_clip(0, i).caption for i in range(6)))
    model = ARTV(config.model)
    start_mask(model, config.diffusion)
    forget_other_words(model, vocabulary())
    larger = replace(config, diffusion=replace(config.diffusion, batch_size=32))
    return DiffusionTraining(config, model, synthetic_clips(larger, clips))


def arguments(training: DiffusionTraining, step: int, indices: range) -> tuple[torch.Tensor, ...]:
    """What the module is called with."""
    with torch.no_grad():
        return training.arguments(training.samples.batch(step, indices), torch.device("cpu"))


def test_clips_follow_from_seed_and_index():
    assert sample_clip(3, 7) == sample_clip(3, 7)
    assert sample_clip(3, 7) != sample_clip(3, 8)
    assert sample_clip(3, 7) != sample_clip(4, 7)


def test_held_out_triples_are_never_trained_on():
    held_out = held_out_combinations()
    assert len(held_out) == 64
    trained = [sample_clip(0, i) for i in range(2000)]
    measured = [sample_clip(0, i, held_out=True) for i in range(500)]
    assert not {(c.color, c.kind, c.background) for c in trained} & held_out
    assert {(c.color, c.kind, c.background) for c in measured} <= held_out


def test_captions_use_the_vocabulary_and_name_what_is_shown():
    known = set(vocabulary())
    for index in range(300):
        clip = sample_clip(1, index)
        assert set(clip.caption.split()) <= known
        assert f"{clip.color} " in clip.caption
        assert clip.kind in clip.caption
        assert clip.motion in clip.caption


def test_image_analysis_reads_true_clips():
    clips = [sample_clip(5, index) for index in range(60)]
    videos = render(clips, 16, 64, 64)
    scores = summarise([score_clip(video, clip) for video, clip in zip(videos, clips, strict=True)])
    for name in ("background", "color", "kind", "present_at_end", "direction"):
        assert scores[name] >= 0.98, (name, scores)


def test_image_analysis_fails_a_frozen_video_and_a_wrong_one():
    clips = [clip for clip in (sample_clip(5, index) for index in range(60)) if clip.velocity is not None]
    videos = render(clips, 16, 64, 64)
    frozen = [score_clip(video[:1].expand(16, -1, -1, -1), clip) for video, clip in zip(videos, clips, strict=True)]
    assert summarise(frozen)["direction"] == 0
    others = [score_clip(video, clip) for video, clip in zip(videos, [*clips[1:], clips[0]], strict=True)]
    assert summarise(others)["color"] < 0.4
    assert summarise(others)["direction"] < 0.4


def test_the_world_wraps_round():
    clip = next(c for c in (sample_clip(2, i) for i in range(99)) if c.motion == "right" and c.speed == "fast")
    dx, dy = DIRECTIONS[clip.motion]
    shift = SPEEDS["fast"] * 64
    frames = render([clip], 2, 64, 64)[0]
    assert (dx, dy) == (1.0, 0.0)
    moved = frames[0].roll(round(shift), dims=-1)
    assert (moved - frames[1]).abs().mean() < 0.02 < (frames[0] - frames[1]).abs().mean()


def test_other_shapes_of_frame_render():
    assert render([sample_clip(0, 0)], 3, 48, 96).shape == (1, 3, 3, 48, 96)


def ratios() -> torch.Tensor:
    """Noise to signal at each time step of the tiny model."""
    signal, noise = NoiseSchedule(preset("tiny").schedule).scales(torch.arange(1000), ndim=1)
    return noise / signal


def test_draws_keep_to_the_anchor_window_and_the_order_of_references():
    config = DiffusionStage()
    draws = [draw_sample(config, random.Random(i), 30, 2, ratios()) for i in range(3000)]
    for draw in draws:
        assert all(reference < draw.target for reference in draw.references)
        assert len(draw.references) in (0, 2)
        if draw.anchor is not None:
            assert draw.target - config.anchor_window <= draw.anchor < draw.target
        if not draw.references:
            assert draw.reference_level == 0
        assert draw.reference_level <= config.max_noise_level
    first = sum(not draw.references for draw in draws) / len(draws)
    assert abs(first - (0.25 + 0.75 * 0.1)) < 0.04
    second = sum(draw.references[:1] == draw.references[1:] != () for draw in draws) / len(draws)
    assert abs(second - 0.9 * (0.3 + 0.45 / 29)) < 0.04
    levels = [(draw.reference_level, draw.anchor_level) for draw in draws if draw.references and draw.anchor]
    assert abs(torch.corrcoef(torch.tensor(levels).T.float())[0, 1]) < 0.1


def test_time_steps_are_uniform_or_log_normal_as_told():
    scale = ratios()

    def drawn(config: DiffusionStage) -> torch.Tensor:
        draws = [draw_sample(config, random.Random(i), 30, 2, scale) for i in range(2000)]
        return torch.tensor([draw.timestep for draw in draws])

    uniform = drawn(DiffusionStage())
    assert uniform.float().quantile(0.25).item() == pytest.approx(250, abs=30)
    assert uniform.float().quantile(0.75).item() == pytest.approx(750, abs=30)
    logs = scale[drawn(DiffusionStage(uniform_share=0.0, ratio_median=0.6, ratio_spread=0.8))].log()
    assert logs.median().exp().item() == pytest.approx(0.6, rel=0.1)
    assert logs.std().item() == pytest.approx(0.8, rel=0.1)
    half = drawn(DiffusionStage(uniform_share=0.5, ratio_median=0.6, ratio_spread=0.8))
    assert (half > 700).float().mean().item() == pytest.approx(0.15, abs=0.03)
    assert drawn(DiffusionStage(uniform_share=0.0, ratio_spread=50.0)).unique().tolist()[-1] == 999


def test_cells_unlike_their_frame_weigh_more():
    frame = torch.zeros(2, 4, 8, 8)
    frame[1] = 3.0
    frame[:, :, 2:4, 2:4] += 4.0
    unlike = unlikeness(frame)
    assert unlike.shape == (2, 1, 8, 8)
    assert (unlike[:, :, 2:4, 2:4] > 0.9).all()
    assert unlike.sum() == unlike[:, :, 2:4, 2:4].sum()


def test_detail_weight_is_in_the_loss(small: TrainConfig):
    losses = []
    for weight in (0.0, 3.0):
        training = stage(replace(small, diffusion=replace(small.diffusion, detail_weight=weight)))
        losses.append(training.module(*arguments(training, 0, range(4)))[0].item())
    assert 1.0 < losses[1] / losses[0] <= 4.0


def test_what_cannot_be_copied_is_news():
    """Cells that differ from the last frame; without one, what things cover, or else what is unlike the frame."""
    last, coverage = torch.zeros(4, 4, 8, 8), torch.zeros(4, 1, 8, 8)
    target = last.clone()
    target[:, :, 2:4, 2:4] = 0.1  # of 0.25 that count as another cell
    target[:, :, 6, 6] = -3.0
    coverage[:, :, 5, 5] = 0.5
    has = torch.tensor([1.0, 0.0, 1.0, 0.0])
    news = novelty(target, last, has, coverage)
    assert news.shape == (4, 1, 8, 8)
    assert torch.allclose(news[0, 0, 2:4, 2:4], torch.tensor(0.4))
    assert news[0, 0, 6, 6] == 1
    assert news[0].sum().item() == pytest.approx(1 + 4 * 0.4)
    assert torch.equal(news[1], coverage[1])
    assert torch.equal(novelty(target, last, has)[3], unlikeness(target)[3])


@pytest.mark.parametrize("covered", [False, True])
def test_change_weight_is_in_the_loss_and_keeps_its_scale(small: TrainConfig, covered: bool):
    """Sources with and without coverage; each frame's weights have a mean of 1, and 0 is the loss as it always was."""
    losses = {}
    for weight in (None, 0.0, 3.0):
        changed = {} if weight is None else {"change_weight": weight}
        training = stage(replace(small, diffusion=replace(small.diffusion, **changed)))
        coverage = torch.randint(0, 256, (6, 12, 8, 8), dtype=torch.uint8)
        if covered:
            source = training.clips.source
            source.coverage = coverage
            training.samples = ClipSamples(training.config, 1, training.model, training.clips)
        given = arguments(training, 0, range(4))
        assert len(given) == (13 if covered and weight else 12)
        losses[weight] = training.module(*given)[0].item()
    assert losses[None] == losses[0.0] != losses[3.0]
    assert 0.5 < losses[3.0] / losses[0.0] < 2
    if covered:
        batch = training.samples.batch(0, range(4))
        clips = training.samples.order.batch(0)[:4].tolist()
        draws = [training.samples.draw(clip, (1, 0, index), training.config) for index, clip in enumerate(clips)]
        wanted = [coverage[clip, draw.target] for clip, draw in zip(clips, draws, strict=True)]
        assert torch.equal((batch.coverage[:, 0] * 255).round().byte(), torch.stack(wanted))


def test_first_frames_can_be_those_that_clips_begin_with():
    usual, often = DiffusionStage(), DiffusionStage(beginning_share=0.7)
    scale = ratios()
    draws = [[draw_sample(config, random.Random(i), 12, 2, scale) for config in (usual, often)] for i in range(3000)]
    assert all(before.target > 0 for before, _ in draws)
    firsts = [after.target for _, after in draws if not after.references and after.anchor is None]
    assert 0.5 < sum(target == 0 for target in firsts) / len(firsts) < 0.75  # dropped references look the same
    assert all(after.target > 0 for _, after in draws if after.references or after.anchor is not None)


def test_muon_updates_what_is_inside_and_adamw_the_rest(small: TrainConfig):
    module = stage(small).module
    optimizer = make_optimizer(module, DiffusionStage(optimizer="muon", weight_decay=0.02))
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    hidden, rest = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert not hidden & rest
    assert hidden | rest == set(names.values())
    assert "noise.diffusion_model.middle_block.0.in_layers.2.weight" in hidden
    for ending in ("token_embedding.weight", "input_blocks.0.0.weight", "diffusion_model.out.2.weight", ".bias"):
        assert not any(name.endswith(ending) for name in hidden)
        assert any(name.endswith(ending) for name in rest)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.02, 0.0]


def test_muon_goes_on_from_its_saved_state(small: TrainConfig):
    """Two steps and, from what was saved of them, two more equal four, bit for bit."""
    training = stage(small)
    begun = copy.deepcopy(training.module)

    def train(module: torch.nn.Module, steps: range, state: dict | None) -> dict:
        optimizer = make_optimizer(module, DiffusionStage(optimizer="muon"))
        if state is not None:
            optimizer.load_state_dict(state)
        for step in steps:
            optimizer.zero_grad()
            module(*arguments(training, step, range(2)))[0].backward()
            optimizer.step()
        return copy.deepcopy(optimizer.state_dict())

    train(training.module, range(4), None)
    train(begun, range(2, 4), train(begun, range(2), None))
    for (name, whole), resumed in zip(training.module.state_dict().items(), begun.state_dict().values(), strict=True):
        assert torch.equal(whole, resumed), name


def test_crops_lie_on_the_object_and_cost_what_frames_cost(small: TrainConfig):
    for index in range(40):
        clip = sample_clip(1, index)
        image = render([clip], 1, 64, 64)[0, 0]
        crop = crop_to_object(image, clip, 32, random.Random(index))
        assert crop.shape == (3, 32, 32)
        assert crop.flatten(1).std(dim=1).max() > 0.01, clip
    small = replace(small, overrides={**small.overrides, "size": (64, 64)})
    cropping = VAETraining(replace(small, vae=replace(small.vae, crop_share=1.0)))
    whole = VAETraining(small)
    crops, frames = cropping.batch(0, range(2))[0], whole.batch(0, range(2))[0]
    assert (crops.shape, frames.shape) == ((8, 3, 32, 32), (2, 3, 64, 64))
    halves = [cropping.batch(0, range(index, index + 1))[0] for index in range(2)]
    assert torch.equal(crops, torch.cat(halves))
    pairs = VAETraining(replace(small, vae=replace(small.vae, crop_share=1.0, still_weight=1.0)))
    assert torch.equal(pairs.batch(0, range(2))[0], crops)


def test_unchanged_cells_keep_half_a_cell_of_distance():
    images = torch.zeros(1, 3, 32, 32)
    later = images.clone()
    later[0, 1, 12, 12] = 0.5  # in cell (1, 1), and less than 4 pixels from cells 2
    expected = torch.ones(4, 4)
    expected[1:3, 1:3] = 0
    assert torch.equal(unchanged_cells(images, later, 8)[0, 0], expected)


def test_latents_that_change_where_the_picture_does_not_count_in_the_loss(small: TrainConfig):
    training = VAETraining(replace(small, vae=replace(small.vae, still_weight=0.5)))
    images, noise, later = training.batch(0, range(2))
    assert not torch.equal(images, later)
    assert len(VAETraining(small).batch(0, range(2))) == 2
    plain, same, moved = (training.module(images, noise, *more)[0] for more in ((), (images,), (later,)))
    assert (same - plain).item() == pytest.approx(0.5 * 1e-5**0.5, rel=1e-3)  # the root's small constant
    assert moved > same
    moved.backward()
    assert all(p.grad is not None for p in training.module.vae.taesd_encoder.parameters())


def test_a_batch_is_the_same_however_it_is_shared(small: TrainConfig):
    training = stage(replace(small, diffusion=replace(small.diffusion, error_share=0.5)))
    whole = training.samples.batch(3, range(4))
    halves = training.samples.batch(3, range(2)), training.samples.batch(3, range(2, 4))
    for name, part in vars(whole).items():
        if name in ("broken", "shown", "coverage"):
            continue
        assert torch.equal(part, torch.cat([getattr(half, name) for half in halves])), name
    assert not torch.equal(whole.frames, training.samples.batch(4, range(4)).frames)


def test_loss_falls(small: TrainConfig):
    training = stage(small)
    optimizer = torch.optim.AdamW(training.module.parameters(), lr=2e-3)
    batch, losses = arguments(training, 0, range(4)), []
    for _ in range(12):
        optimizer.zero_grad()
        loss, _ = training.module(*batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_words_never_captioned_mean_nothing(small: TrainConfig):
    text = stage(small).model.text
    assert text is not None
    embedding = text.model.token_embedding.weight
    tokens = text.tokenize(["a red circle", "zebra"])
    assert embedding[tokens[0, :4]].abs().sum(dim=1).min() > 0
    assert embedding[tokens[1, 1]].abs().sum() == 0


def test_learning_rate_warms_up_and_decays():
    config = DiffusionStage(steps=100, warmup_steps=10, decay_steps=20)
    factors = [learning_rate_factor(step, config) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10:80] == [1.0] * 70
    assert factors[-1] == pytest.approx(0.05)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole small run: all stages."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "small.toml").write_text(SMALL)
    run(
        read_config(folder / "small.toml", ["diffusion.save_minutes=0.0"]),  # a state after each step
        str(folder),
        ["vae", "latents", "decoder", "diffusion", "export"],
        resume=False,
    )
    return folder / "small"


def test_a_whole_run_leaves_a_checkpoint_that_loads(finished: Path):
    path = finished / "small.safetensors"
    summary = describe_checkpoint(path)
    assert not summary.missing
    model = load_checkpoint(path)
    assert model.config.name == "small"
    assert model.config.vocabulary == vocabulary()
    assert path.stat().st_size < 24e6
    assert list((finished / "diffusion").glob("sheet-*.png"))
    assert list((finished / "diffusion" / "tensorboard").glob("events*"))


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Stopped by SIGTERM after a step, then resumed: the final weights equal the uninterrupted run's, bit for bit.

    The signal comes to this very process; `test_two_processes_train_as_one_and_stop_as_one` sends it to others.
    """
    (tmp_path / "small.toml").write_text(SMALL)
    folder = tmp_path / "small"
    folder.mkdir()
    for name in ("vae", "latents"):
        (folder / f"{name}.safetensors").write_bytes((finished / f"{name}.safetensors").read_bytes())
    batch, usual = ClipSamples.batch, signal.getsignal(signal.SIGTERM)

    def stopping(self: ClipSamples, step: int, indices: range):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(self, step, indices)

    monkeypatch.setattr(ClipSamples, "batch", stopping)
    with pytest.raises(SystemExit) as stopped:
        run(read_config(tmp_path / "small.toml"), str(tmp_path), ["diffusion"], resume=False)
    monkeypatch.undo()
    assert stopped.value.code == 0
    assert signal.getsignal(signal.SIGTERM) is usual
    assert "--resume" in capsys.readouterr().out
    assert [path.name for path in folder.glob("diffusion/state-*")] == ["state-00000002"]
    run(read_config(tmp_path / "small.toml"), str(tmp_path), ["diffusion"], resume=True)
    resumed, whole = load_file(folder / "diffusion.safetensors"), load_file(finished / "diffusion.safetensors")
    assert resumed.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_a_killed_run_goes_on_from_its_last_state(finished: Path, tmp_path: Path):
    """Killed in its second step, then resumed: the final weights equal the uninterrupted run's, bit for bit."""
    (tmp_path / "small.toml").write_text(SMALL)
    folder = tmp_path / "small"
    folder.mkdir()
    for name in ("vae", "latents"):
        (folder / f"{name}.safetensors").write_bytes((finished / f"{name}.safetensors").read_bytes())
    script = UNMEASURED + (
        "import os, signal;"
        "before = samples.ClipSamples.batch;"
        "samples.ClipSamples.batch = lambda self, step, indices: "
        "(os.kill(os.getpid(), signal.SIGKILL) if step == 1 else None, before(self, step, indices))[1];"
        f"every = config.read_config({str(tmp_path / 'small.toml')!r}, ['diffusion.save_minutes=0.0']);"
        f"run.run(every, {str(tmp_path)!r}, ['diffusion'], resume=False)"
    )
    killed = python_with(*TRAINING).run(script)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in folder.glob("diffusion/state-*")] == ["state-00000001"]
    assert not (folder / "diffusion.safetensors").exists()
    run(read_config(tmp_path / "small.toml"), str(tmp_path), ["diffusion"], resume=True)
    resumed, whole = load_file(folder / "diffusion.safetensors"), load_file(finished / "diffusion.safetensors")
    assert resumed.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_what_a_stage_left_is_not_mixed_with_another_runs(finished: Path, tmp_path: Path):
    (tmp_path / "other.toml").write_text(SMALL.replace('preset = "tiny"', 'preset = "tiny"\nseed = 2'))
    config = read_config(tmp_path / "other.toml")
    folder = tmp_path / "small"
    folder.mkdir()
    for name in ("vae", "latents", "diffusion"):
        (folder / f"{name}.safetensors").write_bytes((finished / f"{name}.safetensors").read_bytes())
    with pytest.raises(ValueError, match="run the stage latents again"):
        run(config, str(tmp_path), ["diffusion"], resume=False)
    (folder / "decoder").mkdir()
    with pytest.raises(ValueError, match="run the stage decoder first"):
        run(config, str(tmp_path), ["export"], resume=False)


def test_training_goes_on_from_a_checkpoint(finished: Path, tmp_path: Path):
    """The networks and the autoencoder start as the checkpoint's: with a learning rate of next to nothing they stay."""
    start = f"start_from = '{finished / 'small.safetensors'}'\nlearning_rate = 1e-20\nmuon_learning_rate = 1e-20"
    text = SMALL.replace("[vae]", f"[vae]\n{start}").replace("[diffusion]", f"[diffusion]\n{start}\nema_decay = 0.0")
    (tmp_path / "small.toml").write_text(text)
    run(read_config(tmp_path / "small.toml"), str(tmp_path), ["vae", "latents", "diffusion"], resume=False)
    shipped = load_checkpoint(finished / "small.safetensors")
    for part, module in (("vae", shipped.vae), ("diffusion", shipped.noise)):
        trained = load_file(tmp_path / "small" / f"{part}.safetensors")
        prefix = "noise." if part == "diffusion" else ""
        for name, tensor in module.state_dict().items():
            assert (trained[prefix + name] - tensor).abs().max() < 1e-12, name


def test_an_autoencoder_can_be_used_as_it_is(finished: Path, tmp_path: Path):
    start = f"start_from = '{finished / 'small.safetensors'}'"
    (tmp_path / "small.toml").write_text(SMALL.replace("[vae]", f"[vae]\n{start}"))
    config = read_config(tmp_path / "small.toml", ["vae.steps=0", "decoder.steps=0"])
    run(config, str(tmp_path), resume=False)
    exported = load_checkpoint(tmp_path / "small/small.safetensors")
    shipped = load_checkpoint(finished / "small.safetensors")
    for name, tensor in shipped.require_vae().state_dict().items():
        assert torch.equal(exported.require_vae().state_dict()[name], tensor), name


def test_runs_of_several_seeds_can_see_the_same_clips(small: TrainConfig, tmp_path: Path):
    vae = tmp_path / "vae.safetensors"
    vae.write_bytes(b"")
    shared = replace(small, latents=replace(small.latents, seed=5))
    assert provenance(replace(shared, seed=1), vae) == provenance(replace(shared, seed=2), vae)
    assert provenance(replace(small, seed=1), vae) != provenance(replace(small, seed=2), vae)


def test_a_checkpoint_of_other_networks_cannot_start_a_run(finished: Path, tmp_path: Path):
    start = f"start_from = '{finished / 'small.safetensors'}'"
    text = SMALL.replace("[diffusion]", f"[diffusion]\n{start}") + "\n[overrides.noise.adapter]\nnum_blocks = 2\n"
    (tmp_path / "small.toml").write_text(text)
    folder = tmp_path / "small"
    folder.mkdir()
    for name in ("vae", "latents"):
        (folder / f"{name}.safetensors").write_bytes((finished / f"{name}.safetensors").read_bytes())
    with pytest.raises(ValueError, match="its noise is configured differently"):
        run(read_config(tmp_path / "small.toml"), str(tmp_path), ["diffusion"], resume=False)


def test_a_mask_network_that_the_first_checkpoint_lacks_is_new(
    small: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "maskless.safetensors"
    save_checkpoint(ARTV(small.model), path, parts=["unet", "branches", "vae", "text"])
    going_on = replace(small, diffusion=replace(small.diffusion, start_from=str(path)))
    model, again = starting_model(going_on), starting_model(going_on)
    assert "maskless.safetensors has no mask network; a new one is trained" in capsys.readouterr().out
    assert model.mask is not None
    assert model.mask.diffusion_model.out[2].bias.tolist() == [small.diffusion.mask_bias]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    kept = replace(going_on, diffusion=replace(going_on.diffusion, train=("unet", "branches")))
    assert starting_model(kept).mask is None


def test_a_kept_unet_goes_with_the_autoencoder_of_its_checkpoint(tmp_path: Path):
    path = tmp_path / "tiny.toml"
    path.write_text("[diffusion]\ntrain = ['branches', 'mask']\n")
    whole = ["diffusion.start_from=tiny", "vae.start_from=tiny", "vae.steps=0", "decoder.steps=0"]
    read_config(path, whole)
    read_config(path, [*whole[1:], f"diffusion.start_from={shipped_checkpoint('tiny')}"])
    for wrong in ("diffusion.start_from=''", "vae.start_from=small", "vae.steps=1", "decoder.steps=1"):
        with pytest.raises(ValueError, match="without unet, the UNet and the autoencoder stay as they are"):
            read_config(path, [*whole, wrong])


def test_own_frames_take_the_place_of_references_and_of_nothing_else(small: TrainConfig):
    plain = stage(small)
    rolled = stage(replace(small, diffusion=replace(small.diffusion, rollout_share=1.0, rollout_steps=1)))
    true, seen = (training.samples.batch(0, range(24)) for training in (plain, rolled))
    chosen = seen.rolled
    assert 4 <= chosen.sum() <= 16
    assert not true.rolled.any()
    assert torch.equal(true.frames[:, 2:], seen.frames[:, 2:])
    assert torch.equal(true.frames[~chosen], seen.frames[~chosen])
    shifted = [draw_sample(rolled.config, random.Random(f"1/0/{index}"), 12, 2, ratios()) for index in range(24)]
    moved = [draw.references for draw in shifted if draw.rolled]
    assert moved
    assert all(
        references[-1] < draw.target - 2
        for references, draw in zip(moved, (d for d in shifted if d.rolled), strict=True)
    )
    given, made = arguments(plain, 0, range(24)), arguments(rolled, 0, range(24))
    assert torch.equal(given[0], made[0])
    assert torch.equal(given[10][~chosen], made[10][~chosen])
    assert not torch.isclose(made[10][chosen], seen.frames[chosen, 1]).all(dim=(1, 2, 3)).any()
    alone = rolled.samples.batch(0, range(7, 8))
    if alone.rolled.any():
        single = rolled.arguments(alone, torch.device("cpu"))
        assert torch.allclose(single[10][0], made[10][7], atol=1e-4)


def test_the_models_own_frames_are_trained_on(finished: Path, tmp_path: Path):
    start = (
        f"start_from = '{finished / 'small.safetensors'}'\nrollout_share = 0.5\nrollout_steps = 1\noptimizer = 'muon'"
    )
    (tmp_path / "small.toml").write_text(SMALL.replace("[diffusion]", f"[diffusion]\n{start}"))
    folder = tmp_path / "small"
    folder.mkdir()
    for name in ("vae", "latents"):
        (folder / f"{name}.safetensors").write_bytes((finished / f"{name}.safetensors").read_bytes())
    run(read_config(tmp_path / "small.toml"), str(tmp_path), ["diffusion", "export"], resume=False)
    assert describe_checkpoint(folder / "small.safetensors").config.name == "small"


def test_overrides_change_single_fields():
    config = TrainConfig(overrides={"noise": {"unet": {"model_channels": 64, "channel_mult": [1, 2]}}})
    changed, plain = config.model, preset("tiny")
    assert changed.noise.unet.level_channels == (64, 128)
    assert replace(changed, noise=plain.noise) == plain
    assert config.exported_model.noise == changed.noise


def test_a_state_of_another_configuration_is_one_line(finished: Path, tmp_path: Path):
    (tmp_path / "small.toml").write_text(SMALL.replace("\nsteps = 4", '\nsteps = 5\noptimizer = "muon"'))
    with pytest.raises(ValueError, match="state-00000004 does not fit this configuration") as caught:
        run(read_config(tmp_path / "small.toml"), str(finished.parent), ["diffusion"], resume=True)
    assert len(str(caught.value).splitlines()) == 1


def test_a_run_is_not_overwritten_unasked(finished: Path, tmp_path: Path):
    (tmp_path / "small.toml").write_text(SMALL)
    config = read_config(tmp_path / "small.toml")
    with pytest.raises(ValueError, match="--resume"):
        run(config, str(finished.parent), ["vae"], resume=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not valid TOML"),
        ("colour = 1", "unknown field 'colour'"),
        ("preset = 'huge'", "known presets: sd15, sd21, small, tiny"),
        ("[vae]\nsteps = 0", "at least 1"),
        ("[vae]\nsteps = 'many'", "expected int"),
        ("[latents]\nframes = 2", "at least 3"),
        ("[diffusion]\nmixed_precision = 'fp4'", "accepted: no, bf16, fp16"),
        ("[diffusion]\nlog_every = 0", "at least 1"),
        ("[diffusion]\nlearning_rate = nan", "learning_rate: got nan"),
        ("[diffusion]\nmax_noise_level = 5000", "accepted are 0 to 999"),
        ("name = '../../x'", "accepted are letters"),
        ("preset = 'sd21'", "trains on your own clips"),
        ("[diffusion]\noptimizer = 'sgd'", "accepted: adamw, adamw8bit, muon"),
        ("[diffusion]\nuniform_share = 2.0", "accepted are 0 to 1"),
        ("[diffusion]\nratio_median = 0.0", "ratio_median: got 0.0"),
        ("[vae]\ncrop = 20", "multiple of 8"),
        ("[vae]\ncrop = 72", "at most 64"),
        ("overrides = 3", "expected dict"),
        ("[diffusion]\nrollout_share = 1.5", "accepted are 0 to 1"),
        ("[diffusion]\nbeginning_share = 1.5", "accepted are 0 to 1"),
        ("[latents]\nmotion_weights = {swinging = 2.0}", 'set world = "pictures"'),
        ("world = 'pictures'\n[latents]\nmotion_weights = {flying = 2.0}", "got 'flying', accepted are moving left"),
        ("world = 'pictures'\n[latents]\nmotion_weights = {swinging = 0.0}", "swinging: got 0.0, accepted are numbers"),
        ("[diffusion]\nchange_weight = nan", "change_weight: got nan, at least 0"),
        ("[diffusion]\ntrain = ['vae']", "accepted are one or more of unet, lora, branches, mask, text"),
        ("[diffusion]\nmin_snr_gamma = -1.0", "at least 0"),
        ("[data]\npath = 'clips'", "come from, e.g. --base"),
        ("base = 'tiny'\n[data]\npath = 'nowhere'", "nowhere"),
        ("base = 'tiny'\n[data]\npath = 'clips'\nbucket_multiple = 12", "multiple of 8"),
        ("[overrides]\ncolour = 3", "overrides: unknown field 'colour'"),
        ("[overrides.noise.unet]\nmodel_channels = 33", "not a multiple of"),
        ("[diffusion]\nstart_from = 'nowhere.safetensors'", "no such checkpoint"),
        ("[vae]\nstart_from = 'small'", "its vae is configured differently; name another vae.start_from"),
        ("[decoder]\nstart_from = 'tiny'", "decoder.start_from: got 'tiny', only '' is accepted; set vae.start_from"),
        ("[decoder]\nstill_weight = 0.2", "decoder.still_weight: got 0.2, only 0 is accepted: the encoder"),
        ("[overrides]\nsize = [100, 64]", "a side of 100, not a multiple of 8"),
        ("[overrides.text]\nwidth = 64", "text.width 64 differs from noise.unet.context_dim 48"),
        ("[overrides.vae]\nlatent_channels = 8\n[overrides.noise.unet]\nout_channels = 8", "noise.unet.in_channels 4"),
        ("threads = -1", "threads: got -1, at least 0"),
    ],
)
def test_a_wrong_configuration_is_one_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        run(read_config(path), str(tmp_path))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "diffusion.steps=0"], "at least 1"),
        (["--set", "vae.steps=0"], "at least 1 is needed, or a start_from"),
        (["--stages", "rollouts"], "its stages are vae, latents, decoder, diffusion, export"),
    ],
)
def test_a_users_error_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
):
    config = str(ROOT / "configs" / "tiny.toml")
    assert cli.main(["train", "--config", config, "--output", str(tmp_path), *more]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1


def test_train_py_is_that_command(tmp_path: Path):
    """In a real process, from another folder."""
    command = [sys.executable, ROOT / "train.py", "--config", tmp_path / "none.toml"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"train.py: no training configuration at .*none\.toml; [^\n]+\n", result.stderr)


def test_train_py_says_what_is_missing_and_that_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import train

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    words = ["train.py", "--config", str(ROOT / "configs" / "tiny.toml"), "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr("artv_core.training.run.run", interrupted)
    assert train.main() == 130
    assert capsys.readouterr().err == "train.py: stopped\n"
    monkeypatch.setattr("artv_core.files.installed.find_spec", lambda name: None if name == "accelerate" else name)
    assert train.main() == 2
    message = 'train.py: not installed: accelerate; in the folder of ARTV, run: pip install ".[train]"\n'
    assert capsys.readouterr().err == message


STOP_ONE = f"""{UNMEASURED}
import os, signal, sys
before = samples.ClipSamples.batch
def batch(self, step, indices):
    if step == 1 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    return before(self, step, indices)
if sys.argv[3] == "stop":
    samples.ClipSamples.batch = batch
run.run(config.read_config(sys.argv[1]), sys.argv[2], ["diffusion"], resume=True)
"""


def two_processes(*words: object) -> str:
    """What both print, started with the variables that torchrun sets, without torchrun, which takes seconds to start;
    `test_evaluate.py` starts two by the launcher of torchrun."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [group | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    running = [python_with(*TRAINING).start(STOP_ONE, *words, environment=rank) for rank in ranks]
    said = [one.communicate(timeout=300) for one in running]
    assert [one.returncode for one in running] == [0, 0], "".join(err[-5000:] for _, err in said)
    return "".join(out for out, _ in said)


def test_two_processes_train_as_one_and_stop_as_one(finished: Path, tmp_path: Path):
    """Two processes that share each batch. One gets SIGTERM: both save and stop at that step.

    Resumed, the weights are those of one process that never stopped, up to the order of sums.
    """
    (tmp_path / "small.toml").write_text(SMALL)
    folder = tmp_path / "small"
    folder.mkdir()
    for name in ("vae", "latents"):
        (folder / f"{name}.safetensors").write_bytes((finished / f"{name}.safetensors").read_bytes())
    run_of = (tmp_path / "small.toml", tmp_path)
    assert two_processes(*run_of, "stop").count("--resume continues from here") == 1
    assert [path.name for path in folder.glob("diffusion/state-*")] == ["state-00000002"]
    assert two_processes(*run_of, "go on").count("stage diffusion: done") == 1
    shared, alone = load_file(folder / "diffusion.safetensors"), load_file(finished / "diffusion.safetensors")
    for name, tensor in alone.items():
        assert torch.allclose(tensor, shared[name], rtol=0, atol=2e-3 * tensor.abs().max().item() + 1e-6), name
