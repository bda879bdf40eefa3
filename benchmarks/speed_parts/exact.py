"""What is shared and kept, against the formulas: the same latents."""

from typing import Any

import torch

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.method.frames import AnchorPolicy
from artv_core.method.generate import GenerateOptions, generate_frames
from artv_core.method.text_track import TextSegment, TextTrack
from tests.naive import naive_frames

PROMPTS = ("a large red circle moving right on a blue background", "a small white star moving up on a black background")


def measure(quick: bool) -> dict[str, Any]:
    """Largest difference over 16 frames and two prompts, relative to the largest latent."""
    found = {str(dtype).removeprefix("torch."): difference(dtype, quick) for dtype in (torch.float64, torch.float32)}
    name = "exactness, 16 frames of tiny: largest relative difference in float64"
    return {"largest relative difference": found, "bars": {name: found["float64"]}}


def difference(dtype: torch.dtype, quick: bool) -> float:
    """Four branches, the paper's sampler, four steps."""
    model = load_checkpoint(resolve_checkpoint("tiny")).to(dtype)
    options = GenerateOptions(
        num_frames=4 if quick else 16,
        steps=4,
        sampler="dpmpp_2s_ancestral",
        seed=1,
        guidance_references=1.1,
        guidance_anchor=1.2,
        guidance_text=1.5,
    )
    text = TextTrack([TextSegment(8 * k, model.encode_text([prompt])[0]) for k, prompt in enumerate(PROMPTS)])
    made = [frame.latent for frame in generate_frames(model, text, options, anchor=AnchorPolicy("first"))]
    ours, plain = torch.stack(made).double(), torch.stack(list(naive_frames(model, text, options))).double()
    return ((ours - plain).abs().max() / plain.abs().max()).item()
