"""What the mask network is worth: `python benchmarks/ablations.py [--parts NAME ...] [--seeds N ...]`.

Runs that are compared have the same clips, steps and draws. Parts take hours, so only those you name are run. The
parts `static...` train both forms of static noise, each with the usual share of the noise network's own error in
the loss, and with the masked error alone. In them `tiny` predicts eps, with the paper's loss.

static            from nothing: mask by time step; drift of videos that go on from two true frames
static-continued  the same, from one checkpoint: the shipped one, trained on to predict eps, with a new mask network
static-detailed   as static-continued, in the detailed world
drift             against drift: error recycling in training, history guidance in sampling, and neither
pictures          `small`: with its mask network, without, and with error recycling in training (for a GPU)

Also writes the tables of `docs/evidence.md` that show runs. An interrupted training goes on where it stopped
(`runs/ablations`). A run that the result file has is not made again, unless `--again`.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import quality_pictures as pictures
import torch
from result_files import ROOT, Limits, commit, kept_parts, parser_of, run_parts
from tables import as_table, put_tables
from torch import Tensor

from artv_core.checkpoint import describe_checkpoint, load_checkpoint, resolve_checkpoint, save_checkpoint
from artv_core.config import ARTVConfig
from artv_core.files.finite import NotFiniteError
from artv_core.method.options import GenerateOptions
from artv_core.models.artv import ARTV
from artv_core.synthetic import detailed, quality
from artv_core.synthetic.shapes import Clip, render
from artv_core.training.config import DiffusionStage, LatentsStage, TrainConfig, read_config
from artv_core.training.diffusion import start_mask
from artv_core.training.mask_steps import mask_by_step
from artv_core.training.run import run as train
from artv_core.training.sheets import decoded, rollout_frames

RESULT = ROOT / "benchmarks/results/ablations.json"
DOCUMENT = ROOT / "docs/evidence.md"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES, EPS = ("full", "no mask network"), "eps"
PAPERS_LOSS = {"weight_cap": 0.0, "detail_weight": 0.0, "uniform_share": 1.0}
FORMS = {
    f"{form}{said}": ({"schedule": {"prediction": "eps", "static_noise": form}}, PAPERS_LOSS | {"auxiliary_share": own})
    for form in ("exact", "subtracted")
    for said, own in (("", 0.25), (", masked error alone", 0.0))
}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "full": ({}, {}),
    "no mask network": ({"mask": None}, {}),
    EPS: ({"mask": None, "schedule": {"prediction": "eps"}}, PAPERS_LOSS),
    **FORMS,
    "error recycling": ({}, {"error_share": 0.5}),
}
"""What a run changes: of the preset, and of the stage "diffusion". Runs of both forms may go on from `EPS`."""
SAMPLED = {"history guidance": {"history_guidance": 1.5, "history_noise_level": 100}}
"""What is only sampled otherwise, with the networks of "full"."""
AGAINST_DRIFT = ("full", "error recycling", *SAMPLED)
COMPARED = {"drift": AGAINST_DRIFT, "pictures": (*NAMES, "error recycling")}
WORLD_SEED, TIMES = 3, (999, 519, 199, 39, 0)
"""The seed of the clips, which all runs share; time steps at which masks are measured."""
GIVEN = 2
"""Frames that a video goes on from."""
FINITE, CPU_SECONDS = "share of runs whose videos stay finite", "CPU seconds per frame"
SHOWN = {"static": (16, 1000), "static-continued": (16, 1000), "static-detailed": (16, 64), "drift": (16, 1000)}
SHOWN |= {"pictures": (64, 64)}
"""Prompts and frames of the videos that are measured."""


@dataclass(frozen=True)
class Budget:
    """What each run of a comparison gets. `vae_steps` 0: the shipped autoencoder as it is. `start_from` "": nothing."""

    steps: int = 600
    batch_size: int = 64
    clips: int = 6000
    frames: int = 16
    world: str = "plain"
    vae_steps: int = 0
    start_from: str = "tiny"

    def __str__(self) -> str:
        clips = f"{self.clips} clips of the {self.world} world"
        start = f"after those of {self.start_from}" if self.start_from else "from nothing"
        return f"{self.steps} steps of {self.batch_size} samples {start}, {clips}"


BUDGETS = {
    "static": Budget(steps=1500, clips=2500, start_from=""),
    "static-continued": Budget(steps=500, clips=2500, start_from=EPS),
    "static-detailed": Budget(steps=500, clips=2500, world="detailed", vae_steps=1500, start_from=EPS),
    "drift": Budget(steps=500, clips=2500),
    "pictures": Budget(steps=740, batch_size=256, clips=24000, frames=12, world="pictures", start_from="small"),
}
STATIC = tuple(part for part in BUDGETS if part.startswith("static"))
RUNS = "forms of static noise, {}: runs"
RISE = "forms of static noise, {}: rise of the mask on still cells, t = 999 to 39 (subtracted, masked error alone)"
LIMITS: Limits = {part: {} for part in BUDGETS}
LIMITS |= {part: {RUNS.format(part): ("at least", 12), RISE.format(part): ("at least", 0)} for part in STATIC}
LIMITS |= {"drift": {"against drift: runs": ("at least", 9)}}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of training and of sampling")
    parser.add_argument("--names", nargs="+", choices=[*VARIANTS, *SAMPLED], help="of variants; default: all")
    parser.add_argument("--again", action="store_true", help="also the runs that the result file has")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/ablations", help="where models are kept")
    args = run_parts(parser, RESULT, LIMITS, measure, asked_for=tuple(LIMITS))
    if not args.quick:
        put_tables(DOCUMENT, tables(kept_parts(RESULT)))


def measure(part: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The part, with one run more each time."""
    budget, names = BUDGETS[part], COMPARED.get(part, tuple(FORMS) if part in STATIC else NAMES)
    prompts, frames = SHOWN[part]
    kept = {} if args.quick else kept_parts(RESULT).get(part, {})
    if args.quick:
        budget = replace(budget, steps=2, batch_size=4, clips=4, vae_steps=min(2, budget.vae_steps))
        prompts, frames = 2, 32
    for seed in args.seeds[: 1 if args.quick else None]:
        for name in (name for name in names if name in (args.names or names)):
            key, conditions = f"{name}, seed {seed}", asdict(budget)
            if not args.again and kept.get("runs", {}).get(key, {}).get("conditions") == conditions:
                continue
            trained = trained_file("full" if name in SAMPLED else name, seed, budget, args.work)
            options = GenerateOptions(seed=seed, **SAMPLED.get(name, {}))
            found = MEASURED[part](load_checkpoint(trained, device=DEVICE), prompts, frames, options)
            print(f"  {key}: {json.dumps(found['measured'])}", flush=True)
            kept = kept if args.quick else kept_parts(RESULT).get(part, {})  # others may have been run meanwhile
            runs = kept.get("runs", {}) | {key: {"conditions": conditions, "commit": commit()} | found}
            kept = kept | {"budget": str(budget), "prompts": prompts, "frames": frames, "runs": runs}
            yield kept | {"bars": bars(part, runs)}


