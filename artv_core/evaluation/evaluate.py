"""`artv evaluate`: makes videos if asked to, computes features with the given networks, and prints the scores.

With several processes (`accelerate launch -m artv_core.cli evaluate ...`) all make videos and compute features, and the
main one computes the scores. Finished work is kept, so the same command continues after a stop.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ..checkpoint import resolve_checkpoint
from ..data.sources import Entry
from ..files.file_hash import file_hash
from ..files.partial_file import replacing
from ..files.terminal import say
from ..method.options import GenerateOptions
from ..run.drift import DriftReading, plot_path, write_drift
from ..run.outputs import check_distinct
from ..run.pipeline import Pipeline, pick_device
from .distances import clip_similarity, frechet_distance, inception_score
from .features import (
    READINGS,
    Everyday,
    Reading,
    common_size,
    keep_features,
    kept_features,
    videos_of,
)
from .first_frames import find_first_frames
from .making import check_folder, described, make_videos
from .networks import C3D, I3D, Clip, FeatureNetwork, Inception
from .options import USUAL_FPS, EvaluateOptions
from .prompt_sets import Prompt, read_prompts

if TYPE_CHECKING:
    from accelerate import PartialState

Figures = dict[str, Any]


class Judged(NamedTuple):
    """The scores, and the drift frame by frame of these videos and of the true videos (empty without any)."""

    figures: Figures
    drift: list[DriftReading]
    true_drift: list[DriftReading]


def evaluate_videos(options: EvaluateOptions, load_pipeline: Callable[[Any], Pipeline]) -> int:
    """Run the command; returns the exit code. Raises ValueError if something cannot be done, as far as possible before
    any video is made."""
    from accelerate import PartialState

    from ..training.processes import PATIENCE

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    plots = [plot_path(options.drift)] if options.drift else []
    outputs = [path for path in (options.report, options.drift, *plots) if path]
    check_distinct(outputs, options.files_read, plots)
    device = state.device if state.num_processes > 1 else pick_device(options.model.device)
    networks = _networks(options, device)
    true, true_unusable = videos_of(options.true) if options.true else ([], [])
    if options.prompts is None:
        (made, unusable), fps = videos_of(options.videos), options.fps or USUAL_FPS
    else:
        prompts, fps = _make(options, state, load_pipeline)
        state.wait_for_everyone()
        made, unusable = _named(prompts, options.videos, tell=state.is_main_process), []
    if options.clip and not any(entry.caption for entry in made):
        raise ValueError("CLIPSIM needs a text beside each video (a.mp4, a.txt), and there is none")
    reading = Reading(options.frames, fps, options.size or common_size(made))
    folder = options.features or Path(options.videos).parent / "artv-features"
    share = (state.process_index, state.num_processes)
    with _progress("features", len([*made, *true][share[0] :: share[1]]), state) as bar:
        keep_features([*made, *true], networks, reading, folder, share, bar.update)
    state.wait_for_everyone()
    if state.is_main_process:
        judged = _judged(made, true, networks, reading, folder, [*unusable, *true_unusable])
        _show(judged.figures)
        if options.report:
            _write(options, judged.figures, reading)
        if options.drift:
            write_drift(options.drift, judged.drift, judged.true_drift)
    state.destroy_process_group()
    return 0


def _networks(options: EvaluateOptions, device: torch.device) -> dict[str, FeatureNetwork]:
    networks: dict[str, FeatureNetwork] = {"everyday": Everyday()}
    if options.inception:
        networks["inception"] = Inception(options.inception, device)
    if options.i3d:
        networks["i3d"] = I3D(options.i3d, device)
    if options.c3d:
        networks["c3d"] = C3D(options.c3d, device)
    if options.clip:
        networks["clip"] = Clip(*options.clip, device)
    return networks


def _make(
    options: EvaluateOptions, state: PartialState, load_pipeline: Callable[[Any], Pipeline]
) -> tuple[list[Prompt], float]:
    """Make the videos that are missing. Returns the prompts, and the videos' frames per second."""
    assert options.prompts is not None
    prompts, folder = read_prompts(options.prompts, options.count, options.seed), Path(options.videos)
    _check_names(prompts)
    first = None if options.first_frames is None else find_first_frames(options.first_frames, prompts)
    if state.num_processes > 1:
        options.model.device = str(state.device)
    pipeline = load_pipeline(options.model)
    config = pipeline.model.config
    if options.fps not in (None, config.fps):
        raise ValueError(
            f"--fps is {options.fps:g}, and {config.name} makes {config.fps:g} frames per second; leave --fps out"
        )
    height, width = options.size or config.size
    wanted = GenerateOptions(
        num_frames=options.frames,
        height=height,
        width=width,
        seed=options.seed,
        steps=options.steps,
        sampler=options.sampler,
    )
    settings = wanted.resolved(config)
    if state.is_main_process:
        made_with = {"checkpoint": config.name, **_model_files(options.model), **asdict(settings)}
        check_folder(folder, made_with, described(prompts, first))
    state.wait_for_everyone()
    share = (state.process_index, state.num_processes)
    with _progress("videos", len(prompts[share[0] :: share[1]]), state) as bar:
        make_videos(pipeline, prompts, replace(settings, batch_size=1), folder, share, bar.update, first)
    return prompts, float(config.fps)


