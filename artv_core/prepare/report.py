"""The report: how many clips were kept, and why the others were dropped, as JSON and as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..files.partial_file import replacing
from .options import PrepareOptions
from .selecting import REASONS, Selection

KEPT, OTHERS, LIMIT, FAULT = "#2f7d5b", "#c9ccd1", "#b3261e", "#d08a3a"
LEAST_MOTION, MOST_MOTION = 0.01, 100.0


def write_report(
    stem: Path, options: PrepareOptions, selection: Selection, counts: Mapping[str, int], facts: Mapping[str, Any]
) -> tuple[Path, Path]:
    """Write STEM.json and STEM.png; returns both paths. `counts` says how many clips were dropped for each reason,
    `facts` is added to the report. Raises ValueError if a file cannot be written."""
    histograms = _histograms(selection)
    kept = selection.considered - sum(counts.values())
    report = {
        "considered": selection.considered,
        "kept": kept,
        "dropped": {reason: counts[reason] for reason in REASONS if counts.get(reason)},
        **facts,
        "least_clip_score_kept": selection.threshold,
        "histograms": {
            name: {"edges": edges.round(5).tolist(), "all": everyone.tolist(), "kept": chosen.tolist()}
            for name, (edges, everyone, chosen) in histograms.items()
        },
    }
    paths = stem.with_suffix(".json"), stem.with_suffix(".png")
    with replacing(paths[0]) as partial:
        partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    with replacing(paths[1]) as partial:
        _draw(partial, options, selection.threshold, histograms, kept, counts)
    return paths


def _histograms(selection: Selection) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each measure: bin edges, the counts of all clips that could be read, and of those kept."""
    clips, kept = selection.clips, selection.kept
    motion_edges = np.geomspace(LEAST_MOTION, MOST_MOTION, 49)
    measures = {
        "motion": (selection.motions.clip(LEAST_MOTION, MOST_MOTION * 0.999), np.array(clips.motion), motion_edges),
        "clip_score": (selection.clip_scores, np.array(clips.clip), None),
        "seconds": (selection.durations, np.array(clips.seconds), None),
    }
    found = {}
    for name, (everyone, candidates, edges) in measures.items():
        everyone = everyone[np.isfinite(everyone)].astype(np.float64)
        if not len(everyone):
            continue
        edges = np.linspace(*_range(everyone), 41) if edges is None else edges
        chosen = candidates[kept].clip(edges[0], edges[-1] * 0.999 if edges[-1] > 0 else edges[-1])
        found[name] = edges, np.histogram(everyone.clip(edges[0], edges[-1]), edges)[0], np.histogram(chosen, edges)[0]
    return found


def _range(values: np.ndarray) -> tuple[float, float]:
    """The range of nearly all values. Values beyond it are counted in the outermost bins."""
    low, high = (float(value) for value in np.quantile(values, (0.0, 0.995)))
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room if low < 0 else max(0.0, low - room), high + room


def _draw(
    path: Path,
    options: PrepareOptions,
    threshold: float | None,
    histograms: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    kept: int,
    counts: Mapping[str, int],
) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    total = kept + sum(counts.values())
    share = f" ({kept / total:.0%})" if total else ""
    figure.suptitle(f"{kept:,} of {total:,} clips kept{share}", fontsize=15, x=0.01, ha="left", weight="bold")
    axes = figure.subplots(2, 2)
    names = {"kept": KEPT, "all that could be read": OTHERS}
    figure.legend(handles=[Patch(color=color, label=name) for name, color in names.items()], ncols=2, frameon=False)
    _draw_histogram(axes[0, 0], "Motion score", histograms.get("motion"), options.motion_range)
    axes[0, 0].set_xscale("log")
    axes[0, 0].set_xticks((0.01, 0.1, 1, 10, 100), ("0 to 0.01", "0.1", "1", "10", "100"))
    axes[0, 0].set_xlabel("mean of PySceneDetect's content value")
    limits = () if threshold is None else (threshold,)
    _draw_histogram(axes[0, 1], "CLIP score", histograms.get("clip_score"), limits)
    axes[0, 1].set_xlabel("cosine of caption and frames")
    _draw_histogram(axes[1, 0], "Length", histograms.get("seconds"), ())
    axes[1, 0].set_xlabel("seconds")
    _draw_counts(axes[1, 1], kept, counts)
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


def _draw_histogram(
    axes: Any, title: str, histogram: tuple[np.ndarray, np.ndarray, np.ndarray] | None, limits: tuple[float, ...]
) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    if histogram is None:
        axes.text(0.5, 0.5, "none computed", ha="center", va="center", transform=axes.transAxes, color="#666a70")
        axes.set_xticks([])
        axes.set_yticks([])
        return
    edges, everyone, chosen = histogram
    axes.stairs(everyone, edges, fill=True, color=OTHERS)
    axes.stairs(chosen, edges, fill=True, color=KEPT)
    for limit in limits:
        if not edges[0] < limit < edges[-1]:
            continue  # it drops no clip, and a logarithmic axis has no place for 0
        axes.axvline(limit, color=LIMIT, linestyle="--", linewidth=1.2)
        axes.text(limit, 1.0, f" {limit:.3g}", color=LIMIT, fontsize=9, va="top", transform=axes.get_xaxis_transform())
    axes.set_ylabel("clips")
    axes.set_ylim(0, 1.12 * max(*everyone, 1))


def _draw_counts(axes: Any, kept: int, counts: Mapping[str, int]) -> None:
    rows = [("kept", kept), *((reason, counts[reason]) for reason in REASONS if counts.get(reason))]
    axes.set_title("What became of them", loc="left", fontsize=11)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    bars = axes.barh([name for name, _ in rows], [count for _, count in rows], color=[KEPT] + [FAULT] * (len(rows) - 1))
    axes.bar_label(bars, labels=[f"{count:,}" for _, count in rows], padding=4, fontsize=9)
    axes.set_xlim(0, 1.15 * max([count for _, count in rows] + [1]))
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
