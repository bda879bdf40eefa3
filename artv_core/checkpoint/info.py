"""Facts from a checkpoint's header as plain data, for a web page."""

from pathlib import Path
from typing import Any

from ..files.tensor_file import TensorFile
from .checking import check_base, open_file, prediction_problem, prediction_warning
from .names import PARTS, parts_held, usable_parts
from .summary import CheckpointSummary


def checkpoint_facts(summary: CheckpointSummary, base: str | Path | None = None) -> dict[str, Any]:
    """What `artv info` prints, as JSON data without any path.

    `megabytes` are 10^6 bytes. `size` is [width, height] in pixels. `parameters` has a count for each name in `PARTS`.
    `missing` lists the names in `PARTS` that are neither in the file nor taken from `base` (a path); frames can be made
    without "mask", and "lora" is never missing. `warning` says if the UNet of `base` predicts something else than the
    checkpoint needs, else it is None. `recommended` uses the names of the nodes' inputs; its levels are time steps.
    Raises ValueError if `base` is not a file that tensors can be read from, or not of the kind that the checkpoint
    needs.
    """
    config, sampling = summary.config, summary.config.sampling
    taken, warning = (set(), None) if base is None else _of_base(open_file(base), summary)
    height, width = config.size
    return {
        "name": config.name,
        "megabytes": summary.file_bytes / 1e6,
        "dtypes": list(summary.dtypes),
        "size": [width, height],
        "fps": config.fps,
        "segment_frames": config.segment_frames,
        "parameters": dict(summary.parameters),
        "parameters_together": sum(summary.parameters.values()),
        "prediction": config.schedule.prediction,
        "timesteps": config.schedule.num_timesteps,
        "static_noise": config.schedule.static_noise,
        "references": config.noise.adapter.num_references,
        "anchor_tokens": config.noise.anchor.num_tokens,
        "vocabulary": list(config.vocabulary),
        "trained_on": summary.base,
        "missing": [part for part in PARTS if part not in {*summary.parts, *taken, "lora"}],
        "warning": warning,
        "first_frame_steps": sampling.first_frame_steps or sampling.steps,
        "recommended": {
            "steps": sampling.steps,
            "sampler_name": sampling.sampler,
            "cfg": sampling.guidance_text,
            "cfg_references": sampling.guidance_references,
            "cfg_anchor": sampling.guidance_anchor,
            "cfg_first_frame": sampling.first_frame_guidance,
            "reference_level": sampling.reference_noise_level,
            "anchor_level": sampling.anchor_noise_level,
            "eta": sampling.eta,
            "return_to_anchor": sampling.return_to_anchor,
        },
    }


def _of_base(base: TensorFile, summary: CheckpointSummary) -> tuple[set[str], str | None]:
    """The parts that loading takes from the base, and a warning about them or None. Raises ValueError if they cannot be
    used."""
    config = summary.config
    taken = parts_held(base, config.vae) & {*usable_parts(config)} - {*summary.parts}
    check_base(base, taken, summary.path, config)
    problem = prediction_problem(base, config) if "unet" in taken else None
    return taken, problem and f"{base.path.name} {problem}"


def base_warning(summary: CheckpointSummary, base: str | Path) -> str | None:
    """A one-line warning if the checkpoint takes its UNet from `base` and that predicts (or seems to predict) something
    else than the checkpoint needs, else None."""
    return None if "unet" in summary.parts else prediction_warning(base, summary.config)


def parts_in(path: str | Path) -> tuple[str, ...]:
    """The names (in `PARTS`) of the parts in a base: an ARTV checkpoint, or a public Stable Diffusion file (LDM keys).
    Reads only the header. Raises ValueError if it cannot be read."""
    held = parts_held(open_file(path))
    return tuple(part for part in PARTS if part in held)
