"""What the paper claims, tested at small scale: `python benchmarks/ablations.py [--minutes N] [--parts NAME ...]`.

variants  `tiny` trained from nothing as the paper has it, and without one part of it each, several seeds
far       the first two of these, 1,000 frames on
detailed  with and without the mask network where copying should matter: fine textures and many objects
one-shot  a 3D UNet of as many parameters that makes 16 frames at once, trained as long
noise     the shipped checkpoint at noise levels of 0 to 400
guidance  the shipped checkpoint at other guidance scales
mask      how strong the mask is over the denoising steps (Fig. 4), and why it falls where it does
long      1,000 frames of the shipped checkpoint
sizes     the shipped checkpoint at 1.5 and 2 times its training size
metrics   FVD, FID, IS and CLIPSIM beside reference implementations

Writes `benchmarks/results/ablations.json`, the pictures of `docs/evidence/` and the tables of `docs/evidence.md`. What
is there already is kept: trained runs are added to those of the same budget, other parts take the place of theirs. An
interrupted call goes on where it stopped (`runs/ablations`). On a CPU alone the three main variants are trained, with a
GPU all of them; `--variants` names others.
"""

import argparse
import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from ablation_parts import detailed, far, metrics, shipped, variants, whole_clips  # noqa: E402
from ablation_parts.runs import Budget, Plan  # noqa: E402
from ablation_parts.written import write_document  # noqa: E402
from result_files import kept_parts, run_parts  # noqa: E402

RESULT = ROOT / "benchmarks/results/ablations.json"

BARS: dict[str, dict[str, tuple[str, float]]] = {
    "variants": {},
    "far": {},
    "detailed": {},
    "one-shot": {},
    "noise": {},
    "guidance": {},
    "mask": {},
    "long": shipped.LONG_BARS,
    "sizes": {},
    "metrics": metrics.BARS,
}

TRAINED = {"variants": variants, "far": far, "detailed": detailed, "one-shot": whole_clips}
OTHERS = {"noise": "sampling", "guidance": "sampling", "long": "shipped", "sizes": "shipped"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="train nothing that would likely end later than this")
    parser.add_argument("--seeds", type=int, default=3, help="of each variant")
    parser.add_argument("--steps", type=int, default=Budget.steps, help="training steps of each run")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=list(variants.VARIANTS),
        metavar="NAME",
        help="of the part variants, which to train",
    )
    parser.add_argument("--work", type=Path, default=ROOT / "runs/ablations", help="where finished runs are kept")
    args = run_parts(parser, RESULT, BARS, measure)
    if not args.quick:
        write_document(json.loads(RESULT.read_text())["parts"])


def measure(part: str, args: argparse.Namespace) -> dict[str, Any]:
    """A part's figures."""
    if part in TRAINED:
        kept = {} if args.quick else kept_parts(RESULT).get(part, {})
        return TRAINED[part].measure(plan_of(part, args), kept, args.quick)
    if part in OTHERS:
        return importlib.import_module(f"ablation_parts.{OTHERS[part]}").measure(part, args.quick)
    return importlib.import_module(f"ablation_parts.{part}").measure(args.quick)


def plan_of(part: str, args: argparse.Namespace) -> Plan:
    """Which runs the part has, and what each gets."""
    budget = replace(TRAINED[part].BUDGET, steps=args.steps)
    named = args.variants if part == "variants" else None
    names = tuple(named or TRAINED[part].names(everything=torch.cuda.is_available()))
    if args.quick:
        budget = replace(budget, steps=5, batch_size=16, clips=8, vae_steps=min(2, budget.vae_steps))
        return Plan(part, names, 1, budget, args.work / "quick", args.minutes)
    return Plan(part, names, args.seeds, budget, args.work, args.minutes)


if __name__ == "__main__":
    main()
