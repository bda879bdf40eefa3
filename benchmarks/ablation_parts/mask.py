"""How strong the copy mask is over the denoising steps (the paper's Fig. 4), and why it falls where it does.

The explanation that is tested: at a low noise level the noised latent itself says more of a still cell than the last
frame does, as soon as sigma is below the difference d between the two latents of what did not move. So the mask falls
near sigma = d. Three tests: the mask that is best there, reckoned from both errors; frames whose still cells are made
equal to the last frame's, where it should stay up; and tiny-v2, whose d is five times as large.
"""

import subprocess
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from documents import save_lines
from torch import Tensor

from ablation_parts.pictures import FOLDER, save_grid
from ablation_parts.runs import levels
from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.method.conditioning import Conditioners, FrameInputs, frame_denoiser, noised
from artv_core.method.denoiser import Evaluated, FrameTask, GuidanceScales, evaluate
from artv_core.method.generate import GenerateOptions, generate_frames
from artv_core.method.noise_schedule import NoiseSchedule
from artv_core.method.randomness import normal, stream
from artv_core.method.text_track import TextSegment, TextTrack
from artv_core.models.artv import ARTV
from artv_core.synthetic.quality import quality_clips
from artv_core.synthetic.shapes import Clip, render
from artv_core.training.vae import unchanged_cells

ROOT = Path(__file__).resolve().parents[2]
EARLIER = "artv_core/checkpoints/tiny-v2.safetensors"
LEVELS = (0, 50, 100, 200, 400)
STEPS = 25
TIMES = (999, 900, 800, 700, 600, 500, 400, 300, 200, 150, 100, 70, 50, 30, 20, 10, 5, 2, 0)
LEVEL = 50
"""Noise level of references and anchor where true frames are given."""


def measure(quick: bool) -> dict[str, Any]:
    """Mean masks while sampling, by noise level; and on true frames noised to each time step, by kind of cell."""
    count = 4 if quick else 48
    model = load_checkpoint(resolve_checkpoint("tiny"))
    with torch.no_grad():
        sampled = {str(level): while_sampling(model, level, 4 if quick else 16) for level in LEVELS}
        guessed = {model.config.name: on_true_frames(model, count)}
        guessed[f"{model.config.name}, still cells made equal"] = on_true_frames(model, count, made_equal=True)
        earlier = earlier_model()
        if earlier is not None:
            guessed[earlier.config.name] = on_true_frames(earlier, count)
        if not quick:
            mask_pictures(model, quality_clips(6))
            draw(sampled, guessed)
    return {"sampled": sampled, "on true frames": guessed, "steps": STEPS, "bars": {}}


def while_sampling(model: ARTV, level: int, prompts: int) -> dict[str, list[float]]:
    """The mask of each evaluation, averaged over cells and over frames 2 to 15 of videos from text."""
    strengths: dict[float, list[float]] = defaultdict(list)

    def noted(task: FrameTask, x: Tensor, numbers: Tensor, reuse: Any = None) -> Evaluated:
        found = evaluate(task, x, numbers, reuse)
        if found.mask is not None:
            strengths[round(float(numbers[2]), 1)].append(float(found.mask.mean()))
        return found

    options = GenerateOptions(num_frames=16, batch_size=prompts, seed=0, steps=STEPS, **levels(level))
    captions = [clip.caption for clip in quality_clips(prompts)]
    for _ in generate_frames(model, track(model, captions), options, evaluate=noted):
        pass
    times = sorted(strengths, reverse=True)
    return {"t": times, "mask": [round(sum(strengths[t]) / len(strengths[t]), 4) for t in times]}


@dataclass(frozen=True)
class TrueFrames:
    """Latents [N, C, h, w] of third frames and of those before, and which of their cells [N, 1, h, w] are still."""

    before: Tensor
    reference: Tensor
    target: Tensor
    still: Tensor


def true_frames(model: ARTV, clips: list[Clip], made_equal: bool) -> TrueFrames:
    frames = render(clips, 3, *model.config.size)
    before, reference, target = (model.encode_images(frames[:, index]) for index in range(3))
    still = unchanged_cells(frames[:, 1], frames[:, 2], model.config.vae.factor) > 0
    if made_equal:
        target = torch.where(still, reference, target)
    return TrueFrames(before, reference, target, still)


