"""The captured training step: equal to the plain one to the bit; and no step waits for its device."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from artv_core.data.clips import ClipIndex
from artv_core.data.order import ClipOrder
from artv_core.models import fused
from artv_core.models.artv import ARTV
from artv_core.models.attention import GatedLinear
from artv_core.training import biases
from artv_core.training import passes as passes_module
from artv_core.training.biases import FusedBiasConv2d, FusedBiasLinear
from artv_core.training.config import TrainConfig, read_config
from artv_core.training.diffusion import DiffusionTraining, start_mask
from artv_core.training.halves import HalfCopies
from artv_core.training.loop import Stage, Training, run_stage
from artv_core.training.norms import BFloat16GroupNorm, in_bfloat16, keep_norms_in_bfloat16
from artv_core.training.passes import Capture, CapturedPasses, Passes
from artv_core.training.processes import make_accelerator
from artv_core.training.samples import Batch, Clips
from artv_core.training.vae import VAETraining
from tests.device_waits import DeviceWaits
from tests.tape import Tapes
from tests.test_training_clips import ADAPTER

pytestmark = pytest.mark.usefixtures("uncounted")

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # bits are compared

SHAPES = ((32, 48), (48, 32))
ONE_LEVEL = [
    f"overrides.{network}.unet.{name}"
    for network in ("noise", "mask")
    for name in ("channel_mult=[1]", "attention_levels=[0]")
]
"""What matters here is the same in each level, and most of the time goes by the number of layers."""


class TwoShapes:
    """Twelve clips of noise, images of two shapes."""

    holds_latents, fps = False, 8.0

    def __init__(self) -> None:
        self.index = ClipIndex(
            num_frames=np.full(12, 6, np.int32),
            bucket=(np.arange(12) % 2).astype(np.int16),
            group=np.zeros(12, np.int32),
            buckets=SHAPES,
        )

    def name(self, clip: int) -> str:
        return f"clip {clip}"

    def caption(self, clip: int) -> str:
        return f"a dog {clip}"

    def frames(self, clip: int, positions: Sequence[int]) -> Tensor:
        generator = torch.Generator().manual_seed(clip)
        return torch.rand(6, 3, *SHAPES[clip % 2], generator=generator)[list(positions)]

    def context(self, clip: int) -> None:
        return None


def configured(folder: Path, *changes: str) -> TrainConfig:
    (folder / "adapter.toml").write_text(ADAPTER.format(base="tiny", train='["branches", "mask"]'))
    usual = [
        "diffusion.steps=6",
        "diffusion.evaluate_every=0",
        "diffusion.log_every=1",
        "overrides.size=[32,48]",
        'overrides.vae.kind="taesd"',
        "data.bucket_multiple=16",
    ]
    return read_config(folder / "adapter.toml", [*usual, *ONE_LEVEL, *changes])


def diffusion(config: TrainConfig) -> DiffusionTraining:
    """As `sd21-adapter` on videos, small."""
    torch.manual_seed(0)
    model = ARTV(config.model)
    start_mask(model, config.diffusion)
    source, every = TwoShapes(), np.arange(12)
    order = ClipOrder(source.index, every, config.diffusion.batch_size, config.seed)
    return DiffusionTraining(config, model.train(), Clips(source, order, every, every[:0]))


def autoencoder(config: TrainConfig) -> VAETraining:
    """Frames and crops in turn: two shapes of unlike size."""
    stage = replace(config.vae, batch_size=2, crop=16, crop_share=0.5, still_weight=0.5, log_every=1)
    stage = replace(stage, mixed_precision="bf16", steps=6, optimizer="muon")
    return VAETraining(replace(config, preset="tiny", overrides={"size": (32, 32)}, vae=stage))


def trained(stage: Stage, folder: Path, capture: Capture | None = None, resume: bool = False) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in run_stage(stage, folder, resume, capture).state_dict().items()}


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """The folder and the weights of a run of the networks with nothing captured and nothing stopped."""
    folder = tmp_path_factory.mktemp("plain")
    return folder, trained(diffusion(configured(folder)), folder)


@pytest.mark.parametrize("make", [diffusion, autoencoder])
def test_a_captured_run_gives_the_losses_and_weights_of_a_plain_one(make, tmp_path: Path, plain):
    """To the bit: six steps of two shapes; micro-batches add up."""
    config, tapes = configured(tmp_path), Tapes()
    if make is diffusion:
        place, weights = plain
    else:
        place, weights = tmp_path / "plain", trained(make(config), tmp_path / "plain")
    captured = trained(make(config), tmp_path / "captured", tapes)
    assert_equal(weights, captured)
    assert (tapes.warmed_up, tapes.made) == (2, 2)
    assert tapes.played >= 4
    logs = [logged(folder / make(config).name) for folder in (place, tmp_path / "captured")]
    assert len(logs[0]["loss"]) == 6
    for name in set(logs[0]) - {"samples_per_second", "waiting_for_data", "mfu"}:
        assert logs[0][name] == logs[1][name], name


def logged(folder: Path) -> dict[str, list[float]]:
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {name: [event.value for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_a_captured_run_goes_on_from_its_state(tmp_path: Path, plain):
    """Three steps, then three more in a new process's place, equal six."""
    config, half = configured(tmp_path), configured(tmp_path, "diffusion.steps=3")
    trained(diffusion(half), tmp_path / "parts", Tapes())
    assert_equal(plain[1], trained(diffusion(config), tmp_path / "parts", Tapes(), resume=True))


