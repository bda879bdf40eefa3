"""The program that `graph_trial` runs in another process. Not in the paper."""

import torch

from ..config import preset
from ..method.denoiser import run_networks
from ..method.generate import VideoRequest, generate_frames
from ..method.options import GenerateOptions
from ..method.text_track import TextSegment, TextTrack
from ..models.artv import ARTV
from .graphs import Captured, CudaGraphs


@torch.inference_mode()
def main(device_name: str) -> None:
    """Capture and replay a small model. Exits with code 1 if frames differ. Any other failure also ends the process
    with an error code."""
    device = torch.device(device_name)
    torch.manual_seed(0)
    with torch.device(device):
        model = ARTV(preset("tiny"), vae=False, text=False).half().eval()
    text = TextTrack([TextSegment(0, torch.randn(model.null_context.shape))])
    captured = Captured(device, graphs=CudaGraphs(device))
    for side in (64, 96):
        options = GenerateOptions(num_frames=3, height=side, width=side, steps=2, guidance_text=2.0).resolved(
            model.config
        )
        plain, replayed = (
            [frame.latent for frame in generate_frames(model, VideoRequest(text, options, run_networks=way))]
            for way in (run_networks, captured)
        )
        if not all(map(torch.equal, plain, replayed)) or not captured.replays:
            raise SystemExit(1)
    captured.reset()
    torch.cuda.synchronize(device)
