"""Whether frame 2,000 takes longer than frame 1."""

import time
from typing import Any

import numpy as np
import torch

from artv_core.method.generate import GenerateOptions
from artv_core.run.pipeline import Pipeline

BLOCKS = 20


def measure(quick: bool) -> dict[str, Any]:
    """Processor time of each frame, two steps each, in blocks; a line through their medians, and how sure its slope is.

    "Within noise" is a rise of at most two standard errors.
    """
    torch.set_num_threads(1)
    pipeline, count = Pipeline.from_checkpoint("tiny"), 200 if quick else 2000
    options = GenerateOptions(num_frames=count + 100, steps=2, seed=1)
    times, last = [], time.process_time()
    for _ in pipeline.frames("a large red circle moving right on a blue background", options):
        now = time.process_time()
        times.append(now - last)
        last = now
    blocks = np.median(np.array(times[100:]).reshape(BLOCKS, -1), axis=1)  # the first hundred warm up
    slope, error = line(blocks)
    return {
        "frames": count,
        "seconds per frame": [round(float(block), 5) for block in blocks],
        "rise over all frames, share": slope * BLOCKS / float(blocks.mean()),
        "bars": {"2,000 frames: rise of the time per frame over its standard error": slope / error},
    }


def line(values: np.ndarray) -> tuple[float, float]:
    """Slope of the straight line through them by least squares, and its standard error."""
    x = np.arange(len(values)) - (len(values) - 1) / 2
    slope = float((x * values).sum() / (x**2).sum())
    rest = values - values.mean() - slope * x
    return slope, float(np.sqrt((rest**2).sum() / (len(values) - 2) / (x**2).sum()))
