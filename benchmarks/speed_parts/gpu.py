"""On a GPU: our frames at full size against the roofline, and against one-shot generation on the same card.

The roofline's floors are for one H200: the time of a frame's arithmetic and memory traffic at that card's peaks.
`--quick` tries the code with `tiny` on whatever there is.
"""

from dataclasses import asdict, replace
from typing import Any

import torch

from artv_core.bench.measure import Case, Row, measure_case, measured
from artv_core.bench.peers import PeerCase, measure_modelscope
from artv_core.generate import GenerateOptions

FLOOR_MS = {256: 74.0, 512: 278.0, 768: 742.0}
"""Of a frame with 25 steps of 2S and four branches, on an H200."""

FOUR = {"guidance_references": 1.3, "guidance_anchor": 1.6, "guidance_text": 7.5}
TWO = {"guidance_references": 1.0, "guidance_anchor": 1.0, "guidance_text": 7.5}
STEPS: dict[str, Any] = {"steps": 25, "sampler": "dpmpp_2s_ancestral"}
SIDES = (256, 512, 768)


def measure(quick: bool) -> dict[str, Any]:
    """Rows of all cases, and the bars."""
    if quick:
        return {"rows": asdict(ours(64, TWO, 3, "plain", "preset:tiny", "float32")), "bars": {}}
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU here; --quick tries the code on the CPU")
    four = {side: ours(side, FOUR, 16, "compiled") for side in SIDES}
    two = {side: ours(side, TWO, 16, "compiled") for side in SIDES}
    theirs = {side: peer(side) for side in SIDES}
    lengths = {frames: ours(256, TWO, frames, "compiled") for frames in (10, 200)}
    on_h200 = "H200" in torch.cuda.get_device_name()
    clip = {side: two[side].first_frame + 15 * two[side].per_frame for side in SIDES}
    bars: dict[str, float | None] = {
        f"GPU, {side}x{side}: share of the roofline": FLOOR_MS[side] / 1000 / four[side].per_frame if on_h200 else None
        for side in SIDES
    }
    prefix = "GPU against ModelScope's UNet"
    bars |= {
        f"{prefix}: clips per second at two branches, times theirs": theirs[512].first_frame / clip[512],
        f"{prefix}: time to first frame, times sooner": theirs[512].first_frame / two[512].first_frame,
        f"{prefix}: peak memory at 512x512, share of theirs": two[512].peak_mb / theirs[512].peak_mb,
        f"{prefix}: peak memory at 768x768, share of theirs": two[768].peak_mb / theirs[768].peak_mb,
        "GPU: peak memory of 200 frames over that of 10": lengths[200].peak_mb / lengths[10].peak_mb,
    }
    tables = {"four branches": four, "two branches": two, "ModelScope's UNet": theirs, "by frames": lengths}
    return {
        "device": torch.cuda.get_device_name(),
        **{name: {key: asdict(row) for key, row in rows.items()} for name, rows in tables.items()},
        "ModelScope's UNet, VAE sliced": {side: asdict(peer(side, sliced=True)) for side in SIDES},
        "bars": bars,
    }


def ours(
    side: int,
    scales: dict[str, float],
    frames: int,
    variant: str,
    model: str = "preset:sd21",
    dtype: str = "bfloat16",
) -> Row:
    """A clip with random weights."""
    options = replace(GenerateOptions(num_frames=frames, width=side, height=side), **STEPS, **scales)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    row = measured(measure_case, Case(model, variant, options, device, dtype))
    print(f"  {row}", flush=True)
    return row


def peer(side: int, sliced: bool = False) -> Row:
    """A clip of 16 frames, compiled too."""
    row = measured(measure_modelscope, PeerCase(side, side, "cuda", "bfloat16", compiled=True, sliced=sliced))
    print(f"  {row}", flush=True)
    return row