def test_what_cannot_be_captured_is_done_as_usual_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plain
):
    config, tapes = configured(tmp_path), Tapes(refuses="operation not permitted\nmore")
    capsys.readouterr()
    assert_equal(plain[1], trained(diffusion(config), tmp_path / "refused", tapes))
    said = [line for line in capsys.readouterr().out.splitlines() if "captured" in line]
    assert said == ["training steps cannot be captured as CUDA graphs and run without them: operation not permitted"]
    assert tapes.played == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [([], "the device is cpu, not cuda"), (["diffusion.graph=false"], "graph is false in the configuration")],
)
def test_where_steps_are_not_captured_the_run_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str], reason: str
):
    config = configured(tmp_path, *changes)
    training = begun(diffusion(config), tmp_path)
    assert type(training.passes) is Passes
    assert f"training steps are not captured as CUDA graphs: {reason}" in capsys.readouterr().out


def test_gradients_stay_where_the_graph_writes_them():
    """And those of weights that take no part stay None, so that no optimiser moves these."""
    module = Linear()
    passes = CapturedPasses(module, Tensor.backward, Tapes())
    seen = []
    for value in (1.0, 2.0, 3.0):
        passes.begin()
        passes.run([torch.full((1, 2), value)], 1)
        seen.append((module.used.weight.grad, module.used.weight.grad.tolist()))
    assert [numbers for _, numbers in seen] == [[[1.0, 1.0]], [[2.0, 2.0]], [[3.0, 3.0]]]
    assert seen[0][0] is seen[2][0]
    assert module.unused.weight.grad is None
    assert {name: float(value) for name, value in passes.sums.take(3).items()} == {"loss": 4.0, "twice": 8.0}


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(2, 1, bias=False), nn.Linear(2, 1)
        nn.init.ones_(self.used.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self.used(x).sum()
        return loss, {"twice": 2 * loss.detach()}


# Copies of the weights

HALF = 'diffusion.mixed_precision="bf16"'


def test_copied_weights_give_the_gradients_of_autocast(tmp_path: Path):
    """To the bit, and for the same weights; micro-batches add up. Most of the networks is frozen."""
    stage = diffusion(configured(tmp_path, HALF))
    training, found = begun(stage, tmp_path), []
    copies = HalfCopies(training.plain)
    assert len(copies.names) > 150
    assert {weight.requires_grad for weight in copies.weights} == {True, False}
    for chosen in (None, copies):
        passes = Passes(training.module, training.accelerator.backward, chosen)
        passes.begin()
        for part in (range(2), range(2, 4)):
            with training.accelerator.autocast(), torch.no_grad():
                arguments = stage.arguments(stage.samples.batch(0, part), torch.device("cpu"))
            passes.run(arguments, 2)
        found.append({name: weight.grad for name, weight in training.plain.named_parameters()})
    assert sum(grad is not None for grad in found[0].values()) > 200
    for name, grad in found[0].items():
        assert (grad is None) == (found[1][name] is None), name
        assert grad is None or (grad.dtype == torch.float32 and torch.equal(grad, found[1][name])), name


def test_a_captured_run_with_copied_weights_gives_those_of_a_plain_one(tmp_path: Path, monkeypatch):
    config, made = configured(tmp_path, HALF), []
    made.append(trained(diffusion(config), tmp_path / "plain"))
    monkeypatch.setattr(passes_module, "_may_copy", lambda *_: True)
    tapes = Tapes()
    made.append(trained(diffusion(config), tmp_path / "copied", tapes))
    assert_equal(*made)
    assert tapes.played >= 4


def test_a_pass_that_could_not_be_captured_leaves_no_gradients():
    """What it had come to before the error is not added to the step's own gradients."""

    class FailsHalfway(Repeats):
        def capture(self, work: Callable[[], None], generators: Sequence[torch.Generator] = ()) -> Callable[[], None]:
            module.fails = True
            try:
                work()
            finally:
                module.fails = False
            return work

    torch.manual_seed(0)
    module, found = TwoLayers(), []
    passes = CapturedPasses(module, Tensor.backward, FailsHalfway(), lambda _: None, HalfCopies(module))
    for _ in range(2):
        passes.begin()
        passes.run([torch.ones(1, 4)], 1)
        found.append([weight.grad.clone() for weight in module.parameters()])
    assert all(torch.equal(first, second) and first.any() for first, second in zip(*found, strict=True))


class TwoLayers(nn.Module):
    """A backward pass through it can end with an error between its layers."""

    fails = False

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            between = self.first(x)
            between.register_hook(self._through)
            return self.last(between).float().sum(), {}

    def _through(self, gradient: Tensor) -> None:
        if self.fails:
            raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("changed", "copied"),
    [
        ({}, True),
        ({"mixed_precision": "no"}, False),
        ({"distributed_type": "MULTI_GPU"}, False),
        ({"distributed_type": "FSDP"}, False),
        ({"device": torch.device("cpu")}, False),
    ],
)
def test_weights_are_copied_where_one_process_trains_in_bfloat16_on_a_gpu(changed: dict, copied: bool):
    usual = {"mixed_precision": "bf16", "distributed_type": "NO", "device": torch.device("cuda")}
    module, accelerator = nn.ModuleList([nn.Linear(2, 2)]), SimpleNamespace(**usual | changed)
    assert passes_module._may_copy(accelerator, module) == copied
    module[0].gradient_checkpointing = True
    assert not passes_module._may_copy(accelerator, module)


