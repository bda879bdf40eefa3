"""Runs to be compared, seed by seed, as long as time allows; of models trained on the same clips for as many steps."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from decisions import noised_copy_in_training
from result_files import commit

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint, save_checkpoint
from artv_core.method import generate
from artv_core.method.frames import AnchorPolicy
from artv_core.models.artv import ARTV
from artv_core.training.config import LatentsStage, TrainConfig, read_config
from artv_core.training.run import run as train

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/tiny.toml"
WORLD_SEED = 3
"""Of the clips, which all runs share."""
LATER_RATES = {"muon_learning_rate": 1e-3, "learning_rate": 3e-4}
"""Of runs that go on from a trained checkpoint."""


@dataclass(frozen=True)
class Variant:
    """What is other than in the full model: in training (`stage`, `overrides`, `noised_copy`) and, to fit, in sampling
    (`options` of GenerateOptions, `anchor` policy)."""

    stage: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    anchor: str = "segment"
    noised_copy: bool = False


def levels(level: int) -> dict[str, int]:
    """One noise level for references and anchor."""
    return {"reference_noise_level": level, "anchor_noise_level": level}


@dataclass(frozen=True)
class Budget:
    """What each run of a comparison gets. `vae_steps` 0: the shipped autoencoder as it is. `start_from`: a checkpoint
    that all go on from; without one they begin with nothing."""

    steps: int = 1500
    batch_size: int = 64
    clips: int = 6000
    frames: int = 16
    world: str = "plain"
    vae_steps: int = 0
    start_from: str = ""

    def __str__(self) -> str:
        before = f" after those of {self.start_from}" if self.start_from else ""
        clips = f"{self.clips} clips of the {self.world} world"
        return f"{self.steps} steps of {self.batch_size} samples{before}, {clips}"


@dataclass(frozen=True)
class Plan:
    """Which runs a part wants, where models and figures are kept (`work`), and how many minutes there are."""

    part: str
    names: tuple[str, ...]
    seeds: Sequence[int]
    work: Path
    minutes: float | None = None

    def runs(self) -> Iterator[tuple[str, int]]:
        """(name, seed), seed by seed, so that what is finished can be compared wherever the time ends."""
        for seed in self.seeds:
            for name in self.names:
                yield name, seed

    def folder(self, name: str, seed: int) -> Path:
        """Where a run's frames are kept while it is under way."""
        return self.work / self.part / f"{name}, seed {seed}".replace("/", "-")


@dataclass(frozen=True)
class TrainingPlan(Plan):
    """And what each run is trained with."""

    budget: Budget = field(default_factory=Budget)


Measure = Callable[[str, int], dict[str, Any]]
"""measure(name, seed): figures of one run, training included."""


def work_through(
    plan: Plan, conditions: Mapping[str, Any], kept: Mapping[str, Any], measure: Measure
) -> dict[str, Any]:
    """Figures by "name, seed n": those in `kept` that had the same conditions, those that an interrupted call left in
    `plan.work`, and all others that there is time for, each with its commit and minutes (of the call that ended it).
    As long as the longest so far is what the next may take.
    """
    found = {key: figures for key, figures in kept.items() if figures["conditions"] == conditions}
    started, longest = time.monotonic(), 0.0
    for name, seed in plan.runs():
        key, folder = f"{name}, seed {seed}", plan.folder(name, seed)
        file = folder.with_name(f"{folder.name}.json")
        if key not in found and file.is_file():
            left = json.loads(file.read_text())
            found |= {key: left} if left["conditions"] == conditions else {}
        if key in found:
            continue
        spent = (time.monotonic() - started) / 60
        if plan.minutes is not None and spent + longest > plan.minutes:
            print(f"  {key}: left for another time, {spent:.0f} of {plan.minutes:g} minutes are spent", flush=True)
            continue
        measured = measure(name, seed)
        minutes = (time.monotonic() - started) / 60 - spent
        longest = max(longest, minutes)
        found[key] = {"conditions": dict(conditions), "commit": commit(), "minutes": round(minutes, 1)} | measured
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found[key], indent=1))
        print(f"  {key}: {json.dumps(found[key].get('measured', {}))}", flush=True)
    return in_order(found, plan.names)


