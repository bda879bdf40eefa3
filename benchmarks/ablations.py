"""What the paper claims, tested at small scale: `python benchmarks/ablations.py [--minutes N] [--parts NAME ...]`.

variants  `tiny` trained from nothing as the paper has it, and without one part of it each, several seeds
settled   the same variants gone on with from the shipped checkpoint, whose thousands of steps all of them then share
stalled   whether the first two of "settled" have anything left to gain
far       the same two, 1,000 frames on
detailed  with and without the mask network where copying should matter: fine textures and many objects
one-shot  a 3D UNet of as many parameters that makes 16 frames at once, trained as long
noise     the shipped checkpoint at noise levels of 0 to 400
guidance  the shipped checkpoint at other guidance scales
mask      how strong the mask is over the denoising steps (Fig. 4), and why it falls where it does
long      1,000 frames of the shipped checkpoint
sizes     the shipped checkpoint at 1.5 and 2 times its training size
metrics   FVD, FID, IS and CLIPSIM beside reference implementations

Writes `benchmarks/results/ablations.json`, the pictures of `docs/evidence/` and the tables of `docs/evidence.md`. What
is there already is kept: runs are added to those of the same budget, and where that is another take their place. An
interrupted call goes on where it stopped (`runs/ablations`). On a CPU alone the three main variants are trained, with a
GPU all of them; `--variants` names others. Trained runs have the seeds 1, 2, ...; those of the shipped checkpoint
begin with its own, 0.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from ablation_parts import (
    detailed,
    far,
    mask,
    metrics,
    sampling,
    settled,
    shipped,
    stalled,
    variants,
    whole_clips,
)
from ablation_parts.runs import Plan, TrainingPlan
from ablation_parts.written import write_document
from result_files import kept_parts, run_parts

RESULT = ROOT / "benchmarks/results/ablations.json"

BARS: dict[str, dict[str, tuple[str, float]]] = {
    "variants": {},
    "settled": {},
    "stalled": {},
    "far": {},
    "detailed": {},
    "one-shot": {},
    "noise": {},
    "guidance": {},
    "mask": {},
    "long": shipped.BARS,
    "sizes": {},
    "metrics": metrics.BARS,
}

TRAINED = {
    "variants": variants,
    "settled": settled,
    "stalled": stalled,
    "far": far,
    "detailed": detailed,
    "one-shot": whole_clips,
}
SAMPLED = {"noise": sampling, "guidance": sampling, "long": shipped, "sizes": sampling}
ONCE = {"mask": mask, "metrics": metrics}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="begin no run that would likely end later than this, in a part")
    parser.add_argument("--seeds", type=int, default=3, help="of each run")
    parser.add_argument("--steps", type=int, help="training steps of each run, in place of each part's own")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=list(variants.VARIANTS),
        metavar="NAME",
        help="of the parts variants, settled, stalled, far and detailed, which to train",
    )
    parser.add_argument("--work", type=Path, default=ROOT / "runs/ablations", help="where finished runs are kept")
    args = run_parts(parser, RESULT, BARS, measure)
    if not args.quick:
        write_document(json.loads(RESULT.read_text())["parts"])


def measure(part: str, args: argparse.Namespace) -> dict[str, Any]:
    """A part's figures."""
    if part in ONCE:
        return ONCE[part].measure(args.quick)
    kept = {} if args.quick else kept_parts(RESULT).get(part, {})
    if part in TRAINED:
        return TRAINED[part].measure(training_plan(part, args), kept, args.quick)
    return SAMPLED[part].measure(sampling_plan(part, args), kept, args.quick)


def training_plan(part: str, args: argparse.Namespace) -> TrainingPlan:
    """Which runs the part has, and what each gets."""
    budget = TRAINED[part].BUDGET
    budget = replace(budget, steps=args.steps or budget.steps)
    named = None if part == "one-shot" else args.variants
    names = tuple(named or TRAINED[part].names(everything=torch.cuda.is_available()))
    if args.quick:
        budget = replace(budget, steps=5, batch_size=16, clips=8, vae_steps=min(2, budget.vae_steps))
        return TrainingPlan(part, names, (1,), args.work / "quick", args.minutes, budget)
    return TrainingPlan(part, names, range(1, args.seeds + 1), args.work, args.minutes, budget)


def sampling_plan(part: str, args: argparse.Namespace) -> Plan:
    """Which ways of sampling the shipped checkpoint the part has."""
    names = tuple(sampling.WAYS[part]) if part in sampling.WAYS else (shipped.NAME,)
    seeds, work = (1, args.work / "quick") if args.quick else (args.seeds, args.work)
    return Plan(part, names, range(seeds), work, args.minutes)


if __name__ == "__main__":
    main()