def test_layers_of_trained_networks_may_run_fused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(fused, "can_fuse_training", lambda device: True)
    stage = diffusion(configured(tmp_path))
    stage.fuse(torch.device("cpu"))
    for network in stage.module.networks:
        for kind in (nn.GroupNorm, nn.LayerNorm, GatedLinear):
            marks = [layer.may_train_fused for layer in network.modules() if isinstance(layer, kind)]
            assert len(marks) > 1
            assert all(marks)


def test_fused_sums_give_the_gradients_of_biases(tmp_path: Path, monkeypatch):
    """And frozen layers stay what they are."""
    monkeypatch.setattr(fused, "can_fuse_training", lambda device: True)
    monkeypatch.setattr(biases, "_applies", lambda layer, x: True)
    stage, found = diffusion(configured(tmp_path, 'diffusion.mixed_precision="no"')), []
    names = list(stage.module.state_dict())
    training = begun(stage, tmp_path)
    for kinds in (set(), {FusedBiasLinear, FusedBiasConv2d}):
        if kinds:
            stage.fuse(torch.device("cpu"))
        layers = {
            name: layer for name, layer in stage.module.named_modules() if type(layer) in {*biases.KINDS.values()}
        }
        assert {type(layer) for layer in layers.values()} == kinds
        assert all(layer.bias.requires_grad for layer in layers.values())
        passes = Passes(training.module, training.accelerator.backward)
        passes.begin()
        passes.run(stage.arguments(stage.samples.batch(0, range(2)), torch.device("cpu")), 1)
        found.append({name: weight.grad for name, weight in training.plain.named_parameters()})
    assert len(layers) > 50
    assert list(stage.module.state_dict()) == names
    for name, grad in found[0].items():
        assert (grad is None) == (found[1][name] is None), name
        assert grad is None or torch.allclose(grad, found[1][name], rtol=1e-4, atol=1e-6), name


# Waits


def begun(stage: Stage, folder: Path, capture: Capture | None = None) -> Training:
    return Training(stage, make_accelerator(stage.config, folder / "run"), folder / "run", capture)


def steps_with_waits(training: Training, model: nn.Module, steps: range) -> DeviceWaits:
    """Steps on batches that lie in pinned memory, as a loader leaves them there for a GPU."""
    config, waits = training.config, DeviceWaits(model, training.module, training.average.averages)
    size = config.micro_batch or config.batch_size
    parts = [range(start, start + size) for start in range(0, config.batch_size, size)]
    for step in steps:
        batch = [training.stage.samples.batch(step, part) for part in parts]
        with waits:
            training.step(step, [pinned(part) for part in batch])
    return waits


class Repeats:
    """Captures nothing: does the work itself again, so that waits in it would be seen."""

    def warm_up(self, work: Callable[[], None]) -> None:
        work()

    def capture(self, work: Callable[[], None], generators: Sequence[torch.Generator] = ()) -> Callable[[], None]:
        return work


def pinned(batch: Batch | tuple[Tensor, ...]) -> Batch | tuple[Tensor, ...]:
    return batch.pin_memory() if isinstance(batch, Batch) else tuple(part.pin_memory() for part in batch)


