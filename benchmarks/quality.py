"""The quality of a checkpoint on held-out prompts: `python benchmarks/quality.py [--checkpoint tiny] [--quick]`.

Prints the table beside true clips and beside a video that repeats its first frame, writes
`benchmarks/results/quality.json` and contact sheets of the first 12 prompts to `docs/quality/`.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint  # noqa: E402
from artv_core.evaluation.quality import appearance, direction, holding, quality_clips, read_rollout, survival  # noqa: E402
from artv_core.generate import GenerateOptions  # noqa: E402
from artv_core.media import contact_sheet  # noqa: E402
from artv_core.models.artv import ARTV  # noqa: E402
from artv_core.synthetic import Clip, render  # noqa: E402
from artv_core.training.sheets import rollout  # noqa: E402

BARS: dict[str, tuple[float, str]] = {
    "background colour": (0.95, "at least"),
    "object colour": (0.90, "at least"),
    "shape kind": (0.75, "at least"),
    "direction from two true frames": (0.90, "at least"),
    "direction from one true frame and text": (0.75, "at least"),
    "direction from text": (0.75, "at least"),
    "object there at frame 15": (0.95, "at least"),
    "object there at frame 63": (0.85, "at least"),
    "background drift at frame 63": (2.0, "at most"),
    "sharpness at frame 63 over frame 1": (0.8, "at least"),
    "direction at frames 48-63": (0.70, "at least"),
    "speed at frames 48-63": (0.70, "at least"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="tiny", help="a path, or the name of a shipped checkpoint")
    parser.add_argument("--quick", action="store_true", help="16 prompts of 16 frames, nothing written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="options other than the recommended")
    args = parser.parse_args()

    path = resolve_checkpoint(args.checkpoint)
    model = load_checkpoint(path, device=args.device)
    count, frames = (16, 16) if args.quick else (64, 64)
    clips, overrides = quality_clips(count), dict(_override(text) for text in args.set)
    started = time.monotonic()
    table, sheet = measure_model(model, clips, frames, args.seed, overrides)
    true = measure_videos(render(clips, frames, *model.config.size), clips)
    frozen = measure_videos(render(clips, 1, *model.config.size).expand(-1, frames, -1, -1, -1), clips)
    print_table(table, true, frozen)
    print(f"{count} held-out prompts, {model.config.name}, {time.monotonic() - started:.0f} s")
    if not args.quick:
        write(model.config.name, table, true, frozen, sheet, clips, args.seed, overrides)


def measure_model(
    model: ARTV, clips: list[Clip], frames: int, seed: int, overrides: dict[str, Any]
) -> tuple[dict[str, float], Tensor]:
    """The table of a model, and its videos from text."""
    captions = [clip.caption for clip in clips]
    options = GenerateOptions(num_frames=frames, batch_size=len(clips), seed=seed, **overrides)
    short = GenerateOptions(num_frames=16, batch_size=len(clips), seed=seed, **overrides)
    with torch.no_grad():
        from_text = rollout(model, captions, options)
        start = render(clips, 2, *model.config.size)
        latents = [model.encode_images(start[:, index].to(model.null_context.device)) for index in range(2)]
        from_two = rollout(model, captions, short, latents)
        from_one = rollout(model, captions, short, latents[:1])
    table = measure_videos(from_text, clips)
    table["direction from two true frames"] = direction(read_rollout(from_two), clips, 1, 16)
    table["direction from one true frame and text"] = direction(read_rollout(from_one), clips, 0, 16)
    return table, from_text


def measure_videos(videos: Tensor, clips: list[Clip]) -> dict[str, float]:
    """What can be said of videos [N, T, 3, H, W] by themselves."""
    read, last = read_rollout(videos), videos.shape[1] - 1
    table = appearance(read, clips)
    table["direction from text"] = direction(read, clips, 0, 16)
    table["object there at frame 15"] = survival(read, clips, 15)
    return table | holding(read, clips, last)


def print_table(table: dict[str, float], true: dict[str, float], frozen: dict[str, float]) -> None:
    print(f"\n{'measure':42} {'model':>8} {'bar':>14} {'true':>8} {'frozen':>8}")
    for name in [*BARS, *(name for name in table if name not in BARS)]:
        if name in table:
            limit = "{1} {0:g}".format(*BARS[name]) if name in BARS else ""
            others = [f"{values[name]:8.3f}" if name in values else " " * 8 for values in (true, frozen)]
            print(f"{name:42} {table[name]:8.3f} {limit:>14} {' '.join(others)}")


def write(
    name: str,
    table: dict[str, float],
    true: dict[str, float],
    frozen: dict[str, float],
    videos: Tensor,
    clips: list[Clip],
    seed: int,
    overrides: dict[str, Any],
) -> None:
    bars = []
    for measure, (limit, kind) in BARS.items():
        value = table[measure]
        holds = value >= limit if kind == "at least" else value <= limit
        bars.append({"name": measure, "value": round(value, 4), "limit": f"{kind} {limit:g}", "holds": holds})
    result = {
        "command": "python benchmarks/quality.py",
        "commit": _git("rev-parse", "--short", "HEAD"),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__.split('+')[0]}",
        "checkpoint": name,
        "seed": seed,
        "overrides": overrides,
        "prompts": len(clips),
        "bars": bars,
        "true clips": {key: round(value, 4) for key, value in true.items()},
        "first frame for ever": {key: round(value, 4) for key, value in frozen.items()},
    }
    (ROOT / "benchmarks/results/quality.json").write_text(json.dumps(result, indent=1) + "\n")
    folder = ROOT / "docs/quality"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(clip.caption, video) for clip, video in zip(clips[:12], videos[:12], strict=True)]
    contact_sheet(rows, columns=8).save(folder / f"{name}.png")


def _override(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    return name, json.loads(value) if value[:1] in "0123456789-tfn" else value


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main()
