"""Values that are infinite or not a number end a run with one line that names the frame or the weight."""

import math
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from artv_core.checkpoint import load_checkpoint, shipped_checkpoint
from artv_core.cli import main
from artv_core.files.finite import NotFiniteError, is_finite
from artv_core.media import VideoWriter, contact_sheet
from artv_core.method import transfer
from artv_core.method.frames import Frame
from artv_core.method.generate import VideoRequest
from artv_core.method.options import GenerateOptions
from artv_core.method.text_track import TextSegment, TextTrack
from artv_core.run import finite_frames
from artv_core.run.finite_frames import finite_only
from artv_core.run.journal_file import JournalReader
from artv_core.run.journal_list import list_journals
from artv_core.run.pipeline import Pipeline, save_latents
from artv_core.run.recording import Recording, record_frames
from tests.device_waits import DeviceWaits
from tests.models import smallest

QUICK = GenerateOptions(num_frames=6, height=32, width=32, steps=1, sampler="euler", seed=5)
BAD = [math.nan, math.inf, -math.inf]


def frames_until_broken(value: float, recording: Recording | None = None) -> Iterator[Frame]:
    """Six frames; while frame 3 is made, one weight becomes `value`, so that frame 4 is the first to be wrong."""
    model = smallest()
    text = TextTrack([TextSegment(0, model.encode_text(["a fox"])[0])])

    def spoil(index: int, info: object) -> None:
        if index == 3:
            model.noise.diffusion_model.out[2].weight.view(-1)[0] = value

    return record_frames(model, VideoRequest(text, QUICK.resolved(model.config), on_step=spoil), recording)


def take(frames: Iterator[Frame], seen: list[int]) -> None:
    for made in frames:
        seen.append(made.index)


def frame(index: int, *values: float) -> Frame:
    return Frame(index, torch.tensor([*values, 0.0, 0.0])[:2].view(1, 2, 1, 1), None)


@pytest.mark.parametrize("value", BAD)
def test_the_frame_is_named_and_those_before_it_are_given(value: float) -> None:
    seen: list[int] = []
    with pytest.raises(NotFiniteError, match=r"^frame 4 contains values that are infinite or not a number") as caught:
        take(frames_until_broken(value), seen)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert seen == [0, 1, 2, 3]


def test_it_passes_from_one_process_to_another() -> None:
    again = pickle.loads(pickle.dumps(NotFiniteError(7)))
    assert isinstance(again, NotFiniteError)
    assert str(again) == str(NotFiniteError(7))


def test_a_journal_ends_before_it(tmp_path: Path) -> None:
    with pytest.raises(NotFiniteError, match=r"^frame 4 "):
        list(frames_until_broken(math.nan, Recording(tmp_path)))
    (journal,) = list_journals(tmp_path)
    with JournalReader(journal.path) as reader:
        assert [kept.index for kept in reader.frames()] == [0, 1, 2, 3]


def test_given_frames_are_looked_at_too(tmp_path: Path) -> None:
    model = smallest()
    given = torch.zeros(2, 1, 4, 4, 4)
    given[1, 0, 0, 0, 0] = math.inf
    for recording in (None, Recording(tmp_path)):
        frames = Pipeline(model).frames("a fox", QUICK, given=given, recording=recording)
        with pytest.raises(NotFiniteError, match=r"^frame 1 "):
            list(frames)


class Event:
    """Happens when it is asked for the `after`th time, or waited for."""

    def __init__(self, after: int) -> None:
        self.after, self.waited = after, False

    def query(self) -> bool:
        self.after -= 1
        return self.after < 0

    def synchronize(self) -> None:
        self.waited = True


