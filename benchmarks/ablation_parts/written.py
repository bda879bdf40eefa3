"""The tables and curves of docs/evidence.md, written from the result file; the text between them is by hand."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from documents import as_table, put_tables, save_lines

from ablation_parts import seeds
from ablation_parts.pictures import FOLDER
from ablation_parts.runs import mean_and_spread

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/evidence.md"
Parts = Mapping[str, dict[str, Any]]

CURVES = ("variants", "settled", "far", "detailed", "one-shot", "noise", "guidance", "sizes", "long")
"""Parts whose curves are drawn."""


def write_document(parts: Parts) -> None:
    """Put each measured part's table under its marker, and draw the curves."""
    put_tables(DOCUMENT, tables(parts))
    for name in CURVES:
        if name in parts and parts[name]["runs"]:
            draw_curves(name, parts[name]["runs"])


def tables(parts: Parts) -> dict[str, str]:
    """Of each part that was measured."""
    found = {name: TABLES[name](part) for name, part in parts.items() if name in TABLES}
    if "mask" in parts:
        found["mask while sampling"] = sampled_table(parts["mask"])
    return found | seeds.tables(parts)


def runs_table(part: Mapping[str, Any]) -> str:
    """Mean over the seeds, and the largest distance of a seed from it."""
    groups = seeds.by_way(part)
    header = [f"{name} ({len(runs)} seed{'s' * (len(runs) > 1)})" for name, runs in groups.items()]
    rows = {
        measure: [spread([run.get(measure) for run in runs]) for runs in groups.values()]
        for measure in seeds.measures(groups)
    }
    said = {"training": part.get("budget"), "measured on": f"{part['prompts']} prompts, {part['frames']} frames"}
    return as_table(header, rows | {what: [text] * len(groups) for what, text in said.items() if text})


def spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean, distance = mean_and_spread(known)
    return f"{mean:.3g}" + (f" ± {distance:.2g}" if len(known) > 1 else "")


def long_table(part: Mapping[str, Any]) -> str:
    """The shipped checkpoint beside a video that repeats its first frame."""
    still = {
        f"frozen first frame, {key.partition(', ')[2]}": {"measured": run["frozen"]}
        for key, run in part["runs"].items()
    }
    return runs_table({**part, "runs": part["runs"] | still})


def mask_table(part: dict[str, Any]) -> str:
    """Still cells of true frames, by time step: the mask, the best one, and the root mean square error of the noise
    network alone; last that of copying."""
    guessed = part["on true frames"]
    rows = {}
    for index, t in enumerate(next(iter(guessed.values()))["t"]):
        sigma = next(iter(guessed.values()))["sigma"][index]
        cells = [f"{sigma:.3g}"]
        for found in guessed.values():
            cells += [f"{found['mask, still cells'][index]:.2f}", f"{found['best mask, still cells'][index]:.2f}"]
            cells.append(f"{found['error of the noise network, still cells, rms'][index]:.3f}")
        rows[str(t)] = cells
    header = ["sigma", *(f"{name}: {what}" for name in guessed for what in ("mask", "best mask", "error"))]
    said = [cell for found in guessed.values() for cell in ("", "", f"{found['difference of still cells, rms']:.3f}")]
    return as_table(header, rows | {"copied instead": ["", *said]}, first="time step")


def sampled_table(part: dict[str, Any]) -> str:
    """The mask while sampling, by noise level of references and anchor."""
    sampled = part["sampled"]
    times = next(iter(sampled.values()))["t"]
    chosen = [index for index in range(len(times)) if index % 4 == 0 or index == len(times) - 1]
    rows = {level: [f"{found['mask'][index]:.2f}" for index in chosen] for level, found in sampled.items()}
    return as_table([f"t = {times[index]:.0f}" for index in chosen], rows, first="noise level")


def metrics_table(part: dict[str, Any]) -> str:
    """How far the metrics are from their references."""
    return as_table(["found"], {name: [f"{value:.1e}"] for name, value in part["bars"].items()})


def draw_curves(part: str, runs: Mapping[str, dict[str, Any]]) -> None:
    """Each seed's curve, variants by colour."""
    panels: dict[str, dict[str, list[tuple[list[float], list[float]]]]] = {}
    for key, run in runs.items():
        curves = run.get("curves", {})
        for name, values in curves.items():
            if name != "frame":
                panels.setdefault(name, {}).setdefault(key.partition(", seed")[0], []).append((curves["frame"], values))
    if panels:
        save_lines(FOLDER / f"curves-{part}.png", panels, "frame")


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "variants": runs_table,
    "settled": runs_table,
    "stalled": runs_table,
    "far": runs_table,
    "detailed": runs_table,
    "one-shot": runs_table,
    "noise": runs_table,
    "guidance": runs_table,
    "sizes": runs_table,
    "long": long_table,
    "mask": mask_table,
    "metrics": metrics_table,
}
