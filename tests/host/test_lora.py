"""LoRA files of every kind, name and size, in the host's own reader."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from artv_core.checkpoint import save_checkpoint
from artv_core.commands.comfyui_server import Host

from .conftest import InProcess, checkpoint_in, random_model

BLOCK = "mid_block.attentions.0.transformer_blocks.0"
TEXT = "text_model.encoder.layers.0.mlp.fc1"


def pair(name: str, up: str, down: str, rows: int = 128, columns: int = 128) -> dict[str, Tensor]:
    return {f"{name}{up}": torch.randn(rows, 4), f"{name}{down}": torch.randn(4, columns)}


NAMES = {
    "kohya": pair("lora_unet_" + f"{BLOCK}.attn1.to_out.0".replace(".", "_"), ".lora_up.weight", ".lora_down.weight"),
    "lycoris": pair("lycoris_" + f"{BLOCK}.attn1.to_out.0".replace(".", "_"), ".lora_up.weight", ".lora_down.weight"),
    "older diffusers": pair(f"unet.{BLOCK}.attn1.processor.to_out", "_lora.up.weight", "_lora.down.weight"),
    "diffusers": pair(f"unet.{BLOCK}.attn1.to_out.0", ".lora.up.weight", ".lora.down.weight"),
    "diffusers of PEFT": pair(f"unet.{BLOCK}.attn1.to_q", ".lora_B.weight", ".lora_A.weight"),
    "PEFT": pair(f"base_model.model.{BLOCK}.attn1.to_out.0", ".lora_B.weight", ".lora_A.weight"),
    "PEFT, a projection": pair(f"base_model.model.{BLOCK}.attn2.to_q", ".lora_B.weight", ".lora_A.weight"),
    "PEFT, a pipeline": pair(f"base_model.model.unet.{BLOCK}.attn1.to_v", ".lora_B.weight", ".lora_A.weight"),
}  # fmt: skip
TEXT_NAMES = {
    "kohya": pair("lora_te_" + TEXT.replace(".", "_"), ".lora_up.weight", ".lora_down.weight", 192, 48),
    "diffusers": pair(f"text_encoder.{TEXT}", ".lora.up.weight", ".lora.down.weight", 192, 48),
    "PEFT": pair(f"base_model.model.{TEXT}", ".lora_B.weight", ".lora_A.weight", 192, 48),
}  # fmt: skip


def _named() -> dict[str, dict[str, Tensor]]:
    return NAMES | {f"{name} text": tensors for name, tensors in TEXT_NAMES.items()}


def _unusual() -> dict[str, dict[str, Tensor]]:
    stem = f"base_model.model.{BLOCK}.attn1"
    strange = {f"{stem}.to_q.lora_magnitude_vector": torch.ones(128), f"{stem}.to_q.alpha": torch.tensor(4.0)}
    misfit = pair(f"{stem}.to_k", ".lora_B.weight", ".lora_A.weight", 320, 320)
    lokr = "lora_unet_" + f"{BLOCK}.attn1.to_q".replace(".", "_")
    both = NAMES["kohya"] | TEXT_NAMES["kohya"]
    return {
        "both": both,
        "mixed": pair(f"{stem}.to_q", ".lora_B.weight", ".lora_A.weight") | strange | misfit,
        "large": misfit,
        "other": {"other.lora_up.weight": torch.zeros(2, 2)},
        "half": {f"{stem}.to_q.lora_B.weight": torch.zeros(128, 4)},
        "lokr": {f"{lokr}.lokr_w1": torch.rand(3, 3), f"{lokr}.lokr_w2": torch.rand(5, 5)},
    }


@pytest.fixture(scope="module")
def found(in_process: InProcess, host: Host, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the host and the node make of all files below, in one process: starting one is slow."""
    base = tmp_path_factory.mktemp("lora")
    save_checkpoint(random_model(), checkpoint_in(base), dtype=torch.float32)
    loras = base / "models" / "loras"
    loras.mkdir()
    for name, tensors in (_named() | _unusual()).items():
        save_file(tensors, loras / f"{name}.safetensors")
    return in_process(host, "lora_files", base)


def test_a_file_that_was_replaced_is_read_again(in_process: InProcess, host: Host, tmp_path: Path) -> None:
    assert in_process(host, "replaced_lora", tmp_path)


def test_a_patch_fits_where_the_host_can_apply_it(found: dict) -> None:
    """Of each kind, on a matrix, a kernel and a kernel of one pixel; the host only logs those that it cannot apply."""
    wrong = {name: verdict for name, verdict in found["kinds"].items() if verdict[0] != verdict[1]}
    assert wrong == {}
    verdicts = [fits for fits, _ in found["kinds"].values()]
    assert 25 < sum(verdicts) < len(verdicts) - 40, "some fit and some do not"


def test_every_way_of_naming_weights_is_read(found: dict) -> None:
    reports = found["reports"]
    for name in NAMES:
        assert reports[f"{name}, alone"] == "1 weights changed"
        assert reports[f"{name}, with CLIP"] == "1 weights changed"
    for name in TEXT_NAMES:
        assert reports[f"{name} text, alone"].startswith(f"{name} text.safetensors changes CLIP only; connect a CLIP")
        assert reports[f"{name} text, with CLIP"] == "1 weights changed"


def test_the_report_tells_what_was_not_used(found: dict) -> None:
    reports, stem = found["reports"], f"base_model.model.{BLOCK}.attn1"
    assert reports["both, alone"] == "1 weights changed\n2 keys are for CLIP: connect clip to use them"
    assert reports["both, with CLIP"] == "2 weights changed"
    report = reports["mixed, alone"].splitlines()
    assert report[0] == "1 weights changed"
    assert report[1] == f"1 unknown keys: {stem}.to_q.lora_magnitude_vector"
    assert report[2].startswith("1 that do not fit: noise.diffusion_model.middle_block.1.")
    for name in ("large", "lokr"):
        assert "its 1 patches are of another size, or of a kind that ComfyUI cannot apply" in reports[f"{name}, alone"]
    assert "none of its 1 names is known, such as other.lora_up.weight; accepted are LoRA" in reports["other, alone"]
    assert reports["half, alone"].startswith(f"half.safetensors is incomplete: it has no {stem}.to_q.lora_A.weight")
