"""`train.py --minutes`: every stage stops cleanly when the time is over, says how to go on, and goes on from there."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from artv_core import cli
from artv_core.checkpoint import load_checkpoint
from artv_core.models.taesd import TAESD
from artv_core.training import synthetic_clips
from artv_core.training.config import TrainConfig, read_config
from artv_core.training.run import run
from artv_core.training.state import saved_steps
from artv_core.training.stopping import Course, TimeLimit

pytestmark = pytest.mark.usefixtures("uncounted")

ROOT = Path(__file__).parent.parent
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # bits are compared

TEXT = """
name = "timed"
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
clips = 5
frames = 3
batch_size = 2
[vae]
steps = 2
batch_size = 2
[decoder]
steps = 0
[diffusion]
steps = 2
batch_size = 2
warmup_steps = 1
sheet_rows = 1
sheet_columns = 2
sheet_steps = 1
optimizer = "muon"
"""


class Reads(TimeLimit):
    """Is over from the given number of times on that somebody asks for the time left, so that tests need no clock."""

    def __init__(self, times: int) -> None:
        super().__init__(60.0)
        self.times = times

    def left(self) -> float:
        self.times -= 1
        return 3600.0 if self.times >= 0 else -1.0


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    (tmp_path / "timed.toml").write_text(TEXT)
    return read_config(tmp_path / "timed.toml", ["diffusion.resident=true"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without a limit."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "timed.toml").write_text(TEXT)
    run(read_config(folder / "timed.toml", ["diffusion.resident=true"]), str(folder))
    return folder / "timed"


def test_a_run_in_many_short_calls_is_the_run_in_one(config: TrainConfig, tmp_path: Path, whole: Path, capsys):
    """They stop after a step of the autoencoder, after some clips, and after a step of the networks."""
    for calls, (times, where) in enumerate([(1, "vae"), (5, "latents"), (6, "diffusion")]):
        with pytest.raises(SystemExit) as stop:
            run(config, str(tmp_path), resume=calls > 0, limit=Reads(times))
        assert stop.value.code == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if "time is up" in line]
        assert len(lines) == 1
        assert lines[0].startswith(f"{where}: time is up, stopped after ")
        assert lines[0].endswith("the same command with --resume continues from here")
    run(config, str(tmp_path), resume=True, limit=Reads(100))
    for name in ("vae", "latents", "diffusion", "timed"):
        parts, once = load_file(tmp_path / "timed" / f"{name}.safetensors"), load_file(whole / f"{name}.safetensors")
        assert parts.keys() == once.keys()
        assert [key for key in once if not torch.equal(parts[key], once[key])] == [], name
    assert not list((tmp_path / "timed").glob("latents-unfinished*"))


def stopped(config: TrainConfig, folder: Path, whole: Path, changes: list[str], stages: list[str]) -> Path:
    """The stage diffusion of the whole run's clips, stopped after its second step of four."""
    (folder / "timed").mkdir()
    for name in ("vae", "latents"):
        (folder / "timed" / f"{name}.safetensors").write_bytes((whole / f"{name}.safetensors").read_bytes())
    with pytest.raises(SystemExit) as stop:
        run(read_config(folder / "timed.toml", changes), str(folder), stages, limit=Reads(2))
    assert stop.value.code == 0
    assert saved_steps(folder / "timed" / "diffusion") == [2]
    return folder / "timed"


@pytest.mark.parametrize("resident", ["true", "false"])
def test_a_stopped_run_leaves_a_model_to_look_at(
    config: TrainConfig, tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str], resident: str
):
    """The averaged weights so far; name, metadata and a line say that they are not finished. And a sheet."""
    changes = [f"diffusion.resident={resident}", "diffusion.ema_decay=0.5", "diffusion.steps=4"]
    folder = stopped(config, tmp_path, whole, changes, ["diffusion", "export"])
    path = folder / "timed-unfinished.safetensors"
    assert not (folder / "timed.safetensors").exists()
    assert not (folder / "diffusion.safetensors").exists()
    out = capsys.readouterr().out
    assert "the averaged weights so far, after step 2 of 4" in out
    assert list((folder / "diffusion").glob("sheet-000002.png"))
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["training"])["unfinished"] == "after step 2 of 4"
    model, finished = load_checkpoint(path), load_checkpoint(whole / "timed.safetensors")
    assert model.state_dict().keys() == finished.state_dict().keys()
    out_weight = model.noise.diffusion_model.out[2].weight
    assert out_weight.any()
    assert not torch.equal(out_weight, finished.noise.diffusion_model.out[2].weight)


