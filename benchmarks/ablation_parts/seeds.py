"""How much of what was found is a seed's doing: tables over the seeds of all parts."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import scipy.stats
from documents import as_table

from ablation_parts.runs import mean_and_spread

Parts = Mapping[str, dict[str, Any]]
ENOUGH = 3
CERTAINTY = 0.9
COMPARED = ("full", "no mask network")
CLAIMS = (
    ("settled", "background drift at frame 63"),
    ("settled", "object's colour, drift at frame 63"),
    ("stalled", "change of the loss, percent"),
    ("far", "background drift at frame 999"),
    ("far", "background drift, mean over the frames"),
    ("far", "object's colour, drift at frame 999"),
    ("detailed", "ground drift at frame 63"),
    ("detailed", "texture kept at frame 63"),
)
"""Part and measure by which the two ways in `COMPARED` are told apart; or a curve's name and `OVER_FRAMES`."""
OVER_FRAMES = ", mean over the frames"


def tables(parts: Parts) -> dict[str, str]:
    """Both, where any part has seeds enough."""
    left_out = {name: away for name, part in parts.items() if "runs" in part and (away := seeds_left_out(part))}
    pairs = {claim: pair for claim in CLAIMS if len(pair := common_seeds(parts, *claim)) >= ENOUGH}
    found = {"another seed": another_seed_table(left_out)} if left_out else {}
    return found | ({"seed by seed": pairs_table(pairs)} if pairs else {})


def by_way(part: Mapping[str, Any]) -> dict[str, list[dict[str, float | None]]]:
    """What was measured of each way, seed by seed."""
    groups: dict[str, list[dict[str, float | None]]] = {}
    for key, run in part["runs"].items():
        groups.setdefault(key.partition(", seed")[0], []).append(run["measured"])
    return groups


def measures(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    return list(dict.fromkeys(name for runs in groups.values() for run in runs for name in run))


def seeds_left_out(part: Mapping[str, Any]) -> list[float]:
    """How many times their spread a seed is away from the mean of the others: of each figure of seeds enough, each
    seed in turn. Where all others agree, 0 if it does too, else infinite."""
    found = []
    for runs in by_way(part).values():
        for measure in measures({"": runs}):
            values = [run.get(measure) for run in runs]
            known = [value for value in values if value is not None]
            if len(known) < ENOUGH:
                continue
            for index, value in enumerate(known):
                mean, distance = mean_and_spread(known[:index] + known[index + 1 :])
                away = abs(value - mean)
                found.append(away / distance if distance else math.inf if away else 0.0)
    return found


def another_seed_table(left_out: Mapping[str, Sequence[float]]) -> str:
    """How often a seed was within the spread of the others, and within twice and four times as much, by part."""
    rows = {**left_out, "all": [away for found in left_out.values() for away in found]}
    shares = {
        name: [str(len(found)), *(f"{sum(away <= times for away in found) / len(found):.0%}" for times in (1, 2, 4))]
        for name, found in rows.items()
    }
    return as_table(["seeds left out", "within the spread", "within twice", "within four times"], shares, first="part")


def common_seeds(parts: Parts, part: str, measure: str) -> list[tuple[float, float]]:
    """The figures of both ways in `COMPARED`, of each seed that both have, in order."""
    runs = parts.get(part, {}).get("runs", {})
    of = {key: figure(run, measure) for key, run in runs.items()}
    keys = ([f"{way}, seed {seed}" for way in COMPARED] for seed in range(len(runs) + 1))
    return [(of[one], of[other]) for one, other in keys if of.get(one) is not None and of.get(other) is not None]


def figure(run: Mapping[str, Any], measure: str) -> float | None:
    """What a run has of it."""
    if not measure.endswith(OVER_FRAMES):
        return run["measured"].get(measure)
    return statistics.mean(run["curves"][measure.removesuffix(OVER_FRAMES)])


def pairs_table(pairs: Mapping[tuple[str, str], Sequence[tuple[float, float]]]) -> str:
    """The differences seed by seed, and between what another seed's would be."""
    header = [*COMPARED, "difference, seed by seed", f"of another seed, {CERTAINTY:.0%}"]
    return as_table(header, {f"{part}: {measure}": pair_cells(pair) for (part, measure), pair in pairs.items()})


def pair_cells(pair: Sequence[tuple[float, float]]) -> list[str]:
    differences = [other - one for one, other in pair]
    low, high = expected_of_another(differences)
    means = [f"{statistics.mean(of):.3g}" for of in zip(*pair, strict=True)]
    return [*means, ", ".join(f"{difference:+.3g}" for difference in differences), f"{low:+.2g} to {high:+.2g}"]


def expected_of_another(values: Sequence[float]) -> tuple[float, float]:
    """The interval that another value is in with a probability of `CERTAINTY`, if they are normally distributed."""
    count, mean, deviation = len(values), statistics.mean(values), statistics.stdev(values)
    quantile = scipy.stats.t.ppf((1 + CERTAINTY) / 2, count - 1)
    distance = float(quantile) * deviation * math.sqrt(1 + 1 / count)
    return mean - distance, mean + distance
