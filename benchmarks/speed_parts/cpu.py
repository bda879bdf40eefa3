"""What `artv bench` finds on a CPU: the shipped model; full size beside ModelScope's UNet, which makes whole clips."""

import os
from dataclasses import asdict, replace
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from artv_core.bench.measure import Case, Row, measure_case, measured
from artv_core.bench.peers import PeerCase, measure_modelscope
from artv_core.method.generate import GenerateOptions

from .gpu import STEPS, TWO

SIDE = 256
CLIP = 16
"""Frames of a clip that both make."""


def measure(quick: bool) -> dict[str, Any]:
    """Seconds by the clock, all cores. At full size the first frame and the next are made, the paper's sampler, two
    branches, and a clip is reckoned from them; of ModelScope's 50 steps one is made."""
    tiny = GenerateOptions(num_frames=4 if quick else CLIP)
    rows = in_turns({name: Case("tiny", name, tiny) for name in ("plain", "compiled", "fp8", "reuse 2")}, quick)
    if quick:
        return {"rows": rows, "bars": {}}
    full = replace(GenerateOptions(num_frames=2, width=SIDE, height=SIDE), **STEPS, **TWO)
    large = in_turns({name: Case("preset:sd21", name, full, dtype="bfloat16") for name in ("plain", "compiled")}, True)
    peer = measured(measure_modelscope, PeerCase(SIDE, SIDE, "cpu", "bfloat16", steps=1))
    clip = {name: row.first_frame + (CLIP - 1) * row.per_frame for name, row in large.items()}
    full_size = f"{SIDE}x{SIDE}, bfloat16"
    models = {
        "tiny, 64x64": rows,
        f"SD 2.1's size, {full_size}": large,
        f"ModelScope's UNet, {full_size}": {"16 frames, reckoned from one step of 50": peer},
    }
    seconds = clip | {"ModelScope's UNet": peer.first_frame}
    return {
        "rows": {model: {name: asdict(row) for name, row in ways.items()} for model, ways in models.items()},
        f"seconds of {CLIP} frames, {full_size}": {name: round(value) for name, value in seconds.items()},
        "bars": {},
    }


def in_turns(cases: dict[str, Case], once: bool) -> dict[str, Row]:
    """Of three rounds, for other work on the machine disturbs, the row whose time per frame is the middle one; the
    warm-up is that of the first, when nothing was compiled before."""
    found: dict[str, list[Row]] = {name: [] for name in cases}
    with TemporaryDirectory() as cache, patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=cache):
        for _ in range(1 if once else 3):
            for name, case in cases.items():
                found[name].append(measured(measure_case, case))
                print(f"  {found[name][-1]}", flush=True)
    middle = {name: sorted(rows, key=lambda row: row.per_frame)[len(rows) // 2] for name, rows in found.items()}
    return {name: replace(row, warm_up=found[name][0].warm_up) for name, row in middle.items()}
