"""What each shortcut saves, and what it costs: the shipped model, on held-out prompts."""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import repeat
from multiprocessing import get_context
from typing import Any

import torch
from decisions import videos_measured

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.evaluation.work import video_work
from artv_core.method.generate import GenerateOptions
from artv_core.models.artv import ARTV
from artv_core.speed.fp8_weights import store_fp8

RECOMMENDED: dict[str, Any] = {"sampler": "dpmpp_2m", "steps": 12}
GUIDED = RECOMMENDED | {"guidance_text": 2.0}
TWICE = {"sampler": "dpmpp_2s_ancestral", "steps": 12}

VARIANTS: dict[str, dict[str, Any]] = {
    "recommended": RECOMMENDED,
    "reuse 2": RECOMMENDED | {"reuse_every": 2},
    "reuse 2, 2 blocks": RECOMMENDED | {"reuse_every": 2, "reuse_blocks": 2},
    "reuse 3": RECOMMENDED | {"reuse_every": 3},
    "fp8": RECOMMENDED,
    "text guidance 2": GUIDED,
    "text guidance 2 at 0.3-1": GUIDED | {"guidance_interval": (0.3, 1.0)},
    "text guidance 2 at 0.6-1": GUIDED | {"guidance_interval": (0.6, 1.0)},
    "dpmpp_2s_ancestral, 12 steps": TWICE,
    "dpmpp_2s_ancestral, 12 steps, reuse 2": TWICE | {"reuse_every": 2},
}


def measure(quick: bool) -> dict[str, Any]:
    """For each way the rows of the quality table that videos from text can show, and its work beside the recommended
    way's."""
    prompts, frames = (4, 16) if quick else (32, 64)
    found: dict[str, dict[str, Any]] = {}
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for name, figures in pool.map(one_way, VARIANTS, repeat(prompts), repeat(frames)):
            found[name] = figures
            print(f"  {name}: {figures}", flush=True)
    return {"prompts": prompts, "frames": frames, "variants": found, "bars": {}}


def one_way(name: str, prompts: int, frames: int) -> tuple[str, dict[str, Any]]:
    """Its name and figures. One thread, since several ways are measured at once."""
    model, options = _model(fp8=name == "fp8"), VARIANTS[name]
    work = _work(model, options) / _work(model, RECOMMENDED)
    return name, {"work": work} | videos_measured(model, prompts, frames, options)


def _model(fp8: bool) -> ARTV:
    model = load_checkpoint(resolve_checkpoint("tiny"))
    if fp8:
        for network in filter(None, (model.noise, model.mask)):
            store_fp8(network)
    return model


def _work(model: ARTV, options: dict[str, Any]) -> float:
    """FLOPs of a frame in the midst of a video."""
    return video_work(model.config, replace(GenerateOptions(num_frames=16), **options))[1].flops
