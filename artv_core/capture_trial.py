"""Whether evaluations can be captured where torch's memory comes from cudaMallocAsync, ComfyUI's default.

With that allocator a capture that fails may end the whole process. So a small model is captured once in another
process, which may die of it. Takes some seconds. Not in the paper.
"""

import functools
import subprocess
import sys
from pathlib import Path

import torch

SECONDS = 120.0
CHILD = "import sys; sys.path.insert(0, sys.argv[1]); from artv_core.capture_trial import main; main(sys.argv[2])"


_given_up: list[bool] = []


def give_up() -> None:
    """A capture has failed in this process: try no other."""
    _given_up.append(True)


def survives_capture(device: str) -> bool:
    """Whether a process like this one captures and replays on that device, with the right results. Tried once."""
    return not _given_up and _tried(device)


@functools.cache
def _tried(device: str) -> bool:
    command = [sys.executable, "-c", CHILD, str(Path(__file__).resolve().parents[1]), device]
    try:
        return subprocess.run(command, capture_output=True, timeout=SECONDS, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@torch.inference_mode()
def main(device_name: str) -> None:
    """Runs in the other process. Exits with 1 where frames differ; whatever else goes wrong ends it too."""
    from .captured import Captured, CudaGraphs
    from .config import preset
    from .denoiser import evaluate
    from .generate import GenerateOptions, generate_frames
    from .models.artv import ARTV
    from .text_track import TextSegment, TextTrack

    device = torch.device(device_name)
    torch.manual_seed(0)
    with torch.device(device):
        model = ARTV(preset("tiny"), vae=False, text=False).half().eval()
    text = TextTrack([TextSegment(0, torch.randn(model.null_context.shape))])
    captured = Captured(device, graphs=CudaGraphs(device))
    for side in (64, 96):
        options = GenerateOptions(num_frames=3, height=side, width=side, steps=2, guidance_text=2.0)
        plain, replayed = (
            [frame.latent for frame in generate_frames(model, text, options, evaluate=way)]
            for way in (evaluate, captured)
        )
        if not all(map(torch.equal, plain, replayed)) or not captured.replays:
            raise SystemExit(1)
    captured.reset()
    torch.cuda.synchronize(device)
