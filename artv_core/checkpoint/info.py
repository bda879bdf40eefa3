"""Facts from a checkpoint's header as plain data, for a web page."""

from pathlib import Path
from typing import Any

from .checking import check_base_family, open_file
from .names import PARTS, parts_held
from .summary import CheckpointSummary


def checkpoint_facts(summary: CheckpointSummary, base: str | Path | None = None) -> dict[str, Any]:
    """What `artv info` prints, as JSON data without any path.

    `megabytes` are 10^6 bytes. `size` is [width, height] in pixels. `parameters` has a count for each name in `PARTS`.
    `missing` lists the names in `PARTS` that are neither in the file nor taken from `base` (a path); frames can be made
    without "mask". `recommended` uses the names of the nodes' inputs; its levels are time steps. Raises ValueError if
    `base` is not a file that tensors can be read from, or not of the kind that the checkpoint needs.
    """
    config, sampling = summary.config, summary.config.sampling
    held = {*summary.parts} if base is None else {*summary.parts, *_taken_from(base, summary)}
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
        "missing": [part for part in PARTS if part not in held],
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


def _taken_from(base: str | Path, summary: CheckpointSummary) -> set[str]:
    """The parts that loading takes from the base. Raises ValueError if they cannot be used."""
    file, config = open_file(base), summary.config
    taken = parts_held(file, config.vae) - {*summary.parts} - ({"mask"} if config.mask is None else set())
    check_base_family(file, taken, summary.path, config)
    return taken


def parts_in(path: str | Path) -> tuple[str, ...]:
    """The names (in `PARTS`) of the parts in a base: an ARTV checkpoint, or a public Stable Diffusion file (LDM keys).
    Reads only the header. Raises ValueError if it cannot be read."""
    held = parts_held(open_file(path))
    return tuple(part for part in PARTS if part in held)
