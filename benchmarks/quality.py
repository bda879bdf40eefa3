"""The quality of a checkpoint on held-out prompts: `python benchmarks/quality.py [--checkpoint tiny] [--quick]`.

The table is that of the world whose words the checkpoint knows: of coloured shapes, or of pictures (named things in
places: `quality_pictures.py`, in a section of the result file).

Prints the table beside true clips and a video that repeats its first frame, then seconds per frame. For `tiny`, `small`
and `small-fast` with the usual settings, it also writes `benchmarks/results/quality.json`, the tables of the documents,
and contact sheets to `docs/quality/`. `--part` does one part (the seconds want a quiet machine); the others are kept.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import quality_pictures as pictures
import torch
from quality_pictures import missed, rows_of, written
from result_files import ROOT, about, as_bar, parser_of
from tables import as_table, put_tables
from torch import Tensor

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.media import contact_sheet
from artv_core.method.options import GenerateOptions
from artv_core.models.artv import ARTV
from artv_core.run.pipeline import Pipeline
from artv_core.synthetic.pictures.names import vocabulary as picture_vocabulary
from artv_core.synthetic.quality import direction, from_text, quality_clips, read_rollout
from artv_core.synthetic.shapes import Clip, render
from artv_core.training.sheets import rollout

RESULT = ROOT / "benchmarks/results/quality.json"

BARS: dict[str, tuple[str, float]] = {
    "background colour": ("at least", 0.95),
    "object colour": ("at least", 0.90),
    "shape kind": ("at least", 0.75),
    "direction from two true frames": ("at least", 0.90),
    "direction from one true frame and text": ("at least", 0.75),
    "direction from text": ("at least", 0.75),
    "object there at frame 15": ("at least", 0.95),
    "object there at frame 63": ("at least", 0.85),
    "background drift at frame 63": ("at most", 2.0),
    "sharpness at frame 63 over frame 1": ("at least", 0.8),
    "direction at frames 48-63": ("at least", 0.70),
    "speed at frames 48-63": ("at least", 0.70),
}

SPEED_BARS = {64: 1.0, 128: 2.0}
"""Seconds per frame by side in pixels, on two CPU cores."""

FROZEN = "frozen first frame"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--checkpoint", default="tiny", help="a path, or the name of a shipped checkpoint")
    parser.add_argument("--base", help="the same of what the checkpoint lacks")
    parser.add_argument("--quick", action="store_true", help="16 prompts of 16 frames, nothing written")
    parser.add_argument("--part", choices=("all", "table", "speed"), default="all")
    parser.add_argument("--frames", type=int, default=pictures.FRAMES, help="of a video, in the world of pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="options other than the recommended")
    args = parser.parse_args()

    path = resolve_checkpoint(args.checkpoint)
    model = load_checkpoint(path, base=args.base and resolve_checkpoint(args.base), device=args.device)
    overrides, started = dict(_override(text) for text in args.set), time.monotonic()
    usual = not (args.quick or overrides or args.seed) and args.frames == pictures.FRAMES
    args.write = usual and path in map(resolve_checkpoint, ("tiny", "small", "small-fast"))
    if is_of_pictures(model):
        if args.part not in pictures.PARTS:
            parser.error(f"--part {args.part} is for the world of coloured shapes; give {' or '.join(pictures.PARTS)}")
        section = pictures.measure(model, args, overrides, seconds_per_frame)
        if args.write:
            write_section(section, settings(model), path)
        return
    result: dict[str, Any] = {}
    if args.part in ("table", "all"):
        result |= measure_table(model, args, overrides)
    if args.part in ("speed", "all") and not args.quick:
        result["seconds per frame"] = measure_speed(model, overrides)
    print(f"{model.config.name}, {time.monotonic() - started:.0f} s")
    if args.write:
        whole = kept_result(settings(model)) | result
        RESULT.write_text(json.dumps(whole, indent=1) + "\n")
        if "bars" in whole:
            for text in (ROOT / "docs/measurements.md", path.with_suffix(".md")):
                put_tables(text, {"quality": markdown(whole)})


def is_of_pictures(model: ARTV) -> bool:
    """Whether every word that the checkpoint knows is one of the world of pictures."""
    words = set(model.config.vocabulary)
    return bool(words) and words <= set(picture_vocabulary())


def write_section(found: dict[str, Any], told: dict[str, Any], checkpoint: Path) -> None:
    """What was found of a checkpoint of the world of pictures: into the result file, and into the documents."""
    result, name = json.loads(RESULT.read_text()), told["checkpoint"]
    sections, short = result.setdefault("world of pictures", {}), name.partition("-v")[0]
    told["command"] += f" --checkpoint {short}"
    sections[name] = pictures.as_section(sections.get(name, {}), found, told)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    if "columns" in sections[name]:
        for text in (ROOT / "docs/measurements.md", checkpoint.with_suffix(".md")):
            put_tables(text, {f"quality of {short}": pictures.markdown(sections[name])})


def markdown(result: dict[str, Any]) -> str:
    """The result as the tables of docs/measurements.md and of the model card."""
    columns = {result["checkpoint"]: {bar["name"]: bar["value"] for bar in result["bars"]}}
    columns |= {name: result[name] for name in ("true clips", FROZEN)}
    rows = rows_of([bar["name"] for bar in result["bars"]], columns, result["bars"], none="")
    reported = {f"over {name}": values for name, values in result.get("long", {}).items()}
    reported |= {f"at {name}": values for name, values in result.get("other sizes", {}).items()}
    for name, values in reported.items():
        shown = ", ".join(f"{key} {written(key, value)}" for key, value in values.items() if key != "prompts")
        rows[f"{name}, {values['prompts']} prompts"] = ["reported", shown, "", ""]
    for name, speed in result.get("seconds per frame", {}).items():
        value = f"{speed['value']:.2f}{missed(speed)}"
        rows[f"seconds per frame at {name}, {speed['on']}"] = [f"at most {speed['limit']:g}", value, "", ""]
    return as_table(["bar", *columns], rows)


def settings(model: ARTV) -> dict[str, Any]:
    """What was measured, and where."""
    return about(RESULT) | {"checkpoint": model.config.name, "seed": 0, "overrides": {}}


def kept_result(told: dict[str, Any]) -> dict[str, Any]:
    """What the file holds of this checkpoint under these settings, or the beginning of it."""
    kept = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    others = {key: kept[key] for key in ("world of pictures",) if key in kept}
    return (kept if pictures.measured_alike(kept, told) else others) | told


def measure_table(model: ARTV, args: argparse.Namespace, overrides: dict[str, Any]) -> dict[str, Any]:
    """The table of the bars, beside true clips and a frozen video; writes the sheet if `args` do."""
    count, frames = (16, 16) if args.quick else (64, 64)
    clips = quality_clips(count)
    table, videos = measure_model(model, clips, frames, args.seed, overrides)
    true = from_text(read_rollout(render(clips, frames, *model.config.size)), clips)
    frozen = from_text(read_rollout(render(clips, 1, *model.config.size).expand(-1, frames, -1, -1, -1)), clips)
    if args.write:
        save_sheet(videos, clips, ROOT / f"docs/quality/{model.config.name}.png")
    bars = [as_bar(name, round(table[name], 4), *limit) for name, limit in BARS.items() if name in table]
    known = {"true clips": true, FROZEN: frozen}
    others = {name: {key: round(value, 4) for key, value in column.items()} for name, column in known.items()}
    result = {"prompts": count, "bars": bars} | others
    print(markdown({"checkpoint": model.config.name} | result))
    return result


def measure_speed(model: ARTV, overrides: dict[str, Any]) -> dict[str, Any]:
    """By side of the frame."""
    found = {}
    for side, limit in SPEED_BARS.items():
        size = {"height": side, "width": side}
        seconds = seconds_per_frame(model, quality_clips(1)[0].caption, size | overrides)
        found[f"{side}x{side}"] = seconds | {"limit": limit, "holds": seconds["value"] <= limit}
    print(found)
    return found


def seconds_per_frame(model: ARTV, caption: str, options: dict[str, Any]) -> dict[str, Any]:
    """Seconds per frame of one video, made as `artv generate` makes it: the median of three."""
    pipeline, seconds = Pipeline(model), []
    for _ in range(3):
        started = time.monotonic()
        count = sum(1 for _ in pipeline.frames(caption, GenerateOptions(**({"num_frames": 16} | options))))
        seconds.append((time.monotonic() - started) / count)
    on_cpu = pipeline.device.type == "cpu"
    on = f"{torch.get_num_threads()} CPU cores" if on_cpu else torch.cuda.get_device_name()
    return {"value": round(sorted(seconds)[1], 3), "on": on}


def save_sheet(videos: Tensor, clips: list[Clip], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [(clip.caption, video) for clip, video in zip(clips[:12], videos[:12], strict=True)]
    contact_sheet(rows, columns=8).save(path)


def measure_model(
    model: ARTV, clips: list[Clip], frames: int, seed: int, overrides: dict[str, Any]
) -> tuple[dict[str, float], Tensor]:
    """The table of a model, and its videos from text."""
    captions = [clip.caption for clip in clips]
    options = GenerateOptions(num_frames=frames, batch_size=len(clips), seed=seed, **overrides)
    short = GenerateOptions(num_frames=16, batch_size=len(clips), seed=seed, **overrides)
    with torch.no_grad():
        videos = rollout(model, captions, options)
        start = render(clips, 2, *model.config.size)
        latents = [model.encode_images(start[:, index].to(model.null_context.device)) for index in range(2)]
        from_two = rollout(model, captions, short, latents)
        from_one = rollout(model, captions, short, latents[:1])
    table = from_text(read_rollout(videos), clips)
    table["direction from two true frames"] = direction(read_rollout(from_two), clips, 1, 16)
    table["direction from one true frame and text"] = direction(read_rollout(from_one), clips, 0, 16)
    return table, videos


def _override(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    return name, json.loads(value) if value[:1] in "0123456789-tfn" else value


if __name__ == "__main__":
    main()