def _model_files(model: Any) -> dict[str, str | None]:
    """Which weights the arguments name, by contents, and the type they are used in."""
    files = {"checkpoint file": resolve_checkpoint(model.checkpoint), "base file": model.base}
    return {name: path and file_hash(Path(path)) for name, path in files.items()} | {"dtype": model.dtype}


def _named(prompts: Sequence[Prompt], folder: str, *, tell: bool) -> list[Entry]:
    """The videos in `folder` that have the names of these prompts."""
    names = {f"{name}.mp4" for name, _ in prompts}
    entries, _ = videos_of(folder)
    others = [entry.name for entry in entries if entry.label not in names]
    if others and tell:
        count = "1 video" if len(others) == 1 else f"{len(others)} videos"
        say(f"not judged: {count} in {folder} that these prompts do not name, such as {others[0]}")
    return [entry for entry in entries if entry.label in names]


def _check_names(prompts: Sequence[Prompt]) -> None:
    for name, _ in prompts:
        if Path(name).name != name or not name.isprintable() or len(name) > 100:
            raise ValueError(f"a video would be called {name[:100]!r}; names of videos must be names of files")


def _judged(
    made: Sequence[Entry],
    true: Sequence[Entry],
    networks: Mapping[str, FeatureNetwork],
    reading: Reading,
    folder: Path,
    unusable: Sequence[str],
) -> Judged:
    """`unusable` has a line for each thing in the sources that is no video."""
    kept = {name: kept_features(made, network, reading, folder) for name, network in networks.items()}
    theirs = {name: kept_features(true, network, reading, folder) for name, network in networks.items()}
    (drift, read, broken), (_, true_read, true_broken) = kept["everyday"], theirs["everyday"]
    left_out = [*unusable, *broken, *true_broken]
    for line in left_out:
        say(f"left out: {line}")
    if not read:
        raise ValueError(f"not one of {len(made)} videos could be read; the first: {broken[0]}")
    if true and not true_read:
        raise ValueError(f"not one of {len(true)} true videos could be read; the first: {true_broken[0]}")
    figures: Figures = {"videos": len(read), "true videos": len(true_read), "left out": len(left_out)}
    if "inception" in networks:
        judged = _joined(kept["inception"][0])
        figures["IS"] = _inception_score(judged["logits"])
        if len(true_read):
            figures["FID"] = frechet_distance(_joined(theirs["inception"][0])["features"], judged["features"])
    if "i3d" in networks:
        figures["FVD"] = frechet_distance(_joined(theirs["i3d"][0])["features"], _joined(kept["i3d"][0])["features"])
    if "c3d" in networks:
        figures["IS on C3D"] = _inception_score(_joined(kept["c3d"][0])["logits"])
    if "clip" in networks:
        figures["CLIPSIM"] = _clipsim(kept["clip"][0], read)
    curves = [mean_drift(found["drift"]) if found else [] for found in (drift, theirs["everyday"][0])]
    figures["drift from the first frame, at the last"] = {name: getattr(curves[0][-1], name) for name in READINGS}
    return Judged(figures, *curves)


def _joined(features: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat(list(tensors)) for name, tensors in features.items()}


def _inception_score(logits: Tensor) -> dict[str, float]:
    score = inception_score(logits, splits=min(10, len(logits)))
    return {"mean": score.mean, "deviation": score.deviation}


def _clipsim(features: Mapping[str, Sequence[Tensor]], read: Sequence[Entry]) -> float:
    """CLIPSIM of the videos that have a text."""
    told = [index for index, entry in enumerate(read) if entry.caption]
    if not told:
        raise ValueError("CLIPSIM needs a text beside each video, and none that could be read has one")
    frames = torch.stack([features["frames"][index] for index in told])
    return clip_similarity(frames, torch.cat([features["text"][index] for index in told]))


def mean_drift(videos: Sequence[Tensor]) -> list[DriftReading]:
    """The mean over videos of their readings [T, 5] (`READINGS`), frame by frame. Ratios use the median, which a single
    flat frame does not spoil."""
    columns = {
        name: column.median(dim=0).values if name in ("spread", "sharpness") else column.mean(dim=0)
        for name, column in zip(READINGS, torch.stack(list(videos)).unbind(-1), strict=True)
    }
    return [
        DriftReading(index, **{name: float(column[index]) for name, column in columns.items()}, copied=0.0)
        for index in range(len(videos[0]))
    ]


def _show(figures: Figures) -> None:
    for name, value in figures.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        shown = ", ".join(f"{part} {_number(one)}".strip() for part, one in parts)
        print(f"{name}: {shown}")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.5g}"


def _write(options: EvaluateOptions, figures: Figures, reading: Reading) -> None:
    assert options.report is not None
    named = {"videos": options.videos, "true": options.true, "prompts": options.prompts}
    named |= {} if options.first_frames is None else {"first_frames": options.first_frames}
    weights = {
        "inception": options.inception,
        "i3d": options.i3d,
        "c3d": options.c3d,
        "clip": options.clip and options.clip[0],
    }
    used = {name: Path(str(path)).name for name, path in weights.items() if path}
    with replacing(options.report) as path:
        path.write_text(
            json.dumps({"of": named, "weights": used, "read": asdict(reading), "figures": figures}, indent=1) + "\n",
            encoding="utf-8",
        )


def _progress(what: str, total: int, state: PartialState) -> tqdm:
    return tqdm(total=total, desc=what, disable=not state.is_main_process, file=sys.stderr)
