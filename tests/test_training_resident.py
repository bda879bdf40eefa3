"""The loop that fills a card: samples drawn all at once, weights in flat tensors, a whole step as one piece of work."""

import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from torch import Tensor, nn

from artv_core.synthetic.shapes import sample_clip
from artv_core.training import halves
from artv_core.training.config import DiffusionStage, TrainConfig
from artv_core.training.diffusion import DiffusionTraining
from artv_core.training.drawing import DeviceDrawing
from artv_core.training.ema import MovingAverage
from artv_core.training.flat import FlatAverage, FlatOptimizer, Matrices, in_batches, orthogonal
from artv_core.training.flat_halves import HalfPasses
from artv_core.training.loop import Training, run_stage
from artv_core.training.norms import KINDS
from artv_core.training.optimizers import make_optimizer, set_learning_rate
from artv_core.training.passes import Capture, Passes
from artv_core.training.processes import make_accelerator
from artv_core.training.resident import ResidentTraining, fitting_loop, unused_parameters
from artv_core.training.samples import draw_sample
from artv_core.training.start import synthetic_clips
from artv_core.training.state import RunState, saved_steps
from artv_core.training.synthetic_clips import LatentClips
from tests.counted import counted_calls
from tests.device_waits import DeviceWaits, resident_tensors
from tests.models import quickest
from tests.tape import Tapes

pytestmark = pytest.mark.usefixtures("uncounted", "all_used")

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # bits are compared

CPU, FRAMES = torch.device("cpu"), 6
STAGE = DiffusionStage(
    steps=5, batch_size=4, optimizer="muon", ema_decay=0.9, log_every=1, warmup_steps=3, sheet_every=1000,
    save_minutes=1e9, resident=True,
)  # fmt: skip


def stage(coverage: bool = False, layer: str = "last", **changes) -> DiffusionTraining:
    """The stage "diffusion" of a tiny network on six clips of noise."""
    torch.manual_seed(0)
    model, config = quickest(text=True).train(), TrainConfig(seed=5, diffusion=replace(STAGE, **changes))
    assert model.text is not None
    model.text.config = replace(model.config.text, layer=layer)
    model.config = replace(model.config, text=model.text.config)
    latents = torch.randn(6, FRAMES, 4, 8, 8).half()
    covered = torch.randint(0, 256, (6, FRAMES, 8, 8), dtype=torch.uint8) if coverage else None
    clips = LatentClips(latents, tuple(sample_clip(0, index).caption for index in range(6)), coverage=covered)
    made = DiffusionTraining(config, model, synthetic_clips(config, clips))
    made.sheet = lambda *_: {}  # type: ignore[method-assign]
    return made


def begun(folder: Path, made: DiffusionTraining, capture: Capture | None = None) -> ResidentTraining:
    return ResidentTraining(made, make_accelerator(made.config, folder), folder, capture)


# Drawing


def drawing(frames: int = 12, **changes) -> DeviceDrawing:
    """For 40 clips of that many frames; nothing of them is looked at but their number."""
    made = stage(**changes)
    clips = LatentClips(torch.zeros(40, frames, 1, 1, 1).half(), ("a red circle",) * 40)
    made.samples.clips = clips
    return DeviceDrawing(made.samples, CPU)


def both_ways(count: int, frames: int = 12, **changes) -> tuple[list[tuple], list[tuple]]:
    """(target, references, anchor, caption kept, time step, levels) of samples drawn at once, and one by one."""
    drawn = drawing(frames, **changes)
    drawn.begin(0)
    at_once = [as_tuple(*values) for values in zip(*map(listed, drawn.choose(count)), strict=True)]
    ratios = drawn.ratios
    singly = [draw_sample(drawn.config, random.Random(index), frames, 2, ratios) for index in range(count)]
    names = ("target", "references", "anchor", "caption_kept", "timestep", "reference_level", "anchor_level")
    return at_once, [tuple(getattr(draw, name) for name in names) for draw in singly]


def listed(values: Tensor) -> list:
    return values.tolist()


def as_tuple(clip, target, references, seen, anchor, anchored, kept, timestep, reference_level, anchor_level) -> tuple:
    shown = tuple(references) if seen else ()
    return target, shown, anchor if anchored else None, kept, timestep, reference_level, anchor_level


