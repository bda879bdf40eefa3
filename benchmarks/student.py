"""A frame in few evaluations: `python benchmarks/student.py [--quick] [--parts NAME ...]`.

table  the quality table of `tiny`: 12 steps; 4, 2 and 1 with 12 for the first frame; and its student `tiny-fast`
speed  seconds per later frame at 64x64, in turns; and frames a second of `artv play --compile`
long   1,000 frames of 4 evaluations: what is left of 16 videos, then memory and time of one
work   floating-point operations of a later frame at the size of SD 2.1, counted, over those of the paper's settings
gpu    frames per second of `sd21` at 512x512 (random weights, one branch); only where it is named

Give it two quiet cores.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import long_video
import quality
import torch
from result_files import ROOT, Figures, Limits, as_bar, parser_of, run_parts
from speed import FOUR, PROMPT, STEPS, Card

from artv_core.bench.measure import times_of_frames
from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.config import preset
from artv_core.method.options import GenerateOptions
from artv_core.run.pipeline import Pipeline
from artv_core.synthetic.quality import Rollout, holding, quality_clips, read_rollout
from artv_core.training.sheets import rollout
from tests.work import video_work

RESULT = ROOT / "benchmarks/results/student.json"
FRAMES = 1000
PLAYED = {"artv play, 2": ["2"], **{f"artv play --compile, {steps}": [steps, "--compile"] for steps in "21"}}
DRIFT = "background drift at frame 63"
ONE_BRANCH = {f"guidance_{name}": 1.0 for name in ("references", "anchor", "text")} | {"first_frame_guidance": 1.0}


def few(steps: int) -> dict[str, Any]:
    """For all frames but the first, which gets 12."""
    return {"steps": steps, "first_frame_steps": 12}


WAYS: dict[str, tuple[str, dict[str, Any]]] = {str(steps): ("tiny", few(steps)) for steps in (12, 4, 2, 1)}
WAYS |= {"2, also for the first frame": ("tiny-fast", {})}
"""By evaluations of a frame: a checkpoint, and options other than the recommended."""

LEFT = {
    "background drift": ("at most", 4.0),
    "sharpness over frame 1, away from 1": ("at most", 0.2),
    "share of videos that lost the object": ("at most", 0.3),
    "share within 30 degrees over the last 16 frames": ("at least", 0.6),
}
LEVEL = {
    f"MB grown from frame {long_video.EARLY} to the end": long_video.MEMORY,
    "seconds per frame, late over early": long_video.TIME,
}
TELLS = "bars that a video of frame 0 alone fails"
LIMITS: Limits = {
    "table": {
        "table of tiny, 4 evaluations: bars missed": ("at most", 0),
        "table of tiny, 4 evaluations: drift at frame 63 above that of 12": ("at most", 0.3),
        "table of tiny, 2 evaluations: bars missed": ("at most", 0),
        "table of tiny, 2 evaluations: drift at frame 63": ("at most", 2.5),
        "table of tiny-fast, 2 evaluations for every frame: bars missed": ("at most", 0),
    },
    "speed": {
        "a later frame of tiny, two CPU cores: 12 evaluations over 4, seconds": ("at least", 2.5),
        "a later frame of tiny, two CPU cores: 12 evaluations over 2, seconds": ("at least", 4),
        "artv play --compile with tiny, two CPU cores: frames per second at 2 evaluations": ("at least", 24),
        "artv play --compile with tiny, two CPU cores: frames per second at 1 evaluation": ("at least", 24),
    },
    "long": {f"1,000 frames of tiny, 4 evaluations: {bar}": limit for bar, limit in (LEFT | LEVEL).items()}
    | {f"1,000 frames of tiny, 4 evaluations: {TELLS}": ("at least", 1)},
    "work": {"SD 2.1's size: work of a later frame, 4 evaluations over the paper's settings": ("at most", 0.03)},
    "gpu": {
        "GPU, sd21 at 512x512, one branch: frames per second at 4 evaluations": ("at least", 12),
        "GPU, sd21 at 512x512, one branch: frames per second at 2 evaluations": ("at least", 20),
    },
}


def main() -> None:
    parts = {"table": table, "speed": speed, "long": long, "work": work, "gpu": gpu}
    run_parts(parser_of(__doc__), RESULT, LIMITS, lambda part, args: parts[part](args.quick), asked_for=("gpu",))


def table(quick: bool) -> Iterator[Figures]:
    """The table of each way, as soon as it is there."""
    clips, frames = quality_clips(2 if quick else 64), 16 if quick else 64
    columns: dict[str, dict[str, float]] = {}
    for name, (checkpoint, options) in list(WAYS.items())[-1 if quick else 0 :]:
        found, _ = quality.measure_model(load_checkpoint(resolve_checkpoint(checkpoint)), clips, frames, 0, options)
        columns[name] = {measure: round(value, 4) for measure, value in found.items()}
        print(f"  {name}: {columns[name]}", flush=True)
        yield {"prompts": len(clips), "columns": columns, "bars": table_bars(columns)}


def table_bars(columns: dict[str, dict[str, float]]) -> Figures:
    def missed(name: str) -> int | None:
        """None where not everything was measured."""
        if not quality.BARS.keys() <= columns.get(name, {}).keys():
            return None
        held = [as_bar(bar, columns[name][bar], *limit)["holds"] for bar, limit in quality.BARS.items()]
        return held.count(False)

    drift = {name: column[DRIFT] for name, column in columns.items() if DRIFT in column}
    more = round(drift["4"] - drift["12"], 4) if {"4", "12"} <= drift.keys() else None
    values = (missed("4"), more, missed("2"), drift.get("2"), missed("2, also for the first frame"))
    return dict(zip(LIMITS["table"], values, strict=True))


def speed(quick: bool) -> Figures:
    """Wall-clock seconds per later frame, image included, in turns in one process; ratios are medians of rounds."""
    from tests.played import rate_of_play  # on a card nothing is played, and what that needs may be missing

    pipelines = {name: Pipeline.from_checkpoint(name) for name in ("tiny", "tiny-fast")}
    rounds, frames = (1, 3) if quick else (7, 25)
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds + 1):
        for name, (checkpoint, options) in WAYS.items():
            chosen = GenerateOptions(num_frames=frames, seed=1, **options)
            first, last = times_of_frames(pipelines[checkpoint].frames(PROMPT, chosen))
            times[name].append((last - first) / (frames - 1))
    kept = {name: values[1:] for name, values in times.items()}  # the first round warms up
    ratios = [median(a / b for a, b in zip(kept["12"], kept[name], strict=True)) for name in ("4", "2")]
    rates = {name: round(1 / median(values), 2) for name, values in kept.items()}
    words = ["--prompt", PROMPT, "--seed", "1", "--first-frame-steps", "12", "--steps"]
    for name, more in PLAYED.items():
        with tempfile.TemporaryDirectory() as folder:
            rates[name] = round(rate_of_play(Path(folder), 30 if quick else 320, *words, *more), 2)
    found = {"threads": torch.get_num_threads(), "frames per second": rates, "seconds per frame": kept}
    return found | {"bars": dict(zip(LIMITS["speed"], [*ratios, *map(rates.get, list(PLAYED)[1:])], strict=True))}


def long(quick: bool) -> Iterator[Figures]:
    """What is left at the last frame, and whether memory and time stay level."""
    count, frames = (2, 20) if quick else (16, FRAMES)
    clips, model = quality_clips(count), load_checkpoint(resolve_checkpoint("tiny"))
    with torch.no_grad():
        options = GenerateOptions(num_frames=frames, batch_size=count, seed=0, **few(4))
        read = read_rollout(rollout(model, [clip.caption for clip in clips], options))
    still = Rollout([[one[0]] * frames for one in read.readings], read.sharpness[:, :1].expand(-1, frames), read.size)
    left, of_still = (what_is_left(holding(videos, clips, frames - 1)) for videos in (read, still))
    tells = sum(not as_bar(bar, of_still[bar], *limit)["holds"] for bar, limit in LEFT.items())
    found: Figures = {"prompts": count, "frames": frames, "bars": named(left | {TELLS: tells})}
    yield found
    if not quick:
        stages = long_video.run_core(frames, few(4))
        turns = long_video.run_turns(frames, long_video.TURNS, few(4))  # so that both are slowed by what else runs
        level = dict(zip(LEVEL, (long_video.grown(stages), turns["wall, late over early"]), strict=True))
        yield found | stages | {"in turns": turns, "bars": found["bars"] | named(level)}


def what_is_left(found: dict[str, float]) -> dict[str, float]:
    """The values of `LEFT`, from those of `holding`."""
    there, drift, sharpness, direction, _ = found.values()
    return dict(zip(LEFT, (drift, abs(1 - sharpness), 1 - there, direction), strict=True))


def named(values: dict[str, float]) -> dict[str, float]:
    return {f"1,000 frames of tiny, 4 evaluations: {bar}": round(value, 4) for bar, value in values.items()}


def work(quick: bool) -> Figures:
    """Of a frame in the midst of a video at 512x512, on the meta device. VAE and text encoder are left out."""
    config, paper = preset("tiny" if quick else "sd21"), GenerateOptions(num_frames=16, height=512, width=512)
    student = replace(paper, steps=4, sampler="euler", **ONE_BRANCH)
    flops = {"the paper's": replace(paper, **STEPS, **FOUR), "4 evaluations": student}
    counted = {name: video_work(config, options)[1].flops for name, options in flops.items()}
    share = counted["4 evaluations"] / counted["the paper's"]
    return {"floating-point operations": counted, "bars": dict.fromkeys(LIMITS["work"], round(share, 5))}


def gpu(quick: bool) -> Figures:
    """Clips of 17 frames, decoding included, captured."""
    card, clips = Card(quick), dict[str, Figures]()
    for steps in (4, 2, 1):
        row = card.clip(card.pipeline(), card.large, 3 if quick else 17, steps=steps, sampler="euler", **ONE_BRANCH)
        clips[str(steps)] = row | {"frames_per_second": 1 / row["per_frame"]}
    rates = [clips[steps]["frames_per_second"] for steps in ("4", "2")]
    return {"device": card.name, "clips": clips, "bars": dict(zip(LIMITS["gpu"], rates, strict=True))}


if __name__ == "__main__":
    main()
