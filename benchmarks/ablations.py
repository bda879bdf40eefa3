"""What the mask network is worth: `python benchmarks/ablations.py [--parts NAME ...] [--seeds N ...]`.

`tiny` with its mask network and without, gone on with from the shipped checkpoint: the same clips, steps and draws.

settled   the plain world: 32 held-out prompts of 64 frames, from text
detailed  fine textures and many objects, where copying should matter: 32 videos that go on from two true frames

Puts its runs into `benchmarks/results/ablations.json` (20 minutes each on one core), and writes the tables of
`docs/evidence.md` that show runs. What else that file holds was measured by benchmarks that are no longer here. An
interrupted training goes on where it stopped (`runs/ablations`).
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from result_files import Limits, commit, kept_parts, run_parts
from tables import as_table, put_tables

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint, save_checkpoint
from artv_core.method.generate import GenerateOptions
from artv_core.models.artv import ARTV
from artv_core.synthetic import detailed, quality
from artv_core.synthetic.shapes import render
from artv_core.training.config import LatentsStage, TrainConfig, read_config
from artv_core.training.run import run as train
from artv_core.training.sheets import decoded, rollout, rollout_frames

RESULT = ROOT / "benchmarks/results/ablations.json"
DOCUMENT = ROOT / "docs/evidence.md"
NAMES = ("full", "no mask network")
WORLD_SEED = 3
"""Of the clips, which all runs share."""
PROMPTS, FRAMES, GIVEN = 32, 64, 2


@dataclass(frozen=True)
class Budget:
    """What each run of a comparison gets. `vae_steps` 0: the shipped autoencoder as it is."""

    steps: int = 600
    batch_size: int = 64
    clips: int = 6000
    frames: int = 16
    world: str = "plain"
    vae_steps: int = 0
    start_from: str = "tiny"

    @property
    def latents(self) -> LatentsStage:
        return LatentsStage(clips=self.clips, frames=self.frames, seed=WORLD_SEED)

    def __str__(self) -> str:
        clips = f"{self.clips} clips of the {self.world} world"
        return f"{self.steps} steps of {self.batch_size} samples after those of {self.start_from}, {clips}"


BUDGETS = {"settled": Budget(), "detailed": Budget(world="detailed", vae_steps=1500)}
LIMITS: Limits = {part: {} for part in BUDGETS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of training and of sampling")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/ablations", help="where models are kept")
    args = run_parts(parser, RESULT, LIMITS, measure)
    if not args.quick:
        put_tables(DOCUMENT, tables(kept_parts(RESULT)))


def measure(part: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The part, with one run more each time."""
    budget, prompts, frames = BUDGETS[part], PROMPTS, FRAMES
    kept = {} if args.quick else kept_parts(RESULT).get(part, {})
    if args.quick:
        budget = replace(budget, steps=2, batch_size=4, clips=4, vae_steps=min(2, budget.vae_steps))
        prompts, frames = 2, 32
    runs = dict(kept.get("runs", {}))
    for seed in args.seeds[: 1 if args.quick else None]:
        for name in NAMES:
            model = trained(name, seed, budget, args.work)
            found = MEASURED[part](model, prompts, frames, seed)
            runs[f"{name}, seed {seed}"] = {"conditions": asdict(budget), "commit": commit()} | found
            print(f"  {name}, seed {seed}: {json.dumps(found['measured'])}", flush=True)
            yield kept | {"budget": str(budget), "prompts": prompts, "frames": frames, "runs": runs, "bars": {}}


# Training


def trained(name: str, seed: int, budget: Budget, work: Path) -> ARTV:
    """The model of one run, trained as far as it is not yet."""
    config, data = run_config(name, seed, budget, work), clips_of(budget, work)
    folder = work / config.name
    folder.mkdir(parents=True, exist_ok=True)
    for shared in ("vae.safetensors", "latents.safetensors"):
        if not (folder / shared).exists():
            os.link(data / shared, folder / shared)
    train(config, str(work), ["diffusion", "export"], resume=True)
    return load_checkpoint(folder / f"{config.name}.safetensors")


