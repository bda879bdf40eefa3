"""Frames of the shipped model on a CPU: as they are made, and as the formulas say it."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.method.generate import GenerateOptions
from artv_core.method.text_track import TextSegment, TextTrack
from artv_core.run.pipeline import Pipeline
from tests.naive import naive_frames

PROMPT = "a large red circle moving right on a blue background"


def measure(quick: bool) -> dict[str, Any]:
    """Processor seconds per frame, image included, in turns in one process, with the recommended settings."""
    torch.set_num_threads(1)
    plain, pipeline = load_checkpoint(resolve_checkpoint("tiny")), Pipeline.from_checkpoint("tiny")
    text = TextTrack([TextSegment(0, plain.encode_text([PROMPT])[0])])
    rounds, frames = (1, 3) if quick else (5, 8)
    options = GenerateOptions(num_frames=frames, seed=1)
    times: dict[str, list[float]] = {"ours": [], "formulas": []}

    def formulas() -> Iterator[Tensor]:
        for latent in naive_frames(plain, text, options):
            yield plain.decode_latents(latent)

    for number in range(rounds + 1):
        ours = seconds(lambda: pipeline.frames(text, options))
        theirs = seconds(torch.no_grad()(formulas))
        if number:  # the first round warms up
            times["ours"].append(ours / frames)
            times["formulas"].append(theirs / frames)
    ratios = [theirs / ours for ours, theirs in zip(times["ours"], times["formulas"], strict=True)]
    return {
        "processor seconds per frame": times,
        "bars": {"tiny on a CPU: frames per second over those of the formulas": sorted(ratios)[len(ratios) // 2]},
    }


def seconds(frames: Callable[[], Iterator[Any]]) -> float:
    """Of the processor, to make them all."""
    started = time.process_time()
    for _ in frames():
        pass
    return time.process_time() - started
