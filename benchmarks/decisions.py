"""What was decided by measurement, at equal budgets: `python benchmarks/decisions.py [NAME ...]`.

Three kinds. Decisions about sampling are measured on the shipped checkpoint. Decisions about training are measured on
models trained from nothing for the same number of steps on the same clips, with the same draws, and decisions about
fine-tuning on models that go on from the shipped one; those need a run's autoencoder and latents (`python train.py
--config configs/tiny.toml --stages vae,latents`).

Each finished variant is kept in `runs/decisions/`, so the command can be stopped and called again, or called twice side
by side with other names; every call ends by writing `benchmarks/results/decisions.json` and the tables of
`docs/decisions.md`, where it also says what was made of them.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from artv_core.checkpoint import load_checkpoint, shipped_checkpoint
from artv_core.evaluation.denoising import denoising_error
from artv_core.method import conditioning, generate
from artv_core.method.frames import AnchorPolicy
from artv_core.method.generate import GenerateOptions
from artv_core.models.artv import ARTV
from artv_core.models.attention import CrossAttention, TokenProjections, attend, split_heads
from artv_core.synthetic.quality import appearance, direction, holding, quality_clips, read_rollout
from artv_core.synthetic.shapes import render
from artv_core.training.config import TrainConfig, read_config
from artv_core.training.diffusion import DiffusionTraining, unlikeness
from artv_core.training.run import run
from artv_core.training.samples import Batch
from artv_core.training.sheets import rollout

RESULT = ROOT / "benchmarks/results/decisions.json"
DOCUMENT = ROOT / "docs/decisions.md"
MARKER = "<!-- tables: benchmarks/decisions.py -->\n"
Patch = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Variant:
    """One way of doing it. `question` groups the variants that answer it; `patch` is for ways the package lacks."""

    question: str
    options: dict[str, Any] = field(default_factory=dict)
    stage: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    patch: Patch = nullcontext


@contextmanager
def noised_copy() -> Iterator[None]:
    """Copy from the last reference as the networks see it, noised, in place of the clean one."""

    def build(schedule: Any, networks: Any, inputs: conditioning.FrameInputs, *rest: Any, **named: Any) -> Any:
        if inputs.reference_latent is not None:
            channels = inputs.reference_latent.shape[1]
            inputs = replace(inputs, reference_latent=inputs.references.latents[:, -channels:])
        return conditioning.frame_denoiser(schedule, networks, inputs, *rest, **named)

    with patch.object(generate, "frame_denoiser", build):
        yield


@contextmanager
def noised_copy_in_training() -> Iterator[None]:
    whole = DiffusionTraining.arguments

    def arguments(self: DiffusionTraining, batch: Batch, device: torch.device) -> tuple[Tensor, ...]:
        parts = list(whole(self, batch, device))
        references, clean = parts[6], parts[10]
        parts[10] = references[:, -clean.shape[1] :]
        return tuple(parts)

    with noised_copy(), patch.object(DiffusionTraining, "arguments", arguments):
        yield


@contextmanager
def joint_attention() -> Iterator[None]:
    """Anchor tokens beside the text's in one attention with one output, in place of an attention of their own."""

    def forward(self: CrossAttention, x: Tensor, tokens: TokenProjections) -> Tensor:
        keys, values = tokens.text[self.index]
        if tokens.anchor is not None:
            anchor_keys, anchor_values = tokens.anchor[self.index]
            keys, values = torch.cat([keys, anchor_keys], dim=2), torch.cat([values, anchor_values], dim=2)
        return self.to_out[0](attend(split_heads(self.to_q(x), self.heads), (keys, values)))

    with patch.object(CrossAttention, "forward", forward):
        yield


def rolling_anchor() -> AbstractContextManager[Any]:
    """The anchor is the frame ten before, in place of the first one."""
    return patch.object(generate, "AnchorPolicy", lambda: AnchorPolicy("rolling"))


def unet(**fields: Any) -> dict[str, Any]:
    return {"noise": {"unet": fields}}


COMPARED: dict[str, Any] = {
    "sampler": "dpmpp_2s_ancestral",
    "steps": 10,
    "guidance_text": 1.0,
    "first_frame_guidance": 3.0,
    "reference_noise_level": 50,
    "anchor_noise_level": 50,
}
"""What every variant has but for what it names: what was recommended before any of this was measured."""

BEFORE = "dpmpp_2s_ancestral, 10 steps"
GUIDED = {"guidance_text": 2.0}
LEVELS = (0, 20, 80)


def levels(references: int, anchor: int | None = None) -> dict[str, int]:
    return {"reference_noise_level": references, "anchor_noise_level": references if anchor is None else anchor}


