"""What a device cannot do is one line."""

import sys
from pathlib import Path

import pytest
import torch

from artv_core import cli
from artv_core.commands import info
from artv_core.speed.compiled import check_compiler
from artv_core.speed.device_limits import check_storage, check_training_precision, is_out_of_memory, lacking_ability
from tests.test_training import SMALL

CPU, MPS, CUDA = torch.device("cpu"), torch.device("mps"), torch.device("cuda")

REFUSALS = [
    NotImplementedError("\"slow_conv2d_cpu\" not implemented for 'Half'"),
    RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with `TORCH_USE_CUDA`"),
    NotImplementedError("The operator 'aten::upsample' is not currently implemented for the MPS device. If you want"),
    TypeError("Trying to convert Float8_e4m3fn to the MPS backend but it does not have support for that dtype."),
    TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."),
    RuntimeError("Found GeForce GTX 1080 which is too old to be supported by the triton GPU compiler"),
]


@pytest.mark.parametrize("error", REFUSALS)
def test_what_only_trying_tells_is_one_line_on_the_command_line(monkeypatch, capsys, error: Exception):
    def run(_: object) -> int:
        raise error

    monkeypatch.setattr(info, "run_info", run)
    assert cli.main(["info"]) == cli.USER_ERROR
    said = capsys.readouterr().err
    assert said.startswith("artv: this device cannot do that (")
    assert said.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), TypeError("a bug")])
def test_other_errors_stay_what_they_are(monkeypatch, error: Exception):
    def run(_: object) -> int:
        raise error

    monkeypatch.setattr(info, "run_info", run)
    with pytest.raises(type(error), match=str(error)):
        cli.main(["info"])
    assert not lacking_ability(error)
    assert not is_out_of_memory(error)


def test_a_precision_that_a_device_lacks_is_refused_by_name(monkeypatch):
    for device in (CPU, MPS):
        with pytest.raises(ValueError, match=f'mixed_precision "fp16" needs a CUDA GPU.*{device.type}'):
            check_training_precision("fp16", device)
        for name in ("no", "bf16"):
            check_training_precision(name, device)
    check_training_precision("fp16", CUDA)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)  # also of cards that emulate it
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.raises(ValueError, match='"bf16" needs a newer GPU'):
        check_training_precision("bf16", CUDA)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    check_training_precision("bf16", CUDA)


def test_old_cards_are_not_compiled_for_and_mps_has_no_small_floats(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", sys)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    with pytest.raises(ValueError, match=r"too old for torch\.compile"):
        check_compiler(CUDA)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    check_compiler(CUDA)
    with pytest.raises(ValueError, match="mps has no 8-bit floats"):
        check_storage(MPS)
    check_storage(CPU)


@pytest.mark.parametrize("stage", ["vae", "diffusion"])
def test_training_in_a_precision_that_a_cpu_lacks_is_one_line_before_any_work(tmp_path: Path, capsys, stage: str):
    (tmp_path / "small.toml").write_text(SMALL)
    command = ["train", "--config", str(tmp_path / "small.toml"), "--output", str(tmp_path / "runs")]
    assert cli.main([*command, "--set", f"{stage}.mixed_precision=fp16"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith('artv train: mixed_precision "fp16" needs a CUDA GPU')
    assert not (tmp_path / "runs").exists()
