"""Training on encoded videos and on Stable Diffusion files: what is trained, what is kept, and what comes of it."""

import json
import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from artv_core.checkpoint import (
    describe_checkpoint,
    load_checkpoint,
    part_of_weight,
    save_checkpoint,
    shipped_checkpoint,
)
from artv_core.cli import main
from artv_core.config import preset
from artv_core.data.clips import BrokenClip, ClipIndex
from artv_core.data.order import BrokenCount, ClipOrder
from artv_core.media import VideoWriter
from artv_core.models.artv import ARTV
from artv_core.synthetic.shapes import render, sample_clip
from artv_core.training import run as stages
from artv_core.training import start
from artv_core.training.config import DiffusionStage, TrainConfig, VAEStage, read_config
from artv_core.training.diffusion import DiffusionTraining, MaskedDiffusionLoss, choose_trained
from artv_core.training.ema import MovingAverage
from artv_core.training.held_out import held_out_losses
from artv_core.training.loop import run_stage
from artv_core.training.optimizers import make_optimizer
from artv_core.training.processes import make_shardable
from artv_core.training.run import run
from artv_core.training.samples import Batch, Clips, ClipSamples
from artv_core.training.start import open_clips, starting_model, synthetic_clips
from artv_core.training.synthetic_clips import LatentClips, RandomOrder
from artv_core.training.throughput import count_flops
from tests.models import write_public_base

pytestmark = pytest.mark.usefixtures("counted_once")

CLIPS = """
name = "mine"
preset = "tiny"
base = "tiny"
[overrides]
size = [32, 32]
[overrides.noise.unet]
model_channels = 32
channel_mult = [1]
num_res_blocks = 1
attention_levels = [0]
head_channels = 16
norm_groups = 8
[overrides.mask.unet]
model_channels = 16
channel_mult = [1]
num_res_blocks = 1
attention_levels = [0]
head_channels = 8
norm_groups = 8
[data]
path = "{clips}"
bucket_multiple = 0
held_out = 1
[diffusion]
steps = 18
batch_size = 8
optimizer = "muon"
warmup_steps = 2
log_every = 1
sheet_rows = 1
sheet_columns = 3
sheet_steps = 2
evaluate_every = 18
evaluate_samples = 2
evaluate_bands = 2
"""
SMALLER = ("diffusion.batch_size=4", "diffusion.micro_batch=2")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: five good clips, one of garbage, one without a caption."""
    folder = tmp_path_factory.mktemp("clips")
    for index in range(5):
        clip = sample_clip(11, index)
        with VideoWriter(folder / f"{index}.mp4", fps=8) as video:
            for frame in render([clip], 14, 64, 64)[0]:
                video.append(frame)
        (folder / f"{index}.txt").write_text(clip.caption)
    (folder / "broken.mp4").write_bytes(random.Random(0).randbytes(4000))
    (folder / "broken.txt").write_text("noise")
    (folder / "bare.mp4").write_bytes((folder / "0.mp4").read_bytes())
    return folder


def configured(folder: Path, text: str, *changes: str) -> TrainConfig:
    (folder / "mine.toml").write_text(text)
    return read_config(folder / "mine.toml", changes)


@pytest.fixture(scope="module")
def trained(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen steps on the clips."""
    folder = tmp_path_factory.mktemp("trained")
    run(configured(folder, CLIPS.format(clips=clips)), str(folder))
    return folder / "mine"


