"""Graphs that benchmarks queue: random ones of all kinds, and how each must end, for `benchmarks/faults.py`, which
queues hundreds of them; and the shipped text to video."""

import json
import random
from collections.abc import Callable
from typing import Any

from artv_core.commands.comfyui_server import PACK, Graph

from .graphs import node, text_to_video, with_video

PROMPT = "a large red circle moving right fast on a blue background"
SHIPPED = "tiny (shipped)"
VIDEO_INPUTS = {"vae": ["loader", 2], "fps": 8.0, "format": "mp4", "upscale": 1}


def shipped(previews: bool = False, **sampler: object) -> Graph:
    """The shipped text to video with `tiny`: the faster the model, the larger the share of everything else."""
    graph = json.loads((PACK / "workflows/api/text_to_video.json").read_text())
    parts = {part["class_type"]: part["inputs"] for part in graph.values()}
    parts["ARTVLoader"]["checkpoint"] = SHIPPED
    parts["ARTVMaskedDiffusionSampler"] |= sampler
    if not previews:
        del parts["ARTVMaskedDiffusionSampler"]["vae"]
    return graph


def streamed(frames: int, **sampler: object) -> Graph:
    """Text to video: streamed while it is made, decoded to a file, and a text about its journal."""
    graph = text_to_video(PROMPT, SHIPPED, **{"frames": frames, "stream": ["stream", 0]} | sampler)
    del graph["save"]
    return graph | {
        "stream": node("ARTVStreamVideo", filename_prefix="stream/test", **VIDEO_INPUTS),
        "video": node("ARTVDecodeVideo", latent=["sample", 0], filename_prefix="video/test", **VIDEO_INPUTS),
        "journal": node("PreviewAny", source=["sample", 3]),
    }


def sampled(dice: random.Random, **settings: Any) -> Graph:
    """A short video of random size, length and seed; its latents are saved."""
    width, height = dice.choice(((0, 0), (64, 64), (48, 64), (96, 64), (96, 96)))
    chosen = {"frames": dice.randint(2, 4), "steps": dice.randint(1, 2), "seed": dice.randrange(2**32)}
    return text_to_video(PROMPT, SHIPPED, **chosen | {"width": width, "height": height} | settings)


def with_journal(dice: random.Random, mode: str = "on", redo: str = "") -> Graph:
    graph = sampled(dice, journal=["journal", 0], seed=dice.randrange(8))
    return graph | {"journal": node("ARTVJournalSettings", mode=mode, start_over=False, redo=redo)}


def with_schedule(dice: random.Random, text: str = '"0": "a red circle", "2": "a blue star"') -> Graph:
    schedule = {"text": text, "pre_text": "", "app_text": "", "blend_frames": 1, "fps": 8.0}
    schedule |= {"clip": ["loader", 1], "num_frames": 0, "segment_frames": 16}
    return sampled(dice, positive=["schedule", 0], frames=4) | {
        "schedule": node("ARTVMultiPromptScheduler", **schedule)
    }


def with_references(dice: random.Random, kind: str = "EmptyLatentImage") -> Graph:
    graph = sampled(dice, references=["latent", 0], width=64, height=64)
    return graph | {"latent": node(kind, width=64, height=64, batch_size=1)}


def slow(dice: random.Random) -> Graph:
    """What takes long enough to be interrupted."""
    graph = sampled(dice, model=["slow", 0], frames=8, steps=10, width=64, height=64)
    graph["loader"]["inputs"]["checkpoint"] = "slow.safetensors"  # a copy, which no other prompt slows down
    return graph | {"slow": node("ARTVTestSlow", model=["loader", 0], seconds=0.2)}


Make = Callable[[random.Random], Graph]
KINDS: dict[str, tuple[float, str, tuple[Make, ...]]] = {
    "valid": (0.6, "success", (
        sampled, with_journal, with_schedule, with_references, lambda dice: sampled(dice, videos=2),
        lambda dice: streamed(dice.randint(2, 4), seed=dice.randrange(2**32)),
        lambda dice: with_video(sampled(dice), upscale=dice.randint(1, 3)),
        lambda dice: sampled(dice, vae=["loader", 2]), lambda dice: sampled(dice, frames=33, steps=1),
    )),
    "to be refused": (0.15, "refused", (
        lambda dice: sampled(dice) | {"odd": node("ARTVNoSuchNode")}, lambda dice: sampled(dice, frames="many"),
        lambda dice: sampled(dice, frames=-3), lambda dice: sampled(dice, model=["loader", 1]),
    )),
    "to be refused or fail": (0.15, "refused or error", (
        lambda dice: with_schedule(dice, '"0": "a red circle", "0": '), lambda dice: sampled(dice, width=60),
        lambda dice: with_references(dice, "EmptySD3LatentImage"), lambda dice: with_journal(dice, redo="in rain"),
    )),
    "to be interrupted": (0.1, "interrupted", (slow,)),
}  # fmt: skip
"""Share of all, how they must end, and how they are made. Hosts differ in what they check before a run."""
