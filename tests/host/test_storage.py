"""The host decides in what weights are kept and computed; each choice needs a process of its own."""

import shutil
from pathlib import Path

import pytest
import torch

from artv_core.checkpoint import save_checkpoint
from artv_core.commands.comfyui_server import Host
from artv_core.method.options import GenerateOptions
from artv_core.run.pipeline import Pipeline
from tests.models import smallest

from .conftest import InProcess, checkpoint_in, is_lazy, makes_lazy_layers, save_random_model
from .graphs import STEPS

LAZY_TOO = (
    "test_weights_stored_smaller",
    "test_results_are_equal_when_hardly_any_weight_is_loaded",
    "test_results_are_equal_when_compiled",
)
PROMPT = "a red circle moving right"


@pytest.mark.parametrize(
    ("option", "dtype", "tolerance"),
    [
        ("fp16_unet", "torch.float16", 1e-4),
        ("bf16_unet", "torch.bfloat16", 0.3),
        ("fp8_e4m3fn_unet", "torch.float8_e4m3fn", 2.0),
    ],
    ids=["fp16", "bf16", "fp8"],
)
def test_weights_stored_smaller(
    in_process: InProcess, host: Host, tmp_path: Path, option: str, dtype: str, tolerance: float
) -> None:
    """The file is fp16, so fp16 storage loses nothing; the CPU computes in float32 in all cases."""
    checkpoint = checkpoint_in(tmp_path)
    save_checkpoint(smallest(), checkpoint)
    assert in_process(host, "stored", tmp_path, **{option: True}) == dtype
    made = torch.load(tmp_path / "stored.pt")
    options = GenerateOptions(num_frames=3, seed=7, steps=STEPS)
    expected = torch.cat([frame.latent for frame in Pipeline.from_checkpoint(checkpoint).frames(PROMPT, options)])
    assert torch.isfinite(made).all()
    assert (made - expected).abs().max() < tolerance


def test_results_are_equal_when_hardly_any_weight_is_loaded(in_process: InProcess, host: Host, tmp_path: Path) -> None:
    """With and without a patch such as a LoRA's."""
    save_random_model(checkpoint_in(tmp_path))
    differences = in_process(host, "partial", tmp_path)
    assert [difference < 1e-4 for difference in differences] == [True, True], differences


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler (g++) to compile with")
def test_results_are_equal_when_compiled(in_process: InProcess, host: Host, tmp_path: Path) -> None:
    """With and without a patch; one graph for the first frame and one for the others, whole with the host's layers.

    Lazy layers make another graph only if tracing them fails, so for them no kernels are compiled; and for the others
    those of the first frame alone. Where a host has lazy layers, the graph of the other frames is traced with them.
    """
    save_checkpoint(smallest(), checkpoint_in(tmp_path))
    checks = {"traced": 2} if is_lazy(host) else {"compiled": 1}
    if not makes_lazy_layers(host):
        checks["traced"] = 2
    for check, graphs in checks.items():
        *differences, found, breaks = in_process(host, check, tmp_path)
        assert [difference < 1e-3 for difference in differences] == [True, True], differences
        assert (found, breaks) == (graphs, 0)