def largest_gap(first: Sequence, second: Sequence) -> float:
    """Of the shares that each value has in either, in deviations of such a share."""
    (one, n), (two, m) = (Counter(first), len(first)), (Counter(second), len(second))
    gaps = []
    for value in one.keys() | two.keys():
        share = (one[value] + two[value]) / (n + m)
        gaps.append(abs(one[value] / n - two[value] / m) / (share * (1 - share) * (1 / n + 1 / m) + 1e-12) ** 0.5)
    return max(gaps)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"first_share": 0.35, "second_share": 0.2, "beginning_share": 0.7, "uniform_share": 0.3, "anchor_window": 3},
        {"first_share": 0.0, "second_share": 0.0, "drop_references": 0.5, "drop_anchor": 0.4, "max_noise_level": 5},
    ],
)
def test_samples_drawn_at_once_are_distributed_as_those_drawn_one_by_one(changes: dict):
    """Which frames, together, so that what depends on one another is seen; then conditions, time steps and levels."""
    at_once, singly = both_ways(20_000, **changes)
    sides = (at_once, singly)
    assert largest_gap(*([draw[:3] for draw in side] for side in sides)) < 5.5
    for what in (
        lambda draw: (bool(draw[1]), draw[2] is None, draw[3], draw[0] == 0),
        lambda draw: draw[4] // 25,
        lambda draw: (bool(draw[1]), draw[5] // 10),
        lambda draw: (draw[2] is None, draw[6] // 10),
        lambda draw: (draw[5] > 50, draw[6] > 50),
    ):
        assert largest_gap(*([what(draw) for draw in side] for side in sides)) < 5, what
    times = [torch.tensor([draw[4] for draw in side]).double().sort().values for side in sides]
    places = [torch.searchsorted(side, torch.arange(1000.0, dtype=torch.double)) / len(side) for side in times]
    assert (places[0] - places[1]).abs().max() < 0.02  # Kolmogorov and Smirnov's distance


def test_such_a_comparison_would_find_another_distribution():
    usual, other = both_ways(20_000)[0], both_ways(20_000, anchor_window=9)[0]
    assert largest_gap([draw[:3] for draw in usual], [draw[:3] for draw in other]) > 8


def test_clips_are_drawn_alike_and_frames_are_those_of_the_clip():
    drawn = drawing(3)
    drawn.latents = (torch.arange(40)[:, None] * 10 + torch.arange(3)[None]).half()[..., None, None, None]
    drawn.begin(3)
    chosen = drawn.choose(8000)
    assert largest_gap(chosen.clip.tolist(), [index % 40 for index in range(400_000)]) < 4.5
    drawn.begin(3)
    batch = drawn.batch(8000)  # the same choices, for choices come first
    wanted = torch.cat([chosen.references, chosen.anchor[:, None], chosen.target[:, None]], dim=1)
    there = torch.stack([chosen.has_references, chosen.has_references, chosen.has_anchor], dim=1)
    assert torch.equal(batch.frames[:, :3, 0, 0, 0], (chosen.clip[:, None] * 10 + wanted[:, :3]) * there)
    assert torch.equal(batch.frames[:, 3, 0, 0, 0], chosen.clip * 10.0 + chosen.target)


def test_a_drawn_batch_has_what_one_of_the_host_has():
    """Names, shapes and types, scales that follow from time steps and levels, noise of deviation 1, captions."""
    made = stage(coverage=True, change_weight=3.0)
    drawn = DeviceDrawing(made.samples, CPU)
    drawn.begin(0)
    own, hosts = drawn.batch(64), made.samples.batch(0, range(4))
    for name, value in vars(hosts).items():
        if isinstance(value, Tensor) and name not in ("shown", "rolled", "seeds"):
            mine = getattr(own, name)
            assert (mine.shape[1:], mine.dtype) == (value.shape[1:], value.dtype), name
    assert torch.equal(own.signal[:, -1], made.samples.signal[own.timesteps])
    clean = own.levels[:, 0] == 0
    assert clean.any()
    assert (own.signal[clean, :2] == 1).all()
    assert (own.spread[clean, :2] == 0).all()
    assert torch.equal(own.spread[~clean, 1], made.samples.spread[own.levels[~clean, 0]])
    assert own.noise.std().item() == pytest.approx(1, abs=0.02)
    assert 0 <= own.coverage.min() < 0.01 < 0.99 < own.coverage.max() <= 1
    empty = (own.text == made.samples.tokenize("")).all(dim=1)
    assert 0 < empty.sum() < 20


def test_a_batch_belongs_to_its_step():
    drawn = drawing()
    batches = []
    for step in (4, 5, 4):
        drawn.begin(step)
        batches.append(torch.cat([drawn.batch(3).noise, drawn.batch(2).noise]))
    assert torch.equal(batches[0], batches[2])
    assert not torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0][:2], batches[0][3:])