def test_where_a_device_is_behind_the_error_follows_without_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "queues_work", lambda device: True)
    monkeypatch.setattr(finite_frames, "_event", lambda device: Event(after=2))
    on_device = [frame(index, math.nan if index == 1 else 0.5) for index in range(8)]
    seen: list[int] = []
    with DeviceWaits([made.latent for made in on_device]) as waits, pytest.raises(NotFiniteError, match=r"^frame 1 "):
        take(finite_only(on_device), seen)
    assert waits.where == []
    assert 1 < len(seen) < 8


@pytest.mark.parametrize("bad", range(3))
def test_no_run_ends_before_all_flags_are_read(bad: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "queues_work", lambda device: True)
    monkeypatch.setattr(finite_frames, "_event", lambda device: Event(after=100))
    assert len(list(finite_only(frame(index, 0.5) for index in range(3)))) == 3
    with pytest.raises(NotFiniteError, match=rf"^frame {bad} "):
        list(finite_only(frame(index, math.inf if index == bad else 0.5) for index in range(3)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_kind_of_number_is_seen(dtype: torch.dtype) -> None:
    assert is_finite(torch.ones(3, 3, dtype=dtype))
    assert is_finite(torch.empty(0, dtype=dtype))
    for value in BAD:
        for place in range(9):
            tensor = torch.ones(3, 3, dtype=dtype)
            tensor.view(-1)[place] = value
            assert not is_finite(tensor)


# Files


@pytest.mark.parametrize("value", BAD)
def test_no_file_gets_such_a_picture(value: float, tmp_path: Path) -> None:
    images = torch.full((3, 3, 16, 16), 0.5)
    images[2, 1, 3, 4] = value
    with pytest.raises(NotFiniteError, match=r"^frame 2 "):
        write_video(tmp_path / "out.mp4", images)
    with pytest.raises(NotFiniteError, match=r"^frame 2 "):
        contact_sheet([("x", images)], columns=3)
    with pytest.raises(NotFiniteError, match=r"^frame 2 "):
        save_latents(tmp_path / "out.safetensors", list(images[:, None]), 0)
    assert list(tmp_path.iterdir()) == []


def write_video(path: Path, images: Tensor) -> None:
    with VideoWriter(path, 8) as video:
        for image in images:
            video.append(image)


def spoilt(path: Path, key: str, value: float, name: str = "tiny") -> Path:
    with safe_open(shipped_checkpoint(name), framework="pt") as file:
        tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors[key] = tensors[key].clone()
    tensors[key].view(-1)[-1] = value
    save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize("key", ["model.diffusion_model.out.2.weight", "taesd_decoder.1.weight", "null_context"])
@pytest.mark.parametrize("value", BAD)
def test_a_weight_that_is_no_number_is_named(key: str, value: float, tmp_path: Path) -> None:
    path = spoilt(tmp_path / "merge.safetensors", key, value)
    with pytest.raises(ValueError, match=f"{key} contains values that are infinite or not a number") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_so_is_one_that_the_type_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    with safe_open(shipped_checkpoint("tiny"), framework="pt") as file:
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        save_file(tensors | {"mask_model.diffusion_model.out.2.bias": torch.tensor([1e6])}, path, file.metadata())
    load_checkpoint(path)
    with pytest.raises(ValueError, match=r"out\.2\.bias contains .* in torch\.float16"):
        load_checkpoint(path, dtype=torch.float16)


def test_the_command_line_writes_no_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = spoilt(tmp_path / "merge.safetensors", "model.diffusion_model.out.2.weight", math.nan)
    words = ["generate", "a large red circle", "--frames", "2", "--steps", "1", "--checkpoint", str(path)]
    assert main([*words, "-o", str(tmp_path / "out.mp4")]) != 0
    assert "model.diffusion_model.out.2.weight" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float64]
)
def test_numbers_of_every_type_are_looked_at(dtype: torch.dtype):
    good = torch.tensor([-3.0, 0.0, 2.0]).to(dtype)
    assert is_finite(good)
    assert is_finite(good[:0])
    assert not is_finite(torch.tensor([1.0, float("nan")]).to(dtype))
