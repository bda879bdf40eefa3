"""The shipped checkpoint sampled otherwise: noise level of references and anchor, and guidance scales."""

from typing import Any

from ablation_parts.measured import from_text
from ablation_parts.runs import Variant, levels
from artv_core.checkpoint import load_checkpoint, resolve_checkpoint

PROMPTS, FRAMES = 32, 32

WAYS: dict[str, dict[str, Variant]] = {
    "noise": {f"noise level {n}": Variant(options=levels(n)) for n in (0, 20, 50, 100, 200, 300, 400)},
    "guidance": {
        "1 / 1 / 1": Variant(),
        **{f"{n:g} / 1 / 1": Variant(options={"guidance_references": n}) for n in (0.5, 1.5, 2.0)},
        **{f"1 / {n:g} / 1": Variant(options={"guidance_anchor": n}) for n in (0.5, 1.5, 2.0)},
        **{f"1 / 1 / {n:g}": Variant(options={"guidance_text": n}) for n in (1.5, 2.0, 4.0)},
    },
}
"""Scales of references, anchor and text of the frames after the first."""


def measure(part: str, quick: bool) -> dict[str, Any]:
    """The figures of each way, on the same prompts and seed."""
    model = load_checkpoint(resolve_checkpoint("tiny"))
    found = {}
    for name, variant in WAYS[part].items():
        found[name] = from_text(model, variant, *((4, 20) if quick else (PROMPTS, FRAMES)))[0]
        print(f"  {name}: {found[name]['measured']}", flush=True)
    return {"checkpoint": model.config.name, "prompts": PROMPTS, "frames": FRAMES, "ways": found, "bars": {}}