SAMPLING = {
    BEFORE: Variant("sampling: what the others are compared with"),
    "guided, mixed once": Variant("sampling: mix the copy in once after guidance, or in every branch", GUIDED),
    "guided, mixed in every branch": Variant(
        "sampling: mix the copy in once after guidance, or in every branch", GUIDED | {"mix_mode": "every_branch"}
    ),
    "copy noised": Variant("sampling: copy the clean or the noised reference, trained on clean", patch=noised_copy),
    "no mask network": Variant("sampling: the mask network", {"use_mask": False}),
    **{f"noise level {n}": Variant("sampling: noise level of references and anchor", levels(n)) for n in LEVELS},
    "anchor clean": Variant("sampling: noise level of references and anchor", {"anchor_noise_level": 0}),
    **{f"{n} steps": Variant("sampling: denoising steps", {"steps": n}) for n in (6, 16)},
    **{
        f"dpmpp_2m, {n} steps": Variant("sampling: denoising steps", {"sampler": "dpmpp_2m", "steps": n})
        for n in (8, 12, 16)
    },
    **{f"guidance {n:g}": Variant("sampling: text guidance of later frames", {"guidance_text": n}) for n in (1.5, 2.5)},
    **{
        f"first guidance {n:g}": Variant("sampling: text guidance of the first frame", {"first_frame_guidance": n})
        for n in (1.5, 6.0)
    },
    **{f"AdaIN {n:g}": Variant("sampling: brakes on drift", {"adain_strength": n}) for n in (0.2, 1.0)},
    "rolling anchor": Variant("sampling: brakes on drift", patch=rolling_anchor),
}

TRAINING = {
    "base": Variant("training: the recipe, shortened"),
    "joint anchor": Variant("training: anchor as an attention of its own", patch=joint_attention),
    "no anchor": Variant("training: anchor as an attention of its own", stage={"drop_anchor": 1.0}),
    "noised copy": Variant("training: copy the clean or the noised reference", patch=noised_copy_in_training),
    "predict eps": Variant("training: prediction type", overrides={"schedule": {"prediction": "eps"}}),
    "uniform time steps": Variant("training: loss weighting", stage={"uniform_share": 1.0}),
    "no detail weight": Variant("training: loss weighting", stage={"detail_weight": 0.0}),
    "weight cap 1": Variant("training: loss weighting", stage={"weight_cap": 1.0}),
    "weight cap 20": Variant("training: loss weighting", stage={"weight_cap": 20.0}),
    "auxiliary 0": Variant("training: share of the noise network's own loss", stage={"auxiliary_share": 0.0}),
    "auxiliary 0.5": Variant("training: share of the noise network's own loss", stage={"auxiliary_share": 0.5}),
    "64 channels": Variant("training: size of the noise network", overrides=unet(model_channels=64, head_channels=32)),
    "1 block": Variant("training: size of the noise network", overrides=unet(num_res_blocks=1)),
    "two levels": Variant(
        "training: size of the noise network",
        overrides=unet(model_channels=64, channel_mult=[1, 2], attention_levels=[0, 1], head_channels=32),
    ),
    "adamw": Variant("training: optimizer", stage={"optimizer": "adamw"}),
}

GENTLE = {"start_from": "tiny", "muon_learning_rate": 1e-3, "learning_rate": 3e-4}
FINE_TUNING = {
    name: Variant("fine-tuning: on the model's own rollouts", stage=GENTLE | {"rollout_share": share})
    for name, share in (("true frames only", 0.0), ("half rollouts", 0.5))
}

TRAINED = TRAINING | FINE_TUNING


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="variants to measure (default: all that are not measured yet)")
    parser.add_argument("--config", default=str(ROOT / "configs/tiny.toml"), help="the base of the trained variants")
    parser.add_argument("--run", default=str(ROOT / "runs/tiny-v3"), help="folder with vae and latents.safetensors")
    parser.add_argument("--work", default=str(ROOT / "runs/decisions"), help="where finished variants are kept")
    parser.add_argument("--steps", type=int, default=400, help="training steps of each trained variant")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--frames", type=int, default=32, help="frames of each video, of models from nothing 16")
    parser.add_argument("--prompts", type=int, default=32, help="held-out prompts of each measurement")
    parser.add_argument("--collect", action="store_true", help="only gather and print what is finished")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in SAMPLING | TRAINED]
    if unknown:
        parser.error(f"unknown variant {unknown[0]!r}; known: {', '.join(SAMPLING | TRAINED)}")
    for name in [] if args.collect else args.names or [*SAMPLING, *TRAINED]:
        kept = Path(args.work) / f"{name}.json"
        if not kept.is_file():
            result = measure_sampling(name, args) if name in SAMPLING else measure_training(name, args)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(result, indent=1))
            print(f"{name}: {json.dumps(result['measured'])}", flush=True)
    collect(Path(args.work))


