"""The shipped checkpoint sampled otherwise: noise level of references and anchor, guidance scales, larger frames."""

from typing import Any

from ablation_parts.measured import from_text
from ablation_parts.pictures import save_sheet
from ablation_parts.runs import Plan, Variant, levels, work_through
from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.config import preset

PROMPTS = 32
FRAMES = {"noise": 32, "guidance": 32, "sizes": 64}


def at_size(factor: float) -> tuple[str, Variant]:
    """`tiny` at so many times its training size, no setting changed."""
    height, width = (round(side * factor) for side in preset("tiny").size)
    return f"{width}x{height}", Variant(options={"height": height, "width": width})


WAYS: dict[str, dict[str, Variant]] = {
    "noise": {f"noise level {n}": Variant(options=levels(n)) for n in (0, 20, 50, 100, 200, 300, 400)},
    "guidance": {
        "1 / 1 / 1": Variant(),
        **{f"{n:g} / 1 / 1": Variant(options={"guidance_references": n}) for n in (0.5, 1.5, 2.0)},
        **{f"1 / {n:g} / 1": Variant(options={"guidance_anchor": n}) for n in (0.5, 1.5, 2.0)},
        **{f"1 / 1 / {n:g}": Variant(options={"guidance_text": n}) for n in (1.5, 2.0, 4.0)},
        "1 / none / 1": Variant(anchor="none"),
    },
    "sizes": dict(at_size(factor) for factor in (1.0, 1.5, 2.0)),
}
"""Guidance: scales of references, anchor and text of the frames after the first. "none": no anchor is given, which the
checkpoint knows from a tenth of its training samples."""


def measure(plan: Plan, kept: dict[str, Any], quick: bool) -> dict[str, Any]:
    """The figures of each way, all on the same prompts."""
    model, ways = load_checkpoint(resolve_checkpoint("tiny")), WAYS[plan.part]
    prompts, frames = (2, 20) if quick else (PROMPTS, FRAMES[plan.part])
    facts = {"checkpoint": model.config.name, "prompts": prompts, "frames": frames}

    def one(name: str, seed: int) -> dict[str, Any]:
        found, videos = from_text(model, ways[name], prompts, frames, seed, folder=plan.folder(name, seed))
        if plan.part == "sizes" and seed == 0 and not quick:
            save_sheet(videos, f"size-{name}")
        return found

    return facts | {"runs": work_through(plan, facts, kept.get("runs", {}), one), "bars": {}}