def test_no_call_of_python_is_made_for_each_sample():
    made = stage()
    drawn = DeviceDrawing(made.samples, CPU)
    numbers = []
    for count in (2, 2, 200):
        drawn.begin(count)
        with counted_calls() as calls:
            made.arguments(drawn.batch(count), CPU)
        numbers.append(calls.number)
    assert numbers[1] == numbers[2] > 0


# Weights in flat tensors


Learner = tuple[Callable[[int], None], nn.Module, MovingAverage]


def usual(made: DiffusionTraining, optimizer: str, **changes) -> Learner:
    """A step of `make_optimizer` and `MovingAverage` on gradients that follow from the step, as the usual loop does."""
    config, module = replace(made.config, optimizer=optimizer, **changes), made.module
    own, average = make_optimizer(module, config), MovingAverage(module, config.ema_decay)
    rates = [group["lr"] for group in own.param_groups]

    def step(number: int) -> None:
        set_learning_rate(own, rates, number, config)
        set_gradients(module, number)
        nn.utils.clip_grad_norm_(module.parameters(), config.gradient_clip or float("inf"))
        own.step()
        average.update()

    return step, module, average


def set_gradients(module: nn.Module, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for parameter in module.parameters():
        gradient = torch.randn(parameter.shape, generator=generator) * 0.1 / parameter.numel() ** 0.5
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad.copy_(gradient)


def flat(made: DiffusionTraining, optimizer: str, **changes) -> Learner:
    config, module = replace(made.config, optimizer=optimizer, **changes), made.module
    own = FlatOptimizer(make_optimizer(module, config))
    average = FlatAverage(module, config.ema_decay, own)
    rates = [group["lr"] for group in own.param_groups]

    def step(number: int) -> None:
        set_learning_rate(own, rates, number, config)
        own.begin(number)
        own.zero_grad()
        set_gradients(module, number)
        own.clip(config.gradient_clip or float("inf"))
        own.update()
        average.update()

    return step, module, average


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("changes", [{}, {"gradient_clip": 0.01, "weight_decay": 0.3}, {"gradient_clip": 0.0}])
def test_flat_weights_learn_as_the_usual_ones(optimizer: str, changes: dict):
    """Several steps on equal gradients: weights and averages, to what bfloat16 in Muon lets through."""
    one, first, average = usual(stage(), optimizer, **changes)
    two, second, other = flat(stage(), optimizer, **changes)
    start = {name: p.detach().clone() for name, p in first.named_parameters()}
    for number in range(5):
        one(number)
        two(number)
    apart = dict(second.named_parameters())
    for name, parameter in first.named_parameters():
        moved = (parameter - start[name]).norm()
        assert moved > 0
        assert (parameter - apart[name]).norm() <= 0.03 * moved, name
        assert (average.averages[name] - other.averages[name]).norm() <= 0.03 * moved, name
    if optimizer == "adamw":
        gaps = [(parameter - apart[name]).abs().max() for name, parameter in first.named_parameters()]
        assert max(gaps) < 1e-6


def test_matrices_of_one_shape_are_turned_as_each_alone():
    torch.manual_seed(0)
    matrices = torch.randn(3, 20, 50)
    together = orthogonal(matrices.bfloat16())
    for index in range(3):
        assert torch.equal(orthogonal(matrices[index : index + 1].bfloat16())[0], together[index])
    padded = torch.cat([matrices, torch.zeros(3, 20, 14)], dim=2)
    assert (orthogonal(padded.bfloat16())[:, :, :50] - together).abs().max() < 0.02
    values = torch.linalg.svdvals(together.float())
    assert 0.6 < values.min() < values.max() < 1.3


def test_matrices_share_a_batch_where_zeros_make_them_alike():
    """A batch has one short side; many are not made much longer."""
    wide = [(3, 32, 300), (2, 400, 32), (900, 32, 32), (4, 64, 64), (1, 64, 70)]
    shapes = [Matrices(0, count, rows * columns, rows, columns) for count, rows, columns in wide]
    batches = [[matrices.wide for matrices in batch] for batch in in_batches(shapes)]
    assert batches == [[(64, 70), (64, 64)], [(32, 400), (32, 300)], [(32, 32)]]


def test_all_that_is_trained_lies_in_the_flat_tensors():
    made = stage()
    layouts = {name: (p.shape, p.stride(), p.detach().clone()) for name, p in made.module.named_parameters()}
    own = FlatOptimizer(make_optimizer(made.module, made.config))
    bounds = [own.weights.data_ptr(), own.weights.data_ptr() + own.weights.nbytes]
    for name, parameter in made.module.named_parameters():
        shape, strides, before = layouts[name]
        assert (parameter.shape, parameter.stride()) == (shape, strides), name
        assert torch.equal(parameter, before), name
        assert bounds[0] <= parameter.data_ptr() < bounds[1]
    numbers = sum(p.numel() for p in made.module.parameters())
    own.weights.zero_()
    assert not any(p.any() for p in made.module.parameters())
    assert numbers <= own.weights.numel() < 1.2 * numbers


def test_weights_that_get_no_gradient_are_found_and_stay():
    made = stage()
    made.model.config = replace(made.model.config, text=replace(made.model.config.text, layer="penultimate"))
    made.module.text.config = made.model.config.text
    unused = unused_parameters(made)
    names = {name for name, p in made.module.named_parameters() if any(p is other for other in unused)}
    last = len(made.module.text.model.transformer.resblocks) - 1
    assert names == {n for n, _ in made.module.named_parameters() if f"text.model.transformer.resblocks.{last}." in n}
    own = FlatOptimizer(make_optimizer(made.module, made.config), unused)
    assert all(p.grad is None and p not in own.state for p in unused)
    assert unused_parameters(stage()) == []


# Passes


def test_weights_cast_at_once_give_the_gradients_of_autocast(tmp_path: Path):
    """To the bit, with micro-batches that add up, and with an unlike slope for each weight."""
    made = stage(mixed_precision="bf16", change_weight=3.0)
    training = begun(tmp_path, made)
    optimizer, found = training.inner_optimizer, []
    assert isinstance(training.passes, HalfPasses)
    assert len(training.passes.names) > 150
    usual = Passes(training.module, training.accelerator.backward)
    for passes in (training.passes, usual):
        optimizer.zero_grad()
        training.drawing.begin(3)
        for _ in range(2):
            with training.accelerator.autocast(), torch.no_grad():
                arguments = made.arguments(training.drawing.batch(2), CPU)
            passes.run(arguments, 2)
        found.append((optimizer.gradients.clone(), passes.sums.take(1)))
    assert torch.equal(found[0][0], found[1][0])
    assert all(place.of(found[0][0]).any() for place in optimizer.places.values())
    assert found[0][1].keys() == found[1][1].keys()
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())


