"""How fast this computer makes frames, tried when a video begins: with all threads of PyTorch, and with one. Not in the
paper."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from ..method.generate import VideoRequest, generate_frames
from ..method.options import GenerateOptions
from ..run.pipeline import Pipeline

FEWEST_STEPS = 2
"""Fewer are not chosen by themselves: the pictures suffer."""

ROOM = 0.55
"""The share of the time that a frame is shown in which it must be made. The rest is for frames that take longer: the
trial sees the fastest of a few, and in five minutes they take a fifth more. With 0.65, 1 of 2,404 frames was late."""

ONE_IS_ENOUGH = 1.2
"""One thread is taken if a frame takes at most this much longer with it. Threads that wait for each other lose many
times that as soon as another program, such as the browser, needs a core."""

_FRAMES, _SECONDS, _HOPELESS_SECONDS = 8, 1.0, 2.0


@dataclass(frozen=True)
class Trial:
    """The number of PyTorch's threads to use, and how many seconds a frame of `steps` steps takes with them."""

    threads: int
    steps: int
    seconds: float

    def fitting_steps(self, fps: float, usual: int) -> int:
        """As many steps as can be made in real time, at least `FEWEST_STEPS` and at most `usual`."""
        return max(min(FEWEST_STEPS, usual), min(usual, int(self.steps * ROOM / fps / self.seconds)))

    def in_words(self, fps: float) -> str:
        """What is to be said of `fitting_steps`."""
        rate = float(f"{1 / self.seconds:.2g}")
        if rate >= fps:
            return "as many as this computer makes in real time"
        return f"with which this computer makes {rate:g} frames a second; the video has {fps:g}"


def tried(pipeline: Pipeline, prompt: str, options: GenerateOptions) -> Trial:
    """Make a few frames with few steps, as a session makes them. `options` must be resolved."""
    steps = min(FEWEST_STEPS, options.steps or FEWEST_STEPS)
    request = VideoRequest(
        pipeline.encode_prompts(prompt),
        replace(options, num_frames=_FRAMES, steps=steps, first_frame_steps=0),
        run_networks=pipeline.run_networks,
    )
    every = torch.get_num_threads()
    together = _fastest(pipeline, request, every)
    if every == 1 or pipeline.device.type != "cpu" or together > _HOPELESS_SECONDS:
        return Trial(every, steps, together)
    alone = _fastest(pipeline, request, 1)
    return Trial(1, steps, alone) if alone <= ONE_IS_ENOUGH * together else Trial(every, steps, together)


def decodes_beside(pipeline: Pipeline) -> bool:
    """Whether a frame is decoded while the next one is made: on a CPU, if PyTorch leaves a core for that."""
    return pipeline.device.type == "cpu" and torch.get_num_threads() == 1


@contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    """Threads that are started meanwhile, and this one, compute with this number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fastest(pipeline: Pipeline, request: VideoRequest, threads: int) -> float:
    """Seconds of a frame, in a thread like that of a session: OpenMP's threads sleep and wake for each operation there,
    because the main thread has some of its own."""
    with threads_of_torch(threads), ThreadPoolExecutor(1) as pool:
        return min(pool.submit(lambda: list(_seconds(pipeline, request))).result()[1:])


def _seconds(pipeline: Pipeline, request: VideoRequest) -> Iterator[float]:
    beside, times = decodes_beside(pipeline), [time.perf_counter()]
    with torch.inference_mode():
        for frame in generate_frames(pipeline.model, request):
            made = time.perf_counter() - times[-1]
            pipeline.decode(frame)
            times.append(time.perf_counter())
            both = times[-1] - times[-2]
            yield max(made, both - made) if beside else both
            if len(times) > 2 and times[-1] - times[0] > _SECONDS:
                return
