"""The quality of a checkpoint on held-out prompts: `python benchmarks/quality.py [--checkpoint tiny] [--quick]`.

The table is that of the world whose words the checkpoint knows: of coloured shapes as below, or of pictures (named
things in places: `quality_pictures.py`, in a section of the result file under the checkpoint's name).

Prints the table beside true clips and beside a video that repeats its first frame, then what holds over hundreds of
frames, and at other sizes than the checkpoint was trained at, then seconds per frame. Writes
`benchmarks/results/quality.json`, the tables of `docs/measurements.md` and of the model card, and contact sheets of the
first 12 prompts to `docs/quality/`. `--part` does one part of it (the seconds want a quiet machine); what the others
wrote is kept.
"""

import json
import time
from pathlib import Path
from typing import Any

import quality_pictures as pictures
import torch
from quality_pictures import missed, written
from result_files import ROOT, about, as_bar, parser_of
from tables import as_table, put_tables
from torch import Tensor

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.media import contact_sheet
from artv_core.method.generate import GenerateOptions
from artv_core.models.artv import ARTV
from artv_core.run.pipeline import Pipeline
from artv_core.synthetic.pictures.names import vocabulary as picture_vocabulary
from artv_core.synthetic.quality import direction, from_text, holding, quality_clips, read_rollout, survival
from artv_core.synthetic.shapes import Clip, render
from artv_core.training.sheets import rollout

RESULT = ROOT / "benchmarks/results/quality.json"

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

SPEED_BARS = {64: 1.0, 128: 2.0}
"""Seconds per frame by side in pixels, on two CPU cores."""