def test_a_smaller_micro_batch_weighs_less(tmp_path: Path):
    training, seen = begun(tmp_path, stage(micro_batch=3)), []
    run = training.passes.run
    training.passes.run = lambda arguments, parts: (seen.append((len(arguments[0]), parts)), run(arguments, parts))
    training.step(0, [])
    assert [number for number, _ in seen] == [3, 1]
    assert sum(1 / parts for _, parts in seen) == 1
    assert len({number * parts for number, parts in seen}) == 1


def test_norms_may_have_halved_weights_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As on a card, where those of norms are rounded in any case."""
    monkeypatch.setattr(halves, "LAYERS", (*halves.LAYERS, *KINDS.values()))
    made, found = stage(mixed_precision="bf16"), []
    training = begun(tmp_path, made)
    for passes in (training.passes, Passes(training.module, training.accelerator.backward)):
        training.inner_optimizer.zero_grad()
        training.drawing.begin(3)
        with training.accelerator.autocast(), torch.no_grad():
            arguments = made.arguments(training.drawing.batch(4), CPU)
        passes.run(arguments, 1)
        found.append(training.inner_optimizer.gradients.clone())
    assert 0 < (found[0] - found[1]).norm() < 0.03 * found[1].norm()


def test_weights_are_cast_one_by_one_where_blocks_are_computed_twice(tmp_path: Path):
    for changes in ({"mixed_precision": "bf16", "gradient_checkpointing": True}, {"mixed_precision": "no"}):
        assert type(begun(tmp_path, stage(**changes)).passes) is Passes


# The loop


def trained(made: DiffusionTraining, folder: Path, loop=ResidentTraining, capture=None, resume=False):
    module = run_stage(made, folder, resume, capture, loop=loop)
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights after a run with nothing captured and nothing stopped."""
    return trained(stage(), tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("changes", [{}, {"micro_batch": 3, "change_weight": 3.0, "mixed_precision": "bf16"}])
def test_a_captured_run_gives_the_weights_of_a_plain_one(tmp_path: Path, plain: dict[str, Tensor], changes: dict):
    tapes = Tapes()
    captured = trained(stage(**changes), tmp_path / "captured", capture=tapes)
    assert_equal(trained(stage(**changes), tmp_path / "plain") if changes else plain, captured)
    assert (tapes.warmed_up, tapes.made, tapes.played) == (1, 1, 4)  # the first replay is done again as usual


def test_replayed_steps_draw_other_samples(tmp_path: Path):
    made = stage(learning_rate=1e-12, muon_learning_rate=1e-12, weight_decay=0.0)
    training, losses = begun(tmp_path, made, Tapes()), []
    for step in range(6):
        training.step(step, [])
        losses.append(float(training.passes.sums.take(1)["loss"]))
    assert training.whole.captured
    assert len(set(losses)) == 6


def test_a_captured_run_goes_on_from_its_state_to_the_bit(tmp_path: Path, plain: dict[str, Tensor]):
    """As one that was not captured and never stopped."""
    trained(stage(steps=3), tmp_path / "parts", capture=Tapes())
    assert saved_steps(tmp_path / "parts" / "diffusion") == [3]
    assert_equal(plain, trained(stage(), tmp_path / "parts", capture=Tapes(), resume=True))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_either_loop_goes_on_from_the_others_state(tmp_path: Path, optimizer: str):
    """With moments, averages and counts: the next step on equal gradients is the same. A new weight decay is used."""
    for first, second in ((Training, ResidentTraining), (ResidentTraining, Training)):
        folder = tmp_path / first.__name__
        trained(stage(steps=2, optimizer=optimizer), folder, first)
        made = stage(optimizer=optimizer, weight_decay=0.5)
        other = second(made, make_accelerator(made.config, folder / "diffusion"), folder / "diffusion")
        assert other.resume() == 2
        groups = other.inner_optimizer.param_groups
        if isinstance(other, ResidentTraining):
            groups = [segment.group for segment in other.inner_optimizer.segments]
        assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
        again = first(stage(optimizer=optimizer), other.accelerator, folder / "diffusion")
        assert again.resume() == 2
        mine, theirs = (tensors_of(training.state) for training in (other, again))
        assert mine.keys() == theirs.keys()
        assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
        assert any("exp_avg_sq" in name and tensor.any() for name, tensor in mine.items())


@pytest.mark.parametrize("loop", [Training, ResidentTraining])
def test_a_text_encoder_with_a_block_that_does_not_run_goes_on_from_its_state(tmp_path: Path, loop: type[Training]):
    whole = trained(stage(layer="penultimate", optimizer="adamw"), tmp_path / "whole", loop)
    trained(stage(layer="penultimate", optimizer="adamw", steps=3), tmp_path / "parts", loop)
    resumed = trained(stage(layer="penultimate", optimizer="adamw"), tmp_path / "parts", loop, resume=True)
    assert_equal(whole, resumed)


def tensors_of(state: RunState) -> dict[str, Tensor]:
    made = state._tensors()
    flat_names = {f"module.{name}": tensor for name, tensor in made["module"].items()}
    flat_names |= {f"average.{name}": tensor for name, tensor in made["average"].items()}
    for name, values in made["optimizer"]["state"].items():
        flat_names |= {f"{name}.{key}": torch.as_tensor(value).float() for key, value in values.items()}
    counts = [group["step"] for group in made["optimizer"]["param_groups"] if "step" in group]
    return flat_names | {"counts": torch.tensor(counts)}


@pytest.mark.parametrize(("optimizer", "micro_batch"), [("adamw", 0), ("muon", 2)])
def test_no_step_waits_for_the_device(tmp_path: Path, optimizer: str, micro_batch: int):
    """Drawing the samples included. Nothing is captured here, so that waits would be seen in each step."""
    precision = "bf16" if micro_batch else "no"
    weights = {"change_weight": 3.0, "detail_weight": 1.0, "mixed_precision": precision}
    made = stage(coverage=True, optimizer=optimizer, micro_batch=micro_batch, **weights)
    training = begun(tmp_path, made)
    waits = DeviceWaits(made.model, training.module, resident_tensors(training))
    with waits:
        for step in range(3):
            training.step(step, [])
    assert waits.where == []


def test_a_step_that_loses_its_numbers_is_found(tmp_path: Path):
    """The run stops near it, names it, and keeps the last good state."""
    made = stage(save_minutes=0.0)
    before = made.arguments

    def spoiled(batch, device):
        arguments = before(batch, device)
        hit = (training_step() == 2).float()
        return (arguments[0] / (1 - hit), *arguments[1:])

    seen = {}

    class Watched(ResidentTraining):
        def _set(self, step: int) -> None:
            super()._set(step)
            seen["number"] = self.number

    def training_step() -> Tensor:
        return seen["number"]

    made.arguments = spoiled  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"the loss of step 3 is not a number.*state-00000002"):
        run_stage(made, tmp_path, False, Tapes(), loop=Watched)
    assert saved_steps(tmp_path / "diffusion") == [2]