def on_true_frames(model: ARTV, count: int, made_equal: bool = False) -> dict[str, Any]:
    """At each time step: the mask on cells that are still and that are not, the mask that would have been best on the
    still ones, and how far the noise network alone is from the truth there."""
    clips = quality_clips(count)
    true, schedule = true_frames(model, clips, made_equal), NoiseSchedule(model.config.schedule)
    inputs = given(model, schedule, clips, true)
    masked = frame_denoiser(schedule, Conditioners.of(model), inputs, GuidanceScales())
    plain = frame_denoiser(schedule, Conditioners.of(model, use_mask=False), inputs, GuidanceScales())
    noise = torch.stack([normal(tuple(true.target.shape[1:]), stream(0, index)) for index in range(count)])
    found: dict[str, list[float]] = defaultdict(list)
    for t in TIMES:
        sigma = schedule.sigma(torch.tensor(float(t)))
        x = true.target + sigma.float() * noise
        masked(x, sigma)
        assert masked.mask is not None
        dynamic = plain(x, sigma)
        found["t"].append(t)
        found["sigma"].append(round(float(sigma), 5))
        found["mask, still cells"].append(mean_at(masked.mask, true.still))
        found["mask, other cells"].append(mean_at(masked.mask, ~true.still))
        found["best mask, still cells"].append(best_mask(dynamic, true))
        found["error of the noise network, still cells, rms"].append(
            root_mean_square(dynamic - true.target, true.still)
        )
    difference = root_mean_square(true.reference - true.target, true.still)
    return {"clips": count, "difference of still cells, rms": difference, **found}


def given(model: ARTV, schedule: NoiseSchedule, clips: list[Clip], true: TrueFrames) -> FrameInputs:
    seeds = list(range(len(clips)))
    return FrameInputs(
        context=model.encode_text([clip.caption for clip in clips]),
        null_context=model.null_context,
        references=noised(schedule, torch.cat([true.before, true.reference], dim=1), LEVEL, seeds, 2, "references"),
        anchor=noised(schedule, true.before, LEVEL, seeds, 2, "anchor"),
        reference_latent=true.reference,
        has_anchor=True,
    )


def best_mask(dynamic: Tensor, true: TrueFrames) -> float:
    """The one mask for all still cells by which the mixture (Eq. 7) is nearest to the truth."""
    towards, error = (true.reference - dynamic)[still_of(true)], (true.target - dynamic)[still_of(true)]
    return round(float(((towards * error).sum() / towards.square().sum().clamp(min=1e-12)).clamp(0, 1)), 4)


def still_of(true: TrueFrames) -> Tensor:
    return true.still.expand_as(true.target)


def mean_at(mask: Tensor, where: Tensor) -> float:
    return round(float(mask[where].mean()), 4)


def root_mean_square(difference: Tensor, where: Tensor) -> float:
    return round(float(difference[where.expand_as(difference)].square().mean().sqrt()), 5)


def earlier_model() -> ARTV | None:
    """tiny-v2, out of the history; None where that is not at hand."""
    named = subprocess.run(
        ["git", "log", "-1", "--format=%h", "--diff-filter=A", "--", EARLIER],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    shown = subprocess.run(["git", "show", f"{named}:{EARLIER}"], cwd=ROOT, capture_output=True, check=False)
    if not named or shown.returncode:
        print("  tiny-v2 is not in this copy's history and is left out")
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny-v2.safetensors"
        path.write_bytes(shown.stdout)
        return load_checkpoint(path)


def track(model: ARTV, captions: list[str]) -> TextTrack:
    return TextTrack([TextSegment(0, model.encode_text(captions))])


def mask_pictures(model: ARTV, clips: list[Clip]) -> None:
    """As in the paper's Fig. 4 and 9: the mask at each time step, white where the last frame is copied."""
    true, schedule = true_frames(model, clips, made_equal=False), NoiseSchedule(model.config.schedule)
    denoiser = frame_denoiser(schedule, Conditioners.of(model), given(model, schedule, clips, true), GuidanceScales())
    noise = torch.stack([normal(tuple(true.target.shape[1:]), stream(0, index)) for index in range(len(clips))])
    shown = []
    for t in TIMES:
        sigma = schedule.sigma(torch.tensor(float(t)))
        denoiser(true.target + sigma.float() * noise, sigma)
        assert denoiser.mask is not None
        shown.append(F.interpolate(denoiser.mask, scale_factor=model.config.vae.factor).expand(-1, 3, -1, -1))
    frames, masks = render(clips, 3, *model.config.size), torch.stack(shown, dim=1)
    pictures = torch.cat([frames[:, 1:], masks], dim=1)
    save_grid("masks-over-steps", pictures, ["last frame", "this frame", *(f"t = {t}" for t in TIMES)])


def draw(sampled: dict[str, Any], guessed: dict[str, Any]) -> None:
    levels = {f"noise level {level}": [(found["t"], found["mask"])] for level, found in sampled.items()}
    masks = {name: [(found["sigma"], found["mask, still cells"])] for name, found in guessed.items()}
    best = {name: [(found["sigma"], found["best mask, still cells"])] for name, found in guessed.items()}
    save_lines(
        FOLDER / "mask-while-sampling.png",
        {"mean mask while sampling": levels},
        "time step (noise on the left)",
        reverse=True,
    )
    save_lines(
        FOLDER / "mask-still-cells.png",
        {"mask on still cells of true frames": masks, "the mask that would be best there": best},
        "sigma (noise on the left)",
        log=True,
        reverse=True,
    )