def run_config(name: str, seed: int, budget: Budget, work: Path) -> TrainConfig:
    """The shipped model's recipe at lower rates: a tenth of the steps warms up, two fifths decay."""
    base, steps = read_config(ROOT / "configs/tiny.toml"), budget.steps
    rates = {"muon_learning_rate": 1e-3, "learning_rate": 3e-4, "ema_decay": 0.998}
    length = {"steps": steps, "warmup_steps": steps // 10, "decay_steps": 2 * steps // 5, "sheet_every": 10 * steps}
    chosen = {"batch_size": budget.batch_size, "sheet_rows": 1, "sheet_columns": 2, **length, **rates}
    words = [*(str(value) for value in asdict(budget).values()), *name.split(), "seed", str(seed)]
    config = replace(base, name="-".join(words), seed=seed, world=budget.world, latents=budget.latents)
    start = resolve_checkpoint(budget.start_from)
    if name == "no mask network":
        config, start = replace(config, overrides={"mask": None}), without_mask(start, work)
    return replace(config, diffusion=replace(base.diffusion, start_from=str(start), **chosen))


def without_mask(start: Path, work: Path) -> Path:
    """A copy of the checkpoint without its mask network."""
    path = work / f"{start.stem}-without-mask.safetensors"
    if not path.is_file():
        model = load_checkpoint(start, without=("mask",))
        model.config = replace(model.config, mask=None)
        work.mkdir(parents=True, exist_ok=True)
        save_checkpoint(model, path)
    return path


def clips_of(budget: Budget, work: Path) -> Path:
    """The folder of the autoencoder and the clips that all runs share; made where it is not there."""
    base = read_config(ROOT / "configs/tiny.toml")
    rates = {"steps": budget.vae_steps, "decay_steps": budget.vae_steps // 2, "learning_rate": 7e-4}
    name = f"{budget.world}-{budget.clips}-clips-of-{budget.frames}-vae-{budget.vae_steps}"
    vae = replace(base.vae, start_from="tiny", **rates)
    config = replace(base, name=name, seed=WORLD_SEED, world=budget.world, vae=vae, latents=budget.latents)
    if not (work / name / "latents.safetensors").is_file():
        train(config, str(work), ["vae", "latents"], resume=True)
    return work / name


# What is measured


@torch.no_grad()
def plain(model: ARTV, prompts: int, frames: int, seed: int) -> dict[str, Any]:
    """The quality table's figures of videos from text."""
    clips, last = quality.quality_clips(prompts), frames - 1
    captions = [clip.caption for clip in clips]
    videos = rollout(model, captions, GenerateOptions(num_frames=frames, batch_size=prompts, seed=seed))
    read = quality.read_rollout(videos)
    table = quality.appearance(read, clips) | {"direction from text": quality.direction(read, clips, 0, 16)}
    table |= {"object there at frame 15": quality.survival(read, clips, 15)} | quality.holding(read, clips, last)
    table[f"object's colour, drift at frame {last}"] = quality.object_drift(read, last)
    return {"measured": rounded(table)}


@torch.no_grad()
def textured(model: ARTV, prompts: int, frames: int, seed: int) -> dict[str, Any]:
    """What is left of a known scene, beside what the autoencoder alone would keep of it."""
    clips = detailed.detailed_clips(prompts)
    true, captions = render(clips, frames, *model.config.size), [clip.caption for clip in clips]
    given = [model.encode_images(true[:, index]) for index in range(GIVEN)]
    options = GenerateOptions(num_frames=frames, batch_size=prompts, seed=seed)
    made = list(rollout_frames(model, captions, options, given))
    videos, masks = decoded(model, made), [frame.mask.cpu() for frame in made if frame.mask is not None]
    through = torch.stack([model.decode_latents(model.encode_images(video)) for video in true[:8]])
    kept = {"mask where the object never was near": detailed.copied(masks, clips, frames)}
    return {
        "measured": rounded(detailed.scene_kept(videos, clips) | kept),
        "true frames through the autoencoder": rounded(detailed.scene_kept(through, clips[:8])),
    }


def rounded(table: Mapping[str, float]) -> dict[str, float | None]:
    """Four digits; None for what cannot be said."""
    return {name: None if math.isnan(value) else round(value, 4) for name, value in table.items()}


MEASURED = {"settled": plain, "detailed": textured}


# Tables


def tables(parts: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Of all parts that are runs alone, those of earlier benchmarks too."""
    return {name: runs_table(part) for name, part in parts.items() if "runs" in part and name != "long"}


def runs_table(part: Mapping[str, Any]) -> str:
    """Mean over the seeds, and the largest distance of a seed from it."""
    groups: dict[str, list[dict[str, float | None]]] = {}
    for key, run in part["runs"].items():
        groups.setdefault(key.partition(", seed")[0], []).append(run["measured"])
    header = [f"{name} ({len(runs)} seed{'s' * (len(runs) > 1)})" for name, runs in groups.items()]
    measures = dict.fromkeys(name for runs in groups.values() for run in runs for name in run)
    rows = {name: [spread([run.get(name) for run in runs]) for runs in groups.values()] for name in measures}
    said = {"training": part.get("budget"), "measured on": f"{part['prompts']} prompts, {part['frames']} frames"}
    return as_table(header, rows | {what: [text] * len(groups) for what, text in said.items() if text})


def spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    mean = sum(known) / max(1, len(known))
    away = f" ± {max(abs(value - mean) for value in known):.2g}" if len(known) > 1 else ""
    return f"{mean:.3g}{away}" if known else ""


if __name__ == "__main__":
    main()