def measure_sampling(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """The shipped checkpoint, sampled in one way."""
    path = shipped_checkpoint("tiny")
    model, variant = load_checkpoint(path), SAMPLING[name]
    with variant.patch():
        measured = videos_measured(model, args.prompts, args.frames, variant.options)
    budget = f"{path.stem}, {args.frames} frames"
    return {"question": variant.question, "budget": budget, "prompts": args.prompts, "measured": measured}


def measure_training(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """A model trained in one way, then asked for frames from text, and to denoise held-out frames."""
    variant, folder = TRAINED[name], Path(args.work) / name.replace(" ", "-")
    config = variant_config(read_config(args.config), folder.name, variant, args.steps, args.batch_size)
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("vae.safetensors", "latents.safetensors"):
        if not (folder / part).exists():
            os.link(Path(args.run) / part, folder / part)
    frames = args.frames if config.diffusion.start_from else 16
    with variant.patch():
        started = time.process_time()
        run(config, str(Path(args.work)), ["diffusion", "export"], resume=True)
        seconds = time.process_time() - started
        model = load_checkpoint(folder / f"{folder.name}.safetensors")
        measured: dict[str, float | None] = errors_measured(model) | videos_measured(model, args.prompts, frames, {})
    measured["training, CPU s per step"] = round(seconds / args.steps, 3)
    measured["noise network, million parameters"] = round(sum(p.numel() for p in model.noise.parameters()) / 1e6, 2)
    budget = f"{args.steps} steps of {args.batch_size} samples"
    return {"question": variant.question, "budget": budget, "prompts": args.prompts, "measured": measured}


def variant_config(base: TrainConfig, name: str, variant: Variant, steps: int, batch_size: int) -> TrainConfig:
    """The base's diffusion stage, shortened: a tenth of it warms up, two fifths decay."""
    short = {"steps": steps, "batch_size": batch_size, "warmup_steps": steps // 10, "decay_steps": 2 * steps // 5}
    quiet = {"sheet_every": 10 * steps, "sheet_rows": 1, "sheet_columns": 2, "ema_decay": 0.99}
    stage = replace(base.diffusion, **(short | quiet | variant.stage))
    return replace(base, name=name, diffusion=stage, overrides=variant.overrides)


def errors_measured(model: ARTV) -> dict[str, float]:
    """One-step errors on the object's cells of 64 held-out clips."""
    clips = quality_clips(64)
    with torch.no_grad():
        frames = render(clips, 3, *model.config.size)
        latents = torch.stack([model.encode_images(frames[:, index]) for index in range(3)], dim=1)
    errors = denoising_error(model, latents, [clip.caption for clip in clips], unlikeness(latents[:, -1]))
    return {f"error, {name}": round(value, 4) for name, value in errors.items()}


def videos_measured(model: ARTV, prompts: int, frames: int, options: dict[str, Any]) -> dict[str, float | None]:
    """The rows of the quality table that videos from text alone can show."""
    clips = quality_clips(prompts)
    chosen = GenerateOptions(num_frames=frames, batch_size=prompts, seed=0, **(COMPARED | options))
    started = time.process_time()
    with torch.no_grad():
        videos = rollout(model, [clip.caption for clip in clips], chosen)
    seconds = time.process_time() - started
    read = read_rollout(videos)
    table = appearance(read, clips) | {"direction from text": direction(read, clips, 0, 16)}
    table |= holding(read, clips, frames - 1)
    table["CPU s per frame, in a batch"] = seconds / frames / prompts
    return {name: None if math.isnan(value) else round(value, 4) for name, value in table.items()}


def collect(work: Path) -> None:
    """Write and print all finished variants, in the order they are listed above."""
    kept = {name: work / f"{name}.json" for name in [*SAMPLING, *TRAINED]}
    found = {name: json.loads(path.read_text()) for name, path in kept.items() if path.is_file()}
    if not found:
        print("nothing is measured yet")
        return
    RESULT.write_text(json.dumps({"command": "python benchmarks/decisions.py", "variants": found}, indent=1) + "\n")
    text, marker, _ = DOCUMENT.read_text(encoding="utf-8").partition(MARKER)
    DOCUMENT.write_text(text + marker + markdown(found), encoding="utf-8")
    print(markdown(found))


def markdown(found: dict[str, dict[str, Any]]) -> str:
    """One table for each question, one column for each of its variants and for what they are compared with."""
    parts = []
    for question in dict.fromkeys(result["question"] for result in found.values()):
        group = {name: result for name, result in found.items() if result["question"] == question}
        base = "base" if next(iter(group)) in TRAINING else BEFORE
        if base in found and base not in group:
            group = {base: found[base]} | group
        measures = list(dict.fromkeys(name for result in group.values() for name in result["measured"]))
        rows = [["measure", *group], ["---"] * (len(group) + 1)]
        rows += [[name, *(_written(result["measured"].get(name)) for result in group.values())] for name in measures]
        lines = "\n".join("| " + " | ".join(row) + " |" for row in rows)
        one = next(iter(group.values()))
        parts.append(f"\n### {question}\n\n{one['budget']}; {one['prompts']} prompts.\n\n{lines}\n")
    return "".join(parts)


def _written(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    main()
