"""Work of a clip at full size, counted on the meta device."""

from dataclasses import asdict, replace
from typing import Any

from artv_core.config import preset
from artv_core.evaluation.work import Work, video_work
from artv_core.method.samplers import num_evaluations
from tests.naive import PAPER, naive_work

from .gpu import TWO

MODELSCOPE = 20_827e9 * 50 * 2
"""FLOPs of a clip of 16 frames at 512x512 by ModelScope's UNet: 50 steps, two branches."""


def measure(quick: bool) -> dict[str, Any]:
    """Of the whole clip, of one frame in its midst, at two branches, and with each shortcut."""
    side = 64 if quick else 512
    options = replace(PAPER, num_frames=16, height=side, width=side)
    config = preset("sd21")
    clip, frame = video_work(config, options)
    evaluations = options.num_frames * num_evaluations("dpmpp_2s_ancestral", 25)
    formulas = naive_work(config, ((options.height or 0) // 8, (options.width or 0) // 8)) * (4 * evaluations)
    bars = "16 frames at 512x512, 25 steps of 2S, 4 branches"
    return {
        "GFLOP of the clip": _giga(clip),
        "GFLOP of a frame": _giga(frame),
        "kernels of a frame": frame.kernels,
        "GFLOP by the formulas": _giga(formulas),
        "share of ModelScope's FLOPs": clip.flops / MODELSCOPE,
        "GFLOP of the clip in other ways": {
            name: _giga(video_work(config, replace(options, **changes))[0]) for name, changes in OTHER_WAYS.items()
        },
        "a frame": asdict(frame),
        "bars": {
            f"{bars}: FLOPs over those of the formulas": clip.flops / formulas.flops,
            f"{bars}: network calls per evaluation": clip.network_calls / evaluations,
        },
    }


OTHER_WAYS: dict[str, dict[str, Any]] = {
    "two branches": TWO,
    "reuse 2": {"reuse_every": 2},
    "reuse 2, 3 blocks": {"reuse_every": 2, "reuse_blocks": 3},
    "reuse 3": {"reuse_every": 3},
    "guidance 0.3-1": {"guidance_interval": (0.3, 1.0)},
    "dpmpp_2m": {"sampler": "dpmpp_2m"},
}


def _giga(work: Work) -> float:
    return round(work.flops / 1e9, 1)