def bars(part: str, runs: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    if part not in STATIC:
        return {name: len(runs) for name in LIMITS[part]}
    asked = [run["measured"] for key, run in runs.items() if key.startswith("subtracted, masked error alone")]
    rises = [run["mask on still cells at t = 39"] - run["mask on still cells at t = 999"] for run in asked]
    return {RUNS.format(part): len(runs)} | ({RISE.format(part): sum(rises) / len(rises)} if rises else {})


def trained_file(name: str, seed: int, budget: Budget, work: Path) -> Path:
    """The checkpoint of one run, trained as far as it is not yet."""
    config, data = run_config(name, seed, budget, work), clips_of(budget, work)
    folder = work / config.name
    if (made := folder / f"{config.name}.safetensors").is_file():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    for shared in ("vae.safetensors", "latents.safetensors"):
        if not (folder / shared).exists():
            os.link(data / shared, folder / shared)
    train(config, str(work), ["diffusion", "export"], resume=True)
    return made


def run_config(name: str, seed: int, budget: Budget, work: Path) -> TrainConfig:
    """The shipped model's recipe, at lower rates where it goes on: a tenth of the steps warms up, two fifths decay."""
    base, steps, (overrides, settings) = base_config(budget), budget.steps, VARIANTS[name]
    rates = {"muon_learning_rate": 1e-3, "learning_rate": 3e-4} if budget.start_from else {}
    if budget.world == "pictures":
        rates = {"muon_learning_rate": 1.5e-3, "learning_rate": 4e-4}
    length = {"steps": steps, "warmup_steps": steps // 10, "decay_steps": 2 * steps // 5, "sheet_every": 10 * steps}
    chosen = {"batch_size": budget.batch_size, "sheet_rows": 1, "sheet_columns": 2, "ema_decay": 0.998}
    chosen |= {"resident": DEVICE == "cuda"}
    words = "-".join([*map(str, asdict(budget).values()), name.replace(",", ""), f"seed {seed}"]).replace(" ", "-")
    changed = {"world": budget.world, "latents": latents_of(base, budget), "overrides": overrides}
    config = replace(base, name=words.replace("--", "-from-nothing-"), seed=seed, **changed)
    chosen |= length | rates | settings | {"start_from": starting_file(config.model, budget, work)}
    return replace(config, diffusion=replace(base.diffusion, **chosen))


def base_config(budget: Budget) -> TrainConfig:
    return read_config(ROOT / f"configs/{'small-more' if budget.world == 'pictures' else 'tiny'}.toml")


def latents_of(base: TrainConfig, budget: Budget) -> LatentsStage:
    return replace(base.latents, clips=budget.clips, frames=budget.frames, seed=WORLD_SEED)


def starting_file(wanted: ARTVConfig, budget: Budget, work: Path) -> str:
    """What a run of this configuration goes on from. Where the shipped file has another schedule or mask network, a
    copy of it with that schedule, and without its mask network or with a new one."""
    if not budget.start_from:
        return ""
    start = resolve_checkpoint("tiny" if budget.start_from == EPS else budget.start_from)
    if budget.start_from == EPS:
        start = trained_file(EPS, 0, replace(budget, start_from="tiny", steps=5 * budget.steps // 2), work)
    config = describe_checkpoint(start).config
    if (config.mask, config.schedule) == (wanted.mask, wanted.schedule):
        return str(start)
    words = start.stem, wanted.schedule.prediction, wanted.schedule.static_noise, "new" if wanted.mask else "no", "mask"
    path = work / f"{'-'.join(words)}.safetensors"
    if not path.is_file():
        model = load_checkpoint(start)
        model.config = replace(config, mask=wanted.mask, schedule=wanted.schedule)
        torch.manual_seed(WORLD_SEED)
        new = ARTV(model.config, vae=False, text=False)
        start_mask(new, DiffusionStage())
        model.mask = new.mask
        work.mkdir(parents=True, exist_ok=True)
        save_checkpoint(model, path)
    return str(path)


def clips_of(budget: Budget, work: Path) -> Path:
    """The folder of the autoencoder and the clips that all runs share; made where it is not there."""
    base = base_config(budget)
    rates = {"steps": budget.vae_steps, "decay_steps": budget.vae_steps // 2, "learning_rate": 7e-4}
    name = f"{budget.world}-{budget.clips}-clips-of-{budget.frames}-vae-{budget.vae_steps}"
    vae, latents = replace(base.vae, start_from=base.preset, **rates), latents_of(base, budget)
    config = replace(base, name=name, seed=WORLD_SEED, world=budget.world, vae=vae, latents=latents)
    if not (work / name / "latents.safetensors").is_file():
        train(config, str(work), ["vae", "latents"], resume=True)
    return work / name


def gone_on(
    model: ARTV, clips: Sequence[Clip], true: Tensor, frames: int, options: GenerateOptions
) -> tuple[Tensor, list[Tensor]]:
    """Videos that go on from the first two of the `true` frames, and their masks."""
    given = [model.encode_images(true[:, index].to(model.noise.device)) for index in range(GIVEN)]
    options = replace(options, num_frames=frames, batch_size=len(clips))
    made = list(rollout_frames(model, [clip.caption for clip in clips], options, given))
    return decoded(model, made), [frame.mask.cpu() for frame in made if frame.mask is not None]


def rounded(table: Mapping[str, float]) -> dict[str, float | None]:
    """Four digits; None for what cannot be said."""
    return {name: None if math.isnan(value) else round(value, 4) for name, value in table.items()}


@torch.no_grad()
def held(model: ARTV, prompts: int, frames: int, options: GenerateOptions) -> dict[str, Any]:
    """Masks by time step on true frames, and what videos hold that go on from two true frames: all of them up to frame
    63, an eighth of them up to the last."""
    clips, table = quality.quality_clips(prompts), masks(model, quality.quality_clips(2 * prompts)) | {FINITE: 1.0}
    for count, length in dict.fromkeys(((prompts, min(frames, 64)), (max(2, prompts // 8), frames))):
        try:
            true, started = render(clips[:count], GIVEN, *model.config.size), time.process_time()
            videos, _ = gone_on(model, clips[:count], true, length, options)
            table[CPU_SECONDS] = (time.process_time() - started) / count / (length - GIVEN)
            table |= quality.holding(quality.read_rollout(videos), clips[:count], length - 1)
        except NotFiniteError:
            table[FINITE] = 0.0
    return {"measured": rounded(table)}


@torch.no_grad()
def held_textured(model: ARTV, prompts: int, frames: int, options: GenerateOptions) -> dict[str, Any]:
    """The same masks in the detailed world, and what is left of a known scene, beside what the autoencoder alone would
    keep of it."""
    clips, table = detailed.detailed_clips(prompts), masks(model, detailed.detailed_clips(2 * prompts))
    true = render(clips, frames, *model.config.size)
    try:
        videos, found = gone_on(model, clips, true, frames, options)
    except NotFiniteError:
        return {"measured": rounded(table | {FINITE: 0.0})}
    through = torch.stack([model.decode_latents(model.encode_images(video.to(DEVICE))).cpu() for video in true[:8]])
    table |= {FINITE: 1.0, "mask where the object never was near": detailed.copied(found, clips, frames)}
    return {
        "measured": rounded(table | detailed.scene_kept(videos, clips)),
        "true frames through the autoencoder": rounded(detailed.scene_kept(through, clips[:8])),
    }


def masks(model: ARTV, clips: Sequence[Clip]) -> dict[str, float]:
    found = mask_by_step(model, clips, TIMES)
    kinds = ("mask on still", "mask on other", "best mask on still", "best mask on other")
    return {f"{kind} cells at t = {t}": found[t][i] for i, kind in enumerate(kinds) for t in TIMES}


def seen_pictures(model: ARTV, prompts: int, frames: int, options: GenerateOptions) -> dict[str, Any]:
    """The quality table of the world of pictures."""
    asked = pictures.picture_prompts(model.config.vocabulary)[:prompts]
    judge, size = pictures.load_judge(pictures.JUDGE).to(DEVICE), model.config.size[0]
    true = pictures.watch(judge, pictures.true_videos(pictures.PictureWorld(), asked, frames, size), asked)
    videos = pictures.make_videos(model, [prompt.caption for prompt in asked], frames, options.seed, {}, None)
    return {"measured": pictures.table_of(pictures.watch(judge, videos, asked), true)}


MEASURED = {"static-detailed": held_textured, "pictures": seen_pictures}
MEASURED |= dict.fromkeys(("static", "static-continued", "drift"), held)


def tables(parts: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Of all parts that are runs alone, those of earlier benchmarks too."""
    return {name: runs_table(part, name) for name, part in parts.items() if "runs" in part and name != "long"}


def runs_table(part: Mapping[str, Any], name: str) -> str:
    """Mean over the seeds, and the largest distance of a seed from it."""
    groups: dict[str, list[dict[str, float | None]]] = {}
    for key, run in part["runs"].items():
        groups.setdefault(key.partition(", seed")[0], []).append(run["measured"])
    header = [f"{name} ({len(runs)} seed{'s' * (len(runs) > 1)})" for name, runs in groups.items()]
    measures = dict.fromkeys(name for runs in groups.values() for run in runs for name in run)
    rows = {name: [spread([run.get(name) for run in runs]) for runs in groups.values()] for name in measures}
    some = f" for 64 frames, {max(2, part['prompts'] // 8)} for" if MEASURED.get(name) is held else ","
    said = {"training": part.get("budget"), "measured on": f"{part['prompts']} prompts{some} {part['frames']} frames"}
    return as_table(header, rows | {what: [text] * len(groups) for what, text in said.items() if text})


def spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    mean = sum(known) / max(1, len(known))
    away = f" ± {max(abs(value - mean) for value in known):.2g}" if len(known) > 1 else ""
    return f"{mean:.3g}{away}" if known else ""


if __name__ == "__main__":
    main()