def test_without_the_stage_export_none_is_written(config: TrainConfig, tmp_path: Path, whole: Path):
    folder = stopped(config, tmp_path, whole, ["diffusion.resident=true", "diffusion.steps=4"], ["diffusion"])
    assert not list(folder.glob("timed*.safetensors"))


def test_latents_of_another_run_are_not_gone_on_from(config: TrainConfig, tmp_path: Path, whole: Path):
    (tmp_path / "timed").mkdir()
    (tmp_path / "timed" / "vae.safetensors").write_bytes((whole / "vae.safetensors").read_bytes())
    with pytest.raises(SystemExit):
        run(config, str(tmp_path), ["latents"], limit=Reads(2))
    partial = tmp_path / "timed" / "latents-unfinished.safetensors"
    assert load_file(partial)["latents"].shape[0] == 2
    other = read_config(tmp_path / "timed.toml", ["seed=9"])
    run(other, str(tmp_path), ["latents"], resume=True)
    assert not partial.exists()
    made, usual = (load_file(path / "latents.safetensors")["latents"] for path in (tmp_path / "timed", whole))
    assert not any(torch.equal(one, two) for one, two in zip(made, usual, strict=True))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_clips_that_were_encoded_before_a_signal_are_kept(
    config: TrainConfig, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys, number: int
):
    """The first signal comes while clips 0 and 1 are encoded, the second while the last one is."""
    (tmp_path / "timed").mkdir()
    (tmp_path / "timed" / "vae.safetensors").write_bytes((whole / "vae.safetensors").read_bytes())
    encoded, encode = [], synthetic_clips._encode

    def interrupted(config: TrainConfig, vae: TAESD, world: Any, numbers: range, *rest: Any) -> None:
        encode(config, vae, world, numbers, *rest)
        encoded.append(numbers)
        if numbers.start in (0, 4):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(synthetic_clips, "_encode", interrupted)
    for done in (2, 5):
        with pytest.raises(SystemExit) as stop:
            run(config, str(tmp_path), ["latents"], resume=True)
        assert stop.value.code == 0
        assert f"latents: stopped after {done} of 5 clips; the same command" in capsys.readouterr().out
    assert encoded == [range(2), range(2, 4), range(4, 5)]
    made, usual = (load_file(path / "latents.safetensors")["latents"] for path in (tmp_path / "timed", whole))
    assert torch.equal(made, usual)


def test_time_is_kept_for_what_has_to_be_written(monkeypatch: pytest.MonkeyPatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    assert not Course(None, 30).is_over()
    assert not Course(None, 30).is_hurried()
    course = Course(TimeLimit(10.0), sheet_steps=30, state_bytes=600_000_000)

    def step(seconds: float) -> None:
        now[0] += seconds
        course.step_done()

    step(40.0)  # the first one compiles
    assert course.step_seconds() == pytest.approx(20.0)
    for _ in range(20):
        step(1.0)
    now[0] += 4.0
    course.note("state", 4.0)
    step(1.0)
    assert course.step_seconds() == pytest.approx(1.0)
    assert course.sheet_seconds() == pytest.approx(45.0)
    assert course.has_room_for_sheet()
    writing = 20 + 4.0 + 0.75  # leaving and a checkpoint, a state, its weights at the rate of a slow disk
    now[0] = 1600.0 - writing - 45 - 1
    step(-0.5)
    assert not course.is_over()
    assert not course.is_hurried()
    step(1.0)
    assert course.is_over()
    step(1.0)
    assert course.is_hurried()
    course.note("sheet", 200.0)
    assert not course.has_room_for_sheet()  # more than three tenths of the time


def test_a_large_state_is_given_time_before_one_was_written(monkeypatch: pytest.MonkeyPatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    course = Course(TimeLimit(10.0), sheet_steps=1000, state_bytes=12 * 10**9)
    now[0] = 1600.0 - 20 - 60 - 15 - 2
    assert course.is_over()
    now[0] -= 30  # a sheet is counted too
    assert not course.is_over()


@pytest.mark.parametrize(
    ("minutes", "code", "message"),
    [("nan", 2, "accepted are numbers above 0"), ("1e-9", 0, "--resume")],
)
def test_the_command_takes_minutes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], minutes: str, code: int, message: str
):
    config = str(ROOT / "configs" / "tiny.toml")
    assert cli.main(["train", "--config", config, "--output", str(tmp_path), "--minutes", minutes]) == code
    out, err = capsys.readouterr()
    said = err if code else out
    assert message in said
    assert len(said.strip().splitlines()) == 1