class Wrong(Tapes):
    """Replays something else."""

    def capture(self, work, generators=()):
        replay = super().capture(work, generators)
        return lambda: [replay(), generators[0].manual_seed(1), replay()]


@pytest.mark.parametrize(
    ("capture", "reason"),
    [
        (Tapes(refuses="operation not permitted\nmore"), "operation not permitted"),
        (Wrong(), "differently from a usual one"),
    ],
)
def test_what_cannot_be_captured_is_done_as_usual(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plain: dict[str, Tensor], capture: Tapes, reason: str
):
    capsys.readouterr()
    assert_equal(plain, trained(stage(), tmp_path / "refused", capture=capture))
    said = [line for line in capsys.readouterr().out.splitlines() if "captured" in line]
    assert len(said) == 1
    assert reason in said[0]


def test_one_process_that_torchrun_started_trains_as_usual(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Accelerate wraps its module as if there were several."""
    made = stage()
    monkeypatch.setattr(PartialState(), "distributed_type", "MULTI_GPU")
    assert fitting_loop(made.run, made.clips) is Training
    assert "the run was started for several processes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rollout_share": 0.5}, "rollout_share"),
        ({"optimizer": "adamw8bit"}, "adamw8bit"),
        ({"mixed_precision": "fp16"}, "fp16"),
        ({"ema_device": "cpu"}, "ema_device"),
    ],
)
def test_where_it_cannot_be_the_usual_loop_goes_on_with_one_line(
    capsys: pytest.CaptureFixture[str], changes: dict, reason: str
):
    made = stage()
    config = replace(made.run, diffusion=replace(STAGE, **changes))
    assert fitting_loop(config, made.clips) is Training
    said = capsys.readouterr().out
    assert len(said.splitlines()) == 1
    assert reason in said
    assert fitting_loop(made.run, made.clips) is ResidentTraining
    assert fitting_loop(replace(made.run, diffusion=replace(STAGE, resident=False)), made.clips) is Training
    assert capsys.readouterr().out == ""
