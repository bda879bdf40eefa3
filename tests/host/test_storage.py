"""The host decides in what weights are kept and computed; each choice needs a server of its own."""

import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from artv_core.comfyui import PACK, Host, Server
from artv_core.generate import GenerateOptions
from artv_core.pipeline import Pipeline

from .conftest import save_random_model
from .graphs import STEPS, text_to_video

PROMPT = "a red circle moving right"


@pytest.mark.parametrize(
    ("argument", "tolerance"),
    [("--fp16-unet", 1e-4), ("--bf16-unet", 0.3), ("--fp8_e4m3fn-unet", 2.0)],
    ids=["fp16", "bf16", "fp8"],
)
def test_weights_stored_smaller(host: Host, tmp_path: Path, argument: str, tolerance: float) -> None:
    """The file is fp16, so fp16 storage loses nothing; the CPU computes in float32 in all cases."""
    if host.missing():
        pytest.skip(f"{host.python} lacks what {host.root} requires: {', '.join(host.missing())}")
    base = tmp_path / "base"
    server = Server(host, base, arguments=(argument,))
    checkpoint = base / "models" / "artv" / "test.safetensors"
    save_random_model(checkpoint)
    with server:
        result = server.run(text_to_video(PROMPT))
        assert result.status == "success", result.message
    made = load_file(next((base / "output" / "latents").glob("*.latent")))["latent_tensor"]
    options = GenerateOptions(num_frames=3, seed=7, steps=STEPS)
    expected = torch.cat([frame.latent for frame in Pipeline.from_checkpoint(checkpoint).frames(PROMPT, options)])
    assert torch.isfinite(made).all()
    assert (made - expected).abs().max() < tolerance


def test_results_are_equal_when_hardly_any_weight_is_loaded(host: Host, tmp_path: Path) -> None:
    """With and without a patch such as a LoRA's; `partial_load.py` says how."""
    if host.missing():
        pytest.skip(f"{host.python} lacks what {host.root} requires: {', '.join(host.missing())}")
    folder = tmp_path / "models" / "artv"
    folder.mkdir(parents=True)
    save_random_model(folder / "test.safetensors")
    script = Path(__file__).parent / "partial_load.py"
    command = [host.python, str(script), str(PACK), str(tmp_path), "test.safetensors"]
    ran = subprocess.run(command, cwd=host.root, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert [float(line) < 1e-4 for line in ran.stdout.split()[-2:]] == [True, True], ran.stdout