def scalars(folder: Path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "diffusion" / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {name: [event.value for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_eighteen_steps_on_encoded_clips_bring_the_loss_down(trained: Path):
    logged = scalars(trained)
    assert len(logged["loss"]) == 18
    assert sum(logged["loss"][-4:]) < 0.8 * sum(logged["loss"][:4])
    assert all(value > 0 for value in logged["eps"])
    assert all(0 < value < 1.5 for value in logged["mfu"][2:])
    assert all(rate > 0 for rate in logged["samples_per_second"])
    assert (trained / "diffusion" / "sheet-000018.png").stat().st_size > 1000
    assert logged["sheet/psnr_first_frame_held"][0] > 5


def test_held_out_losses_are_told_by_band_and_level(trained: Path):
    logged = scalars(trained)
    names = {name for name in logged if name.startswith("held_out/")}
    assert names == {
        "held_out/steps_0-499",
        "held_out/steps_500-999",
        "held_out/level_0",
        "held_out/level_50",
        "held_out/level_100",
    }
    assert all(logged[name][0] > 0 for name in names)


def test_what_cannot_be_read_is_named_and_left_out(trained: Path):
    skipped = (trained / "skipped.txt").read_text().splitlines()
    assert len(skipped) == 2
    assert any(line.startswith("broken.mp4: ") for line in skipped)
    assert any("bare.mp4" in line for line in skipped)


def test_what_comes_of_it_is_one_whole_file(trained: Path):
    summary = describe_checkpoint(trained / "mine.safetensors")
    assert not summary.missing
    assert (summary.config.name, summary.config.vocabulary, summary.config.fps) == ("mine", (), 8.0)
    facts = (
        json.loads(summary.metadata["training"].removesuffix("...")) if len(summary.metadata["training"]) < 300 else {}
    )
    assert facts.get("base", "tiny") == "tiny"
    shipped, ours = load_checkpoint_of_tiny(), load_checkpoint(trained / "mine.safetensors")
    own = ours.require_vae().state_dict()
    for name, tensor in shipped.require_vae().state_dict().items():
        assert torch.equal(tensor, own[name]), name


def load_checkpoint_of_tiny() -> ARTV:
    from artv_core.checkpoint import shipped_checkpoint

    return load_checkpoint(shipped_checkpoint("tiny"))


def test_worker_processes_make_the_batches_that_the_main_one_makes(clips: Path, tmp_path: Path):
    losses = []
    for workers in (0, 2):
        text = CLIPS.format(clips=clips).replace('name = "mine"', f'name = "mine{workers}"')
        short = [f"diffusion.workers={workers}", "diffusion.steps=3", "diffusion.evaluate_every=0", *SMALLER]
        run(configured(tmp_path, text, *short), str(tmp_path), ["diffusion"])
        losses.append(scalars(tmp_path / f"mine{workers}")["loss"])
    assert losses[0] == losses[1]


def test_a_clip_that_breaks_later_is_replaced_and_named(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "clips"
    folder.mkdir()
    for file in clips.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = configured(tmp_path, CLIPS.format(clips=folder))
    model = starting_model(config)
    training = DiffusionTraining(config, model, open_clips(config, model, tmp_path / "mine"))
    before = training.samples.batch(0, range(8))
    gone = int(training.clips.trained_on[0])
    name = training.clips.source.name(gone)
    (folder / name).write_bytes((folder / name).read_bytes()[:600])
    after = training.samples.batch(0, range(8))
    assert list(after.broken) == [gone]
    chosen = training.clips.order.batch(0)
    assert (chosen == gone).any()
    assert torch.equal(before.frames[chosen != gone], after.frames[chosen != gone])
    assert not torch.equal(before.frames, after.frames)
    again = training.samples.batch(0, range(8))
    assert torch.equal(after.frames, again.frames)
    training.arguments(after, torch.device("cpu"))
    training.arguments(again, torch.device("cpu"))
    assert capsys.readouterr().out.count(f"replaced: {name}") == 1


class OddOneBroken:
    """Latents of nine clips. The last one is alone in its size, and is damaged from its frame `fault` on."""

    holds_latents, fps = True, 8.0
    index = ClipIndex(np.full(9, 8, np.int32), np.arange(9) // 8, np.arange(9), ((64, 64), (48, 80)))

    def __init__(self, fault: int = 0) -> None:
        self.fault = fault

    def name(self, clip: int) -> str:
        return f"{clip}.mp4"

    def caption(self, clip: int) -> str:
        return f"clip {clip}"

    def frames(self, clip: int, positions: list[int]) -> torch.Tensor:
        if clip == 8 and max(positions) >= self.fault:
            raise BrokenClip("8.mp4: it is damaged")
        height, width = self.index.buckets[self.index.bucket[clip]]
        return torch.full((len(positions), 4, height // 8, width // 8), float(clip))

    def context(self, clip: int) -> None:
        return None


def samples_of(folder: Path, source: OddOneBroken, trained_on: list[int], held_out: list[int]) -> SimpleNamespace:
    """What `held_out_losses` needs of a stage. Its module's argument is the batch."""
    config = configured(folder, CLIPS.format(clips="x"), "diffusion.evaluate_samples=6")
    torch.manual_seed(0)
    order = ClipOrder(source.index, np.array(trained_on), 4, seed=1)
    clips = Clips(source, order, np.array(trained_on), np.array(held_out))
    samples = ClipSamples(config.diffusion, 1, ARTV(config.model, vae=False), clips)
    return SimpleNamespace(
        run=config,
        config=config.diffusion,
        clips=clips,
        samples=samples,
        broken=BrokenCount(),
        arguments=lambda batch, device: (batch,),
    )


class Together:
    """As much of an Accelerator as held-out losses use, for two processes that are threads here."""

    num_processes, device = 2, torch.device("cpu")

    def __init__(self, process_index: int, meeting: threading.Barrier, given: list) -> None:
        self.process_index, self.meeting, self.given = process_index, meeting, given

    def autocast(self) -> AbstractContextManager:
        return nullcontext()

    def reduce(self, value: torch.Tensor, reduction: str) -> torch.Tensor:
        assert reduction == "sum"
        self.given[self.process_index] = value
        self.meeting.wait(60)
        total = self.given[0] + self.given[1]
        self.meeting.wait(60)
        return total


@pytest.mark.parametrize("processes", [1, 2])
def test_a_broken_held_out_clip_is_left_out_of_the_losses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], processes: int
):
    stage = samples_of(tmp_path, OddOneBroken(), [0, 1], [2, 3, 8])
    ran: list[list[float]] = [[] for _ in range(processes)]

    def losses(process: int, accelerator: object) -> dict[str, float]:
        def module(batch: Batch) -> tuple[torch.Tensor, dict]:
            ran[process].append(float(batch.frames.max()))
            return batch.frames.max(), {}

        return dict(held_out_losses(stage, accelerator, module))

    if processes == 1:
        told = [losses(0, Accelerator(cpu=True))]
    else:
        meeting, given = threading.Barrier(2), [None, None]
        with ThreadPoolExecutor(2) as pool:
            told = list(pool.map(losses, range(2), [Together(index, meeting, given) for index in range(2)]))
    # Clips 2, 3, 8, 2, 3, 8. A process also leaves out the clip that is its turn when the other one has the broken one.
    assert ran == ([[2, 3, 2, 3] * 5] if processes == 1 else [[2] * 5, [3] * 5])
    assert [set(means.values()) for means in told] == [{2.5}] * processes
    assert capsys.readouterr().out.count("left out of the held-out losses: 8.mp4: it is damaged") == 1


def test_if_no_clip_of_a_size_can_be_read_the_batch_has_another_size(tmp_path: Path):
    samples = samples_of(tmp_path, OddOneBroken(), [0, 1, 2, 8], [3]).samples
    odd = next(step for step in range(100) if samples.order.batch(step)[0] == 8)
    batch = samples.batch(odd, range(4))
    assert batch.frames.shape[-2:] == (8, 8)
    assert set(batch.frames[:, -1].amax(dim=(1, 2, 3)).tolist()) == {0.0, 1.0, 2.0}
    assert batch.broken == {8: "8.mp4: it is damaged"}
    whole = samples_of(tmp_path, OddOneBroken(fault=9), [0, 1, 2, 8], [3]).samples
    assert whole.batch(odd, range(4)).frames.shape[-2:] == (6, 10)
    alone = samples_of(tmp_path, OddOneBroken(), [8], [3]).samples
    with pytest.raises(BrokenClip, match=r"^8.mp4: it is damaged; there is no other clip of its size"):
        alone.batch(0, range(4))


def test_prepared_clips_that_are_too_short_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    source = OddOneBroken()
    source.index = replace(source.index, num_frames=np.array([1, 8, 2, 8, 8, 3, 8, 8, 4]))
    monkeypatch.setattr(start, "_open", lambda *_: source)
    config = configured(tmp_path, CLIPS.format(clips="x"))
    opened = open_clips(config, ARTV(config.model, vae=False), tmp_path)
    assert sorted([*opened.trained_on, *opened.held_out]) == [1, 3, 4, 5, 6, 7, 8]
    assert len(opened.held_out) == 1
    assert "2 of 9 prepared clips have fewer than 3 frames (data.min_frames)" in capsys.readouterr().out
    with pytest.raises(ValueError, match="9 of 9 prepared clips have fewer than 9 frames"):
        open_clips(configured(tmp_path, CLIPS.format(clips="x"), "data.min_frames=9"), None, tmp_path)


def test_a_run_says_if_nothing_is_there_to_measure_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(start, "_open", lambda *_: OddOneBroken())
    clips = LatentClips(torch.zeros(4, 12, 4, 8, 8).half(), [""] * 4)
    for held_out, every, said in ((0, 18, 2), (1, 18, 1), (0, 0, 0)):
        changes = [f"data.held_out={held_out}", f"diffusion.evaluate_every={every}"]
        config = configured(tmp_path, CLIPS.format(clips="x"), *changes)
        open_clips(config, None, tmp_path)
        synthetic_clips(config, clips)
        note = f"note: no clips are held out, so evaluate_every = {every} measures nothing"
        assert capsys.readouterr().out.count(note) == said


def test_four_clips_fill_a_batch_of_64_with_one_held_out(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in [f"{index}{ending}" for index in range(4) for ending in (".mp4", ".txt")]:
        (folder / name).write_bytes((clips / name).read_bytes())
    text = CLIPS.format(clips=folder).replace("held_out = 1\n", "").replace("batch_size = 8", "batch_size = 64")
    config = configured(tmp_path, text)
    model = starting_model(config)
    opened = open_clips(config, model, tmp_path / "mine")
    assert (len(opened.trained_on), len(opened.held_out)) == (3, 1)
    assert "4 clips: 3 to train on, 1 held out" in capsys.readouterr().out
    batch = DiffusionTraining(config, model, opened).samples.batch(0, range(64))
    assert len(batch.frames) == 64
    assert set(opened.order.batch(0).tolist()) == set(opened.trained_on.tolist())
    with pytest.raises(ValueError, match=r"data.held_out is 8, and there are 4 clips; .* \(--set data.held_out=-1\)"):
        open_clips(configured(tmp_path, text, "data.held_out=8"), model, tmp_path / "mine")


@pytest.mark.usefixtures("uncounted_here")
def test_clips_keep_their_shapes_and_a_batch_has_one(clips: Path, tmp_path: Path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for index, shape in enumerate([(48, 80), (80, 48), (64, 64)] * 2):
        with VideoWriter(folder / f"{index}.mp4", fps=8) as video:
            for frame in render([sample_clip(3, index)], 12, *shape)[0]:
                video.append(frame)
        (folder / f"{index}.txt").write_text("x")
    text = CLIPS.format(clips=folder).replace("bucket_multiple = 0", "bucket_multiple = 8")
    larger = ["overrides.size=[64,64]", "diffusion.steps=3", "diffusion.evaluate_every=0", *SMALLER]
    config = configured(tmp_path, text, *larger)
    model = starting_model(config)
    training = DiffusionTraining(config, model, open_clips(config, model, tmp_path / "mine"))
    shapes = [tuple(training.samples.batch(step, range(4)).frames.shape[-2:]) for step in range(6)]
    assert len(set(shapes)) == 3
    assert {height * width // 256 for height, width in shapes} <= {14, 15, 16, 17}
    run(config, str(tmp_path), ["diffusion"])


@pytest.mark.usefixtures("uncounted_here")
def test_prepared_clips_are_trained_on_without_vae_and_text_encoder(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    prepared = tmp_path / "prepared"
    assert main(["prepare", str(clips), str(prepared), "--checkpoint", "tiny", "--motion-range", "0", "100"]) == 0
    changes = [f"data.path={prepared}", 'diffusion.train=["unet", "branches", "mask"]', "diffusion.steps=2", *SMALLER]
    config = configured(tmp_path, CLIPS.format(clips="x"), *changes)
    advice = r"--size 32x32, or train at their size: --set 'overrides.size=\[64,64\]'$"
    with pytest.raises(ValueError, match=f"prepared was prepared at 64x64, and the training size is 32x32; .*{advice}"):
        open_clips(config, starting_model(config), tmp_path / "mine")
    changes.append("overrides.size=[64,64]")
    config = configured(tmp_path, CLIPS.format(clips="x"), *changes, "diffusion.evaluate_every=2")
    model = starting_model(config)
    batch = DiffusionTraining(config, model, open_clips(config, model, tmp_path / "mine")).samples.batch(0, range(4))
    assert (batch.frames.shape[1:], batch.text.shape[1:]) == ((4, 4, 8, 8), (32, 48))
    run(config, str(tmp_path))
    assert not describe_checkpoint(tmp_path / "mine" / "mine.safetensors").missing
    with torch.no_grad():
        next(model.require_vae().parameters()).add_(0.1)
    with pytest.raises(ValueError, match="VAE"):
        open_clips(config, model, tmp_path / "mine")

    base = tmp_path / "no-vae.safetensors"
    save_checkpoint(load_checkpoint(shipped_checkpoint("tiny"), without=("vae",)), base)
    changes += [f"base={base}", "name=bare"]
    run(configured(tmp_path, CLIPS.format(clips="x"), *changes), str(tmp_path))
    assert "has no VAE; the clips are prepared, so training continues" in capsys.readouterr().out
    assert "images in and out" in describe_checkpoint(tmp_path / "bare" / "bare.safetensors").missing
    with pytest.raises(ValueError, match="it has no VAE or no text encoder"):
        starting_model(configured(tmp_path, CLIPS.format(clips=clips), f"base={base}"))


# Stable Diffusion files

ADAPTER = """
name = "adapter"
preset = "sd21"
base = "{base}"
[overrides]
size = [64, 64]
[overrides.text]
width = 64
layers = 2
heads = 2
context_length = 16
[overrides.noise.unet]
model_channels = 32
channel_mult = [1, 2]
num_res_blocks = 1
attention_levels = [0, 1]
head_channels = 16
context_dim = 64
norm_groups = 8
[overrides.noise.anchor]
width = 32
grid = 4
[overrides.mask.unet]
model_channels = 16
channel_mult = [1]
num_res_blocks = 1
attention_levels = [0]
head_channels = 8
context_dim = 64
norm_groups = 8
[overrides.mask.anchor]
width = 32
grid = 4
[data]
path = "prepared"
[diffusion]
train = {train}
gradient_checkpointing = true
steps = 3
batch_size = 4
micro_batch = 2
warmup_steps = 0
mixed_precision = "bf16"
ema_decay = 0.5
sheet_rows = 1
sheet_columns = 2
sheet_steps = 1
evaluate_every = 3
evaluate_samples = 1
evaluate_bands = 1
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    path = folder / "public.safetensors"
    (folder / "x.toml").write_text(ADAPTER.format(base="tiny", train='["mask"]'))
    write_public_base(path, read_config(folder / "x.toml").model)
    return path


def test_a_base_that_predicts_something_else_is_warned_of(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    marked = tmp_path / "marked.safetensors"
    save_file({**load_file(base), "v_pred": torch.tensor([])}, marked)
    text = ADAPTER.format(base=marked, train='["branches", "mask"]')
    starting_model(configured(tmp_path, text))
    assert f"warning: {marked} predicts v, the configuration says eps" in capsys.readouterr().out
    starting_model(configured(tmp_path, text + '[overrides.schedule]\nprediction = "v"\n'))
    assert "warning" not in capsys.readouterr().out


def latent_clips(config: TrainConfig, *_: object) -> Clips:
    """In the place of prepared ones."""
    torch.manual_seed(0)
    source = LatentClips(torch.randn(4, 12, 4, 8, 8).half(), [f"clip {index}" for index in range(4)])
    return Clips(source, RandomOrder(3, 4, 1), np.arange(3), np.arange(3, 4))


@pytest.mark.usefixtures("uncounted_here")
@pytest.mark.parametrize("parts", [("branches", "mask"), ("unet", "branches", "mask"), ("lora", "branches", "mask")])
def test_exactly_the_named_parts_are_trained(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...]
):
    config = configured(tmp_path, ADAPTER.format(base=base, train=json.dumps(parts)))
    seen = {}

    def watched(stage: DiffusionTraining, folder: Path, resume: bool, **how) -> nn.Module:
        before = {name: tensor.clone() for name, tensor in stage.model.state_dict().items()}
        trained = run_stage(stage, folder, resume, **how)
        seen.update(before=before, after=stage.model.state_dict())
        seen["grads"] = {name for name, parameter in stage.model.named_parameters() if parameter.requires_grad}
        return trained

    monkeypatch.setattr(stages, "open_clips", latent_clips)
    monkeypatch.setattr(stages, "run_stage", watched)
    run(config, str(tmp_path))
    named = {name for name in seen["before"] if name != "null_context" and part_of_weight(name) in parts}
    changed = {name for name, tensor in seen["after"].items() if not torch.equal(tensor, seen["before"][name])}
    assert changed == named == seen["grads"]
    frozen = {tensor.dtype for name, tensor in seen["after"].items() if name not in named and tensor.ndim >= 2}
    assert frozen - {torch.float32} == {torch.bfloat16}
    assert {seen["after"][name].dtype for name in named} == {torch.float32}

    file = tmp_path / "adapter" / "adapter.safetensors"
    summary = describe_checkpoint(file)
    if "unet" in parts:
        assert not summary.missing
        assert load_checkpoint(file).vae is not None
    else:
        assert summary.parts == parts
        assert summary.base == "public.safetensors"
        model = load_checkpoint(file, base=base, without=("lora",))
        found = model.noise.diffusion_model.state_dict()
        for name, tensor in starting_model(config).noise.diffusion_model.state_dict().items():
            if part_of_weight(f"noise.diffusion_model.{name}") == "unet":
                assert torch.equal(found[name], tensor), name


@pytest.mark.usefixtures("uncounted_here")
@pytest.mark.parametrize("train", [("mask",), ("lora",)])
def test_what_is_not_trained_and_not_in_the_base_is_in_the_new_file(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: tuple[str, ...]
):
    """Training goes on with an adapter, whose other parts no Stable Diffusion file has."""
    before, trained = tmp_path / "before.safetensors", json.dumps(train)
    made = starting_model(configured(tmp_path, ADAPTER.format(base=base, train='["branches", "mask"]')))
    save_checkpoint(made, before, dtype=torch.float32, parts=("branches", "mask"), base=base.name)
    monkeypatch.setattr(stages, "open_clips", latent_clips)
    run(configured(tmp_path, ADAPTER.format(base=base, train=trained), f"diffusion.start_from={before}"), str(tmp_path))
    file = tmp_path / "adapter" / "adapter.safetensors"
    assert set(describe_checkpoint(file).parts) == {*train, "branches", "mask"}
    assert describe_checkpoint(file).base == base.name
    kept = load_checkpoint(file, base=base).state_dict()
    assert all(
        torch.equal(kept[name], tensor.half().float())
        for name, tensor in made.state_dict().items()
        if part_of_weight(name) in {"branches", "mask"} - {*train} and name != "null_context"
    )


@pytest.mark.usefixtures("uncounted_here")
def test_a_stopped_run_of_some_parts_goes_on_as_if_it_had_not_stopped(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What is frozen is in no state, and comes back from the base."""
    config = configured(tmp_path, ADAPTER.format(base=base, train='["branches", "mask"]'))
    monkeypatch.setattr(stages, "open_clips", latent_clips)
    run(config, str(tmp_path / "whole"), ["diffusion"])
    drawn, before = [], ClipSamples.batch

    def stopped(samples: ClipSamples, step: int, indices: range) -> Batch:
        drawn.append(step)
        if drawn.count(1) == 1 and step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return before(samples, step, indices)

    monkeypatch.setattr(ClipSamples, "batch", stopped)
    with pytest.raises(SystemExit) as ended:
        run(config, str(tmp_path / "stopped"), ["diffusion"])
    assert ended.value.code == 0
    (state,) = (tmp_path / "stopped/adapter/diffusion").glob("state-*")
    assert int(state.name.removeprefix("state-")) < config.diffusion.steps
    stored = dcp.FileSystemReader(state).read_metadata().state_dict_metadata
    weights = [name.removeprefix("module.") for name in stored if name.startswith("module.")]
    assert {part_of_weight(name) for name in weights} == {"branches", "mask"}
    run(config, str(tmp_path / "stopped"), ["diffusion"], resume=True)
    resumed, whole = (load_file(tmp_path / name / "adapter/diffusion.safetensors") for name in ("stopped", "whole"))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_before_the_first_step_the_noise_network_is_the_base(base: Path, tmp_path: Path):
    model = starting_model(configured(tmp_path, ADAPTER.format(base=base, train='["branches"]')))
    network, generator = model.noise.eval(), torch.Generator().manual_seed(0)
    x, anchor = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    references, context = torch.randn(1, 8, 8, 8, generator=generator), torch.randn(1, 16, 64, generator=generator)
    level, step = torch.tensor([70]), torch.tensor([500.0])
    with torch.no_grad():
        plain = network.diffusion_model(x, step, network.diffusion_model.project_tokens(context))
        ours = network(x, step, network.condition(context, references, anchor, level, level))
    assert torch.equal(plain, ours)


def test_a_base_of_another_kind_is_refused(base: Path, tmp_path: Path):
    text = ADAPTER.format(base=base, train='["branches"]')
    with pytest.raises(ValueError, match=r"Stable Diffusion 2\.x"):
        starting_model(configured(tmp_path, text.replace('"sd21"', '"sd15"')))
    with pytest.raises(ValueError, match="its vae is configured differently"):
        starting_model(configured(tmp_path, text, "base=tiny"))
    with pytest.raises(ValueError, match="as a base gives no UNet"):
        starting_model(configured(tmp_path, CLIPS.replace("[diffusion]", '[diffusion]\ntrain = ["branches"]')))


# Pieces


def test_micro_batches_add_up_to_the_batch(base: Path, tmp_path: Path):
    config = configured(tmp_path, ADAPTER.format(base=base, train='["branches", "mask"]'))
    torch.manual_seed(0)
    training = DiffusionTraining(config, starting_model(config), latent_clips(config))
    cpu = torch.device("cpu")
    gradients = []
    for parts in ([range(4)], [range(2), range(2, 4)]):
        training.module.zero_grad()
        for part in parts:
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                arguments = training.arguments(training.samples.batch(0, part), cpu)
            with torch.autocast("cpu", enabled=False):
                loss, _ = training.module.float()(
                    *(part.float() if part.is_floating_point() else part for part in arguments)
                )
            (loss / len(parts)).backward()
        gradients.append({name: p.grad.clone() for name, p in training.module.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, whole in gradients[0].items():
        assert torch.allclose(whole, gradients[1][name], rtol=1e-3, atol=1e-6), name


def test_what_cannot_be_sharded_is_said():
    module = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    usual, muon, rolled = DiffusionStage(), DiffusionStage(optimizer="muon"), DiffusionStage(rollout_share=0.25)
    for config in (usual, VAEStage()):
        make_shardable(module, make_optimizer(module, config), config)
    with pytest.raises(ValueError, match="FSDP needs weights of one type and AdamW"):
        make_shardable(module, make_optimizer(module, muon), muon)
    with pytest.raises(ValueError, match=r"FSDP needs rollout_share 0, not 0.25; use DDP"):
        make_shardable(module, make_optimizer(module, rolled), rolled)
    with pytest.raises(ValueError, match="FSDP needs weights of one type"):
        make_shardable(module.append(nn.Linear(2, 2).half()), make_optimizer(module, usual), usual)


def test_averages_follow_the_weights_and_change_places_with_them():
    torch.manual_seed(0)
    module = nn.Linear(3, 3)
    module.bias.requires_grad_(False)
    average = MovingAverage(module, decay=0.75)
    first = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(1)
    second = module.weight.detach().clone()
    average.update()
    assert list(average.averages) == ["weight"]
    with average.applied():
        assert torch.allclose(module.weight, 0.75 * first + 0.25 * second)
    assert torch.equal(module.weight, second)
    none = MovingAverage(module, decay=0.0)
    none.update()
    with none.applied():
        assert torch.equal(module.weight, second)


def test_loss_weights_are_those_that_the_configuration_names():
    model = ARTV(preset("tiny"))
    a = torch.tensor([0.99, 0.7, 0.1]).reshape(3, 1, 1, 1)
    s = (1 - a**2).sqrt()
    ratio = (a / s) ** 2

    def weight(prediction: str, **stage: float) -> torch.Tensor:
        model.config = replace(model.config, schedule=replace(model.config.schedule, prediction=prediction))
        return MaskedDiffusionLoss(model, DiffusionStage(**stage))._weight(a, s)

    assert torch.allclose(weight("eps", weight_cap=0.0), ratio)
    assert torch.allclose(weight("v", weight_cap=0.0), ratio + 1)
    assert torch.allclose(weight("v", weight_cap=5.0), (ratio + 1).clamp(max=5))
    for prediction in ("eps", "v"):
        assert torch.allclose(weight(prediction, min_snr_gamma=5.0), ratio.clamp(max=5))


def test_flops_are_counted_as_they_are_computed():
    """On the meta device as by a real pass; frozen weights cost no gradients of theirs."""
    config = read_config(Path(__file__).parent.parent / "configs/tiny.toml")
    torch.manual_seed(0)
    model = ARTV(config.model)
    clips = LatentClips(torch.randn(2, 12, 4, 8, 8).half(), ["a", "b"])
    training = DiffusionTraining(config, model, Clips(clips, RandomOrder(2, 2, 1), np.arange(2), np.arange(0)))
    with torch.no_grad():
        arguments = training.arguments(training.samples.batch(0, range(1)), torch.device("cpu"))
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        training.module(*arguments)[0].backward()
    assert training.flops_per_sample() == pytest.approx(counter.get_total_flops(), rel=0.01)
    whole = training.flops_per_sample()
    training.config = replace(training.config, train=("mask",))
    choose_trained(model, ("mask",))
    assert training.flops_per_sample() < 0.6 * whole


def test_a_linear_layer_has_six_operations_for_each_weight():
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 4, bias=False)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict]:
            return self.layer(x).sum(), {}

    with torch.device("meta"):
        module, x = Loss(), torch.zeros(3, 8, requires_grad=True)
    assert count_flops(module, (x,)) == 6 * 3 * 8 * 4


@pytest.mark.parametrize("name", ["2024-05-01", "7", "true", 'quoted "clips" \\', "[a]"])
def test_clips_and_base_may_have_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(shipped_checkpoint("tiny").read_bytes())
    (tmp_path / "mine.toml").write_text(CLIPS.format(clips="none"))
    read = []
    monkeypatch.setattr(stages, "run", lambda config, *_: read.append(config))
    assert main(["train", "--config", "mine.toml", "--base", name, "--data", name]) == 0
    assert [(config.base, config.data.path) for config in read] == [(name, name)]


def test_values_of_the_configuration_can_be_given_beside_it(tmp_path: Path):
    changes = ["base=tiny", f"data.path={tmp_path}/my clips", "diffusion.steps=7", 'diffusion.train=["mask"]', "seed=4"]
    config = configured(tmp_path, CLIPS.format(clips="x"), *changes)
    assert (config.seed, config.diffusion.steps, config.diffusion.train) == (4, 7, ("mask",))
    assert config.data.path == f"{tmp_path}/my clips"
    assert config.diffusion.batch_size == 8
    with pytest.raises(ValueError, match="unknown field 'stepz'"):
        configured(tmp_path, CLIPS.format(clips="x"), "diffusion.stepz=7")


@pytest.mark.parametrize(
    "name", ["sd21", "sd21-adapter", "sd15-adapter", "tiny", "tiny-continued", "small", "small-more"]
)
def test_shipped_configurations_are_read(name: str):
    path = Path(__file__).parent.parent / f"configs/{name}.toml"
    changes = ["base=tiny", "data.path=clips"] if name.startswith("sd") else []
    changes += ["vae.start_from=tiny", "diffusion.start_from=tiny"] if name == "tiny-continued" else []
    config = read_config(path, changes)
    assert config.stages[-1] == "export"
    if name.startswith("sd"):
        assert "vae" not in config.stages
        assert config.diffusion.max_noise_level == 400
        assert ("unet" in config.diffusion.train) == (name == "sd21")
