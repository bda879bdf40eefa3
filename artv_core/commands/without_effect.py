"""Warnings of `artv generate` about options that change nothing in this video."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..run.job import Job


def without_effect(args: argparse.Namespace, job: Job) -> Iterator[str]:
    """A line for each option, or prompt, that has no effect on the job that the arguments describe."""
    end = job.options.num_frames
    beyond = [start for start, _ in job.prompts if 0 < end <= start]
    if beyond:
        yield f"the video ends before frame {beyond[0]}, where a prompt starts; prompts left out: {len(beyond)}"
    for start, seed in job.options.redo:
        if 0 < end <= start:
            yield f"the video ends before frame {start}, so --redo {start}:{seed} has no effect"
    needs_anchor = {
        "--adain": args.adain,
        "--return-to-anchor": args.return_to_anchor,
        "--cfg-anchor": args.cfg_anchor is not None,
    }
    for option in (name for name, value in needs_anchor.items() if value and job.anchor == "none"):
        yield f"{option} has no effect with --anchor none"
    if args.no_mask and args.return_to_anchor and job.anchor != "none":
        yield "--return-to-anchor has no effect with --no-mask, because it needs the copy mask"
    first = {"--cfg-first": args.cfg_first, "--first-frame-steps": args.first_frame_steps}
    for option in (name for name, value in first.items() if value is not None and not _makes_first_frame(job)):
        yield f"{option} has no effect, because the first frame is given"
    if job.negative is not None and not _guides_away_from_a_text(job):
        yield "--negative has no effect where guidance is 1; give --cfg-text, or --cfg-first for the first frame"


def _makes_first_frame(job: Job) -> bool:
    return not job.num_given and not any(frame == 0 for frame, _ in job.keyframes)


def _guides_away_from_a_text(job: Job) -> bool:
    """Whether a frame that is made has a branch without its text (Eq. 8): if one of its scales is not 1."""
    options, of_text = job.options, job.options.guidance_text
    scales = {options.first_frame_guidance} if _makes_first_frame(job) else set()
    if job.anchor == "given" or (job.anchor != "none" and options.num_frames != 1):
        scales.add(options.guidance_anchor)
    if options.num_frames != 1:
        values = [value for _, value in of_text] if isinstance(of_text, tuple) else [of_text]
        scales.update([options.guidance_references, *values])
    return scales != {1}