def in_order(found: Mapping[str, dict[str, Any]], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The runs by name as `names` has them, or as they are where it lacks one of them."""
    of = {key: key.rpartition(", seed")[0] for key in found}
    if not set(of.values()) <= set(names):
        return dict(found)
    return dict(sorted(found.items(), key=lambda run: names.index(of[run[0]])))


def trained(variant: Variant, name: str, seed: int, plan: TrainingPlan) -> tuple[ARTV, float]:
    """The model of one run, trained as far as it is not yet; and the seconds of processor time of all calls."""
    config, data = planned(variant, name, seed, plan), clips_of(plan)
    folder = plan.work / config.name
    share(("vae.safetensors", "latents.safetensors"), data, folder)
    with in_training(variant), counted_seconds(folder / "cpu-seconds.json"):
        train(config, str(plan.work), ["diffusion", "export"], resume=True)
    seconds = json.loads((folder / "cpu-seconds.json").read_text())
    return load_checkpoint(folder / f"{config.name}.safetensors"), seconds


def share(names: Sequence[str], source: Path, folder: Path) -> None:
    """The files of `source` in `folder` too, where they are not yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (folder / name).exists():
            os.link(source / name, folder / name)


@contextmanager
def counted_seconds(file: Path) -> Iterator[None]:
    """Processor time spent in here is added to the number in `file`, also where a signal ends it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    before, started = json.loads(file.read_text()) if file.is_file() else 0.0, time.process_time()
    try:
        yield
    finally:
        file.write_text(json.dumps(before + time.process_time() - started))


def planned(variant: Variant, name: str, seed: int, plan: TrainingPlan) -> TrainConfig:
    """How one run is trained, from nothing or from the plan's checkpoint on."""
    config = run_config(variant, name, seed, plan.budget)
    return going_on(config, variant, plan) if plan.budget.start_from else config


def run_config(variant: Variant, name: str, seed: int, budget: Budget) -> TrainConfig:
    """The shipped model's recipe within the budget: a tenth of the steps warms up, two fifths decay."""
    base = read_config(CONFIG)
    steps = budget.steps
    short = {
        "steps": steps,
        "batch_size": budget.batch_size,
        "warmup_steps": steps // 10,
        "decay_steps": 2 * steps // 5,
    }
    quiet = {"sheet_every": 10 * steps, "sheet_rows": 1, "sheet_columns": 2, "ema_decay": 0.998}
    return replace(
        base,
        name="-".join(
            [*(str(value) for value in asdict(budget).values() if value != ""), *name.split(), "seed", str(seed)]
        ),
        seed=seed,
        world=budget.world,
        overrides=variant.overrides,
        latents=latents_stage(budget),
        diffusion=replace(base.diffusion, **(short | quiet | variant.stage)),
    )


def going_on(config: TrainConfig, variant: Variant, plan: TrainingPlan) -> TrainConfig:
    """The run from the plan's checkpoint on, at lower rates; where the variant has no mask network, from a copy of the
    checkpoint without it."""
    start = resolve_checkpoint(plan.budget.start_from)
    if config.model.mask is None:
        whole, start = start, plan.work / f"{start.stem}-without-mask.safetensors"
        if not start.is_file():
            model = load_checkpoint(whole, without=("mask",))
            model.config = replace(model.config, mask=None)
            save_checkpoint(model, start)
    return replace(config, diffusion=replace(config.diffusion, start_from=str(start), **LATER_RATES))


def clips_of(plan: TrainingPlan) -> Path:
    """The folder of the autoencoder and the clips that all runs of a plan share; made where it is not there."""
    base, budget = read_config(CONFIG), plan.budget
    still = {"decay_steps": budget.vae_steps // 2, "learning_rate": 7e-4}
    config = replace(
        base,
        name=f"{budget.world}-{budget.clips}-clips-of-{budget.frames}-vae-{budget.vae_steps}",
        seed=WORLD_SEED,
        world=budget.world,
        vae=replace(base.vae, start_from="tiny", steps=budget.vae_steps, **still),
        latents=latents_stage(budget),
    )
    folder = plan.work / config.name
    if not (folder / "latents.safetensors").is_file():
        train(config, str(plan.work), ["vae", "latents"], resume=True)
    return folder


def latents_stage(budget: Budget) -> LatentsStage:
    return LatentsStage(clips=budget.clips, frames=budget.frames, seed=WORLD_SEED)


def in_training(variant: Variant) -> AbstractContextManager[Any]:
    """What is copied is noised, in training and in sampling, where the variant says so."""
    return noised_copy_in_training() if variant.noised_copy else nullcontext()


@contextmanager
def in_sampling(variant: Variant) -> Iterator[None]:
    """Frames are made as the variant was trained."""
    with in_training(variant), patch.object(generate, "AnchorPolicy", lambda: AnchorPolicy(variant.anchor)):
        yield


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and the largest distance of a value from it."""
    mean = sum(values) / len(values)
    return mean, max(abs(value - mean) for value in values)
