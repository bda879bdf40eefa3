"""Measures the making of one video, in a separate process so that its memory use can be told apart."""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import load_checkpoint, resolve_checkpoint
from ..config import preset
from ..method.options import GenerateOptions
from ..method.text_track import TextSegment, TextTrack
from ..models.artv import ARTV
from ..run.pipeline import DecodedFrame, Pipeline, make_pipeline
from .child import ignore_ctrl_c
from .variants import VARIANTS

WARM_UP_FRAMES = 3


@dataclass(frozen=True)
class Case:
    """What to measure. `model` is a checkpoint (path or shipped name) or, as "preset:NAME", an untrained one."""

    model: str
    variant: str
    options: GenerateOptions
    device: str = "cpu"
    dtype: str = "float32"
    base: Path | None = None


@dataclass(frozen=True)
class Row:
    """The result of a measurement. `warm_up`: seconds of the very first frames, which may include compiling.
    `first_frame`: seconds until the first frame is an image in main memory, after warming up. `per_frame`: seconds of
    each later frame. `peak_mb`: the largest memory use, of the GPU or, on a CPU, of the whole process. `note` says what
    was estimated and not measured."""

    name: str
    size: str
    warm_up: float
    first_frame: float
    per_frame: float
    peak_mb: float
    note: str = ""


def measured(run: Callable[[Any], Row], case: Any) -> Row:
    """The result of `run(case)` in a fresh process, which ends with Ctrl-C. Raises the errors of `run`, and ValueError
    if that process dies."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"), initializer=ignore_ctrl_c) as pool:
        try:
            return pool.submit(run, case).result()
        except KeyboardInterrupt:
            for child in active_children():
                child.terminate()
            raise
        except BrokenProcessPool:
            raise ValueError(
                "the process that measures was killed, perhaps because memory ran out; try a smaller size"
            ) from None


def measure_case(case: Case) -> Row:
    """Make the video of a case twice: a few frames to warm up, then all of them."""
    pipeline, variant = _pipeline(case), VARIANTS[case.variant]
    options = replace(case.options, **dict(variant.options)).resolved(pipeline.model.config)
    return measure_video(case.variant, pipeline, options, replace(options, num_frames=WARM_UP_FRAMES))


def measure_video(name: str, pipeline: Pipeline, options: GenerateOptions, warm_up: GenerateOptions) -> Row:
    """Make a video of any prompt, after another of at most the same length that warms up."""
    text, started = _any_text(pipeline.model), time.perf_counter()
    frames = min(warm_up.num_frames, options.num_frames)
    times_of_frames(pipeline.frames(text, replace(warm_up, num_frames=frames)))
    warmed_up = time.perf_counter() - started
    if pipeline.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(pipeline.device)
    first, last = times_of_frames(pipeline.frames(text, options))
    later, size = max(1, options.num_frames - 1), f"{options.width}x{options.height}"
    return Row(name, size, warmed_up, first, (last - first) / later, peak_megabytes(pipeline.device))


def peak_megabytes(device: torch.device) -> float:
    """The largest memory use in MB, of a GPU or, on the CPU, of this process (unknown on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        return float("nan")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def _pipeline(case: Case) -> Pipeline:
    device, dtype = torch.device(case.device), getattr(torch, case.dtype)
    variant = VARIANTS[case.variant]
    if case.model.startswith("preset:"):
        torch.manual_seed(0)
        with torch.device(device):
            model = ARTV(preset(case.model.removeprefix("preset:")), text=False).to(dtype).eval()
    else:
        model = load_checkpoint(resolve_checkpoint(case.model), base=case.base, device=device, dtype=dtype)
    model.requires_grad_(False)
    return make_pipeline(model, compiled=variant.compiled, fp8=variant.fp8, graph=variant.graph)


def _any_text(model: ARTV) -> TextTrack:
    context = torch.randn(model.null_context.shape, generator=torch.Generator().manual_seed(0))
    return TextTrack([TextSegment(0, context.to(model.null_context))])


def times_of_frames(frames: Iterator[DecodedFrame]) -> tuple[float, float]:
    """Seconds until the first frame, and until the last frame, is an image in main memory."""
    started, times = time.perf_counter(), []
    for frame in frames:
        _to_memory(frame.image)
        times.append(time.perf_counter() - started)
    return times[0], times[-1]


def _to_memory(image: Tensor) -> Tensor:
    return (image * 255).round().to(torch.uint8).cpu()