@pytest.mark.parametrize(
    ("optimizer", "capture", "kind"), [("adamw", None, "kl"), ("muon", None, "taesd"), ("adamw", Repeats(), "taesd")]
)
def test_no_step_of_the_networks_waits_for_the_device(
    tmp_path: Path, optimizer: str, capture: Capture | None, kind: str
):
    """Frames go through the VAE and captions through the text encoder, as with videos that nobody prepared. Once it is
    Stable Diffusion's own VAE, which is much larger than the networks here."""
    stage = diffusion(configured(tmp_path, f"diffusion.optimizer={optimizer}", f'overrides.vae.kind="{kind}"'))
    waits = steps_with_waits(begun(stage, tmp_path, capture), stage.model, range(4))
    assert waits.where == []


@pytest.mark.parametrize("capture", [None, Repeats()])
def test_no_step_of_the_autoencoder_waits_for_the_device(tmp_path: Path, capture: Capture | None):
    stage = autoencoder(configured(tmp_path))
    waits = steps_with_waits(begun(stage, tmp_path, capture), stage.module, range(4))
    assert waits.where == []


def test_no_step_waits_where_the_text_encoder_learns(tmp_path: Path):
    stage = diffusion(configured(tmp_path, 'diffusion.train=["unet", "branches", "mask", "text"]'))
    waits = steps_with_waits(begun(stage, tmp_path), stage.model, range(2))
    assert waits.where == []


def test_a_wait_in_a_step_would_be_found(tmp_path: Path):
    class Curious(DiffusionTraining):
        def arguments(self, batch: Batch, device: torch.device) -> tuple[Tensor, ...]:
            arguments = super().arguments(batch, device)
            self.seen = arguments[0].sum().item()
            return arguments

    stage = diffusion(configured(tmp_path))
    stage.__class__ = Curious
    waits = steps_with_waits(begun(stage, tmp_path), stage.model, range(1))
    assert waits.count == 2  # two micro-batches
    assert {line.split(":")[0] for line in waits.where} == {"tests/test_training_graphs.py"}


def test_only_what_is_logged_is_read(tmp_path: Path):
    stage = diffusion(configured(tmp_path))
    training = begun(stage, tmp_path)
    steps_with_waits(training, stage.model, range(1))
    with DeviceWaits(training.module, training.passes.sums.totals) as waits:
        training._log(0, 1)
    assert waits.count == 1
    assert waits.where[0].endswith("tolist")


def test_logged_are_means_over_the_steps_since_the_last_time(tmp_path: Path):
    each, third = (
        configured(tmp_path, f"diffusion.log_every={every}", "diffusion.steps=5", "diffusion.ema_decay=0.0")
        for every in (1, 3)
    )
    for name, config in (("each", each), ("third", third)):
        run_stage(diffusion(config), tmp_path / name, resume=False)
    losses, means = (logged(tmp_path / name / "diffusion")["loss"] for name in ("each", "third"))
    assert means == pytest.approx([losses[0], sum(losses[1:4]) / 3])


# Norms


@pytest.mark.parametrize("norm", [nn.GroupNorm(4, 16), nn.LayerNorm(8)])
def test_a_norm_in_bfloat16_is_as_exact_as_bfloat16(norm: nn.GroupNorm | nn.LayerNorm):
    torch.manual_seed(0)
    nn.init.normal_(norm.weight, 1.0, 0.3)
    nn.init.normal_(norm.bias)
    x = (3 * torch.randn(2, 16, 8, 8) + 20).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = in_bfloat16(norm, x)
    exact = norm.double()(x.double())
    norm.float()
    assert made.dtype == torch.bfloat16
    assert (made - exact).abs().max() <= 0.012 * exact.abs().max()
    made.sum().backward()
    assert norm.weight.grad.dtype == torch.float32


def test_networks_in_training_have_such_norms_and_the_same_weights(tmp_path: Path):
    config = configured(tmp_path)
    names = set(ARTV(config.model).state_dict())
    model = diffusion(config).model
    kinds = {type(layer) for network in (model.noise, model.mask) for layer in network.modules()}
    assert not kinds & {nn.GroupNorm, nn.LayerNorm}
    assert set(model.state_dict()) == names
    keep_norms_in_bfloat16(model.noise, False)
    assert BFloat16GroupNorm not in {type(layer) for layer in model.noise.modules()}


def test_on_a_cpu_such_norms_change_nothing():
    torch.manual_seed(0)
    norm, x = nn.GroupNorm(4, 16), torch.randn(2, 16, 8, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = norm(x)
        keep_norms_in_bfloat16(norm)
        assert torch.equal(norm(x), before)