FROZEN = "frozen first frame"
SIZE_FACTORS = (1.5, 2.0)
FEWER_PROMPTS = 16
"""For what is reported and has no bar."""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--checkpoint", default="tiny", help="a path, or the name of a shipped checkpoint")
    parser.add_argument("--quick", action="store_true", help="16 prompts of 16 frames, nothing written")
    parser.add_argument("--part", choices=("all", "table", "long", "sizes", "masks", "speed"), default="all")
    parser.add_argument("--frames", type=int, default=pictures.FRAMES, help="of a video, in the world of pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="options other than the recommended")
    args = parser.parse_args()

    path = resolve_checkpoint(args.checkpoint)
    model = load_checkpoint(path, device=args.device)
    overrides, started = dict(_override(text) for text in args.set), time.monotonic()
    if is_of_pictures(model):
        if args.part not in pictures.PARTS:
            parser.error(f"--part {args.part} is for the world of coloured shapes; give {' or '.join(pictures.PARTS)}")
        section = pictures.measure(model, args, overrides, seconds_per_frame)
        if not args.quick:
            write_section(section, settings(model, args.seed, overrides), path)
        return
    if args.part == "masks":
        parser.error("--part masks is for the world of pictures; give --checkpoint small")
    result: dict[str, Any] = {}
    if args.part in ("table", "all"):
        result |= measure_table(model, args.quick, args.seed, overrides)
    if args.part in ("long", "all") and not args.quick:
        result["long"] = measure_other(model, args.seed, {"256 frames": {"num_frames": 256}}, overrides)
    if args.part in ("sizes", "all") and not args.quick:
        sizes = [[round(side * factor) for side in model.config.size] for factor in SIZE_FACTORS]
        names = {f"{width}x{height}": {"height": height, "width": width} for height, width in sizes}
        result["other sizes"] = measure_other(model, args.seed, names, overrides)
    if args.part in ("speed", "all") and not args.quick:
        result["seconds per frame"] = measure_speed(model, overrides)
    print(f"{model.config.name}, {time.monotonic() - started:.0f} s")
    if not args.quick:
        whole = kept_result(settings(model, args.seed, overrides)) | result
        RESULT.write_text(json.dumps(whole, indent=1) + "\n")
        if "bars" in whole and path == resolve_checkpoint("tiny"):
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
    if checkpoint.parent.name == "checkpoints" and "columns" in sections[name]:
        for text in (ROOT / "docs/measurements.md", checkpoint.with_suffix(".md")):
            put_tables(text, {f"quality of {short}": pictures.markdown(sections[name])})


def markdown(result: dict[str, Any]) -> str:
    """The result as the tables of docs/measurements.md and of the model card."""
    rows: dict[str, list[str]] = {}
    for bar in result["bars"]:
        name, (limit, least) = bar["name"], bar["limit"].rsplit(" ", 1)
        others = [written(name, result[kind].get(name), none="") for kind in ("true clips", FROZEN)]
        value = written(name, bar["value"]) + missed(bar)
        rows[name] = [f"{limit} {written(name, float(least))}", value, *others]
    reported = {f"over {name}": values for name, values in result.get("long", {}).items()}
    reported |= {f"at {name}": values for name, values in result.get("other sizes", {}).items()}
    for name, values in reported.items():
        shown = ", ".join(f"{key} {written(key, value)}" for key, value in values.items() if key != "prompts")
        rows[f"{name}, {values['prompts']} prompts"] = ["reported", shown, "", ""]
    for name, speed in result.get("seconds per frame", {}).items():
        value = f"{speed['value']:.2f}{missed(speed)}"
        rows[f"seconds per frame at {name}, {speed['on']}"] = [f"at most {speed['limit']:g}", value, "", ""]
    return as_table(["bar", result["checkpoint"], "true clips", FROZEN], rows)


def settings(model: ARTV, seed: int, overrides: dict[str, Any]) -> dict[str, Any]:
    """What was measured, and where."""
    return about(RESULT) | {"checkpoint": model.config.name, "seed": seed, "overrides": overrides}


def kept_result(told: dict[str, Any]) -> dict[str, Any]:
    """What the file holds of this checkpoint under these settings, or the beginning of it."""
    kept = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    others = {key: kept[key] for key in ("world of pictures",) if key in kept}
    return (kept if pictures.measured_alike(kept, told) else others) | told


def measure_table(model: ARTV, quick: bool, seed: int, overrides: dict[str, Any]) -> dict[str, Any]:
    """The table of the bars, beside true clips and a frozen video; writes the sheet."""
    count, frames = (16, 16) if quick else (64, 64)
    clips = quality_clips(count)
    table, videos = measure_model(model, clips, frames, seed, overrides)
    true = from_text(read_rollout(render(clips, frames, *model.config.size)), clips)
    frozen = from_text(read_rollout(render(clips, 1, *model.config.size).expand(-1, frames, -1, -1, -1)), clips)
    if not quick:
        save_sheet(videos, clips, ROOT / f"docs/quality/{model.config.name}.png")
    bars = [as_bar(name, round(table[name], 4), kind, limit) for name, (limit, kind) in BARS.items() if name in table]
    known = {"true clips": true, FROZEN: frozen}
    others = {name: {key: round(value, 4) for key, value in column.items()} for name, column in known.items()}
    result = {"prompts": count, "bars": bars} | others
    print(markdown({"checkpoint": model.config.name} | result))
    return result


def measure_other(model: ARTV, seed: int, names: dict[str, dict[str, int]], overrides: dict) -> dict[str, Any]:
    """What holds at other lengths and sizes, with no setting changed; writes a sheet of each."""
    usual = {"num_frames": 64, "batch_size": FEWER_PROMPTS, "seed": seed} | overrides
    return {name: measure_held(model, GenerateOptions(**usual | options), name) for name, options in names.items()}


def measure_held(model: ARTV, options: GenerateOptions, name: str) -> dict[str, Any]:
    """What videos from text hold until their last frame; writes their sheet."""
    clips = quality_clips(options.batch_size)
    with torch.no_grad():
        videos = rollout(model, [clip.caption for clip in clips], options)
    read = read_rollout(videos)
    table = {"object there at frame 15": survival(read, clips, 15)} | holding(read, clips, options.num_frames - 1)
    print(f"\n{name}, {len(clips)} prompts: " + ", ".join(f"{key} {value:.3f}" for key, value in table.items()))
    save_sheet(videos, clips, ROOT / f"docs/quality/{model.config.name}-{name.replace(' ', '-')}.png")
    return {"prompts": len(clips)} | {key: round(value, 4) for key, value in table.items()}


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
    """Of one video, made as `artv generate` makes it, from prompt to picture: the middle of three."""
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
