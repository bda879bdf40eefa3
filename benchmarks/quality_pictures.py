"""The quality table of a checkpoint of the world of pictures, beside true clips, a video that repeats its first frame,
and one that blurs from frame to frame, both of which a sound table must fail.

Videos are journaled in `runs/quality/`, a few prompts at a time: a run that was stopped goes on, and one with more
frames goes on from one with fewer. Also draws a contact sheet and a moving picture.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from result_files import ROOT, as_bar
from tables import as_table
from torch import Tensor

from artv_core.evaluation import pictures
from artv_core.evaluation.pictures import WINDOW, Watched, detail_of_places, picture_table, watch
from artv_core.evaluation.pictures_judge import Seen, load_judge, named
from artv_core.evaluation.pictures_motion import told_motions
from artv_core.evaluation.pictures_prompts import PicturePrompt, picture_prompts, true_scenes
from artv_core.evaluation.pictures_training import blurred
from artv_core.media import contact_sheet, wrapped
from artv_core.method.options import GenerateOptions
from artv_core.models.artv import ARTV
from artv_core.run.recording import Recording
from artv_core.synthetic.pictures.names import PLACES, THINGS
from artv_core.synthetic.pictures.world import PictureWorld
from artv_core.training.sheets import rollout

SHEETS = ROOT / "docs/quality"
JUDGE = ROOT / "benchmarks/judge.safetensors"
VIDEOS = ROOT / "runs/quality"
PARTS = ("all", "table", "speed")
FRAMES = 64
MOVING_FRAMES = 32
BATCH = 8
"""Prompts at a time."""

SHARE = "at least"
BARS: dict[str, tuple[str, float]] = {
    "thing recognised at frame 0": (SHARE, 0.80),
    "thing recognised at frame 15": (SHARE, 0.75),
    "thing recognised at frame 63": (SHARE, 0.60),
    "place recognised at frame 0": (SHARE, 0.98),
    "place recognised at frame 63": (SHARE, 0.98),
    "direction within 30 degrees, frames 0-15": (SHARE, 0.85),
    "speed within 30%, frames 0-15": (SHARE, 0.85),
    "other motions recognised, frames 0-15": (SHARE, 0.75),
    "background drift at frame 63": ("at most", 2.0),
    "texture kept at frame 63": (SHARE, 0.9),
    "sharpness of the thing over frame 1 at frame 63": (SHARE, 0.8),
}
SECONDS = "seconds per frame on two CPU cores"

TRUE, FROZEN, BLURRING = "true clips", "frozen first frame", "blurring"
DETAIL = "fine detail of places at frame 0 over true ones"
BLUR = 1.5
"""Pixels: the Gaussian that the last frame of a blurring video is blurred with."""


def measure(
    model: ARTV, args: argparse.Namespace, overrides: dict[str, Any], seconds_per_frame: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    """The section of the result file for this checkpoint; `args` are the benchmark's own."""
    section: dict[str, Any] = {}
    if args.part in ("table", "all"):
        section |= measure_table(model, args, overrides)
    if args.part in ("speed", "all") and not args.quick:
        section[SECONDS] = seconds_per_frame(model, picture_prompts(model.config.vocabulary)[0].caption, overrides)
    return section


def measure_table(model: ARTV, args: argparse.Namespace, overrides: dict[str, Any]) -> dict[str, Any]:
    """The table of the bars, the same of what it must tell from each other, and the mistakes by name."""
    every = picture_prompts(model.config.vocabulary)
    prompts, frames = (every[:BATCH], 16) if args.quick else (every, args.frames)
    device = model.noise.device
    judge, world = load_judge(JUDGE).to(device), PictureWorld()
    recording = None if args.quick else Recording(VIDEOS / model.config.name)
    captions = [prompt.caption for prompt in prompts]
    watched = watch(judge, make_videos(model, captions, frames, args.seed, overrides, recording), prompts)
    true = watch(judge, true_videos(world, prompts, frames, model.config.size[0]), prompts)
    columns = {
        model.config.name: table_of(watched, true),
        TRUE: table_of(true, true),
        FROZEN: table_of(frozen(true), true),
        BLURRING: table_of(watch(judge, blurring(true.videos), prompts), true),
    }
    print(markdown({"columns": columns, "bars": bars({"columns": columns}, model.config.name)}))
    if args.write:
        save_sheet(watched, SHEETS / f"{model.config.name}-table.jpg")
        save_moving(watched.videos[:, :MOVING_FRAMES], captions, SHEETS / f"{model.config.name}.webp")
    return {"prompts": len(prompts), "frames": frames, "columns": columns, "mistakes": mistakes(watched)}


def table_of(watched: Watched, true: Watched) -> dict[str, float | None]:
    """All measures, to four digits."""
    table = picture_table(watched) | {DETAIL: detail_of_places(watched, true)}
    return {name: value if value is None else round(value, 4) for name, value in table.items()}


def true_videos(world: PictureWorld, prompts: Sequence[PicturePrompt], frames: int, size: int) -> Tensor:
    """True clips of the prompts: [N, T, 3, size, size]."""
    times = torch.arange(float(frames)).expand(len(prompts), -1)
    return world.render(true_scenes(world, prompts), times, size)


def frozen(watched: Watched) -> Watched:
    """Videos that repeat their first frame, and what the judge sees in them."""
    seen = {field.name: getattr(watched.seen, field.name) for field in fields(Seen)}
    repeated = {name: values[:, :1].expand_as(values) for name, values in seen.items()}
    return Watched(watched.videos[:, :1].expand_as(watched.videos), Seen(**repeated), watched.prompts)


def blurring(videos: Tensor) -> Tensor:
    """Videos that lose their sharpness from frame to frame, up to BLUR."""
    sigma = torch.linspace(0.05, BLUR * videos.shape[-1] / 128, videos.shape[1])
    return torch.stack([blurred(video, sigma, reach=4) for video in videos])


def make_videos(
    model: ARTV, captions: list[str], frames: int, seed: int, overrides: dict[str, Any], recording: Recording | None
) -> Tensor:
    """The model's videos [N, T, 3, H, W] from text alone. Prompt n has the seed `seed + n`."""
    made = []
    for start in range(0, len(captions), BATCH):
        batch, began = captions[start : start + BATCH], time.monotonic()
        options = GenerateOptions(num_frames=frames, batch_size=len(batch), seed=seed + start, **overrides)
        with torch.no_grad():
            made.append(rollout(model, batch, options, recording=recording))
        print(f"prompts {start}-{start + len(batch) - 1}: {time.monotonic() - began:.0f} s", flush=True)
    return torch.cat(made)


def mistakes(watched: Watched) -> dict[str, dict[str, int]]:
    """What was taken for what, the twelve most common first."""
    found = {}
    for frame in (frame for frame in (0, 15, 63) if frame < watched.videos.shape[1]):
        found[f"things at frame {frame}"] = pictures.confusions(watched, frame)
        found[f"places at frame {frame}"] = pictures.place_confusions(watched, frame)
    found["motions at frames 0-15"] = pictures.motion_confusions(watched, 0)
    return {name: dict(list(counts.items())[:12]) for name, counts in found.items()}


def as_section(kept: dict[str, Any], found: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """What the result file says of the checkpoint `about` names: `found`, and of `kept` what was measured the same way
    before."""
    parts = (kept if measured_alike(kept, about) else {}) | found
    others = {key: parts[key] for key in parts if key not in {*about, "bars"}}
    return about | {"bars": bars(parts, about["checkpoint"])} | others


def measured_alike(kept: dict[str, Any], about: dict[str, Any]) -> bool:
    return all(kept.get(key) == about[key] for key in ("checkpoint", "seed", "overrides"))


def bars(parts: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """All bars; what was not measured has no value."""
    table = parts.get("columns", {}).get(name, {})
    seconds = parts.get(SECONDS, {})
    on_cpu = seconds.get("value") if "CPU" in seconds.get("on", "") else None
    found = [as_bar(measure, table.get(measure), *limit) for measure, limit in BARS.items()]
    return [*found, as_bar(SECONDS, on_cpu, "at most", 1.0)]


def markdown(section: dict[str, Any]) -> str:
    """The section as the table of docs/measurements.md and of the model card."""
    columns, seconds = section["columns"], next(bar for bar in section["bars"] if bar["name"] == SECONDS)
    others = (name for column in columns.values() for name in column)
    rows = rows_of(dict.fromkeys([*BARS, *others]), columns, section["bars"])
    value = "not measured" if seconds["value"] is None else f"{seconds['value']:.2f}{missed(seconds)}"
    rows[SECONDS] = ["at most 1", value, *[""] * (len(columns) - 1)]
    return as_table(["bar", *columns], rows)


def rows_of(
    names: Iterable[str],
    columns: dict[str, dict[str, Any]],
    bars: list[dict[str, Any]],
    none: str = "not measured",
) -> dict[str, list[str]]:
    """By measure: its limit, the first column with what was missed, and the other columns."""
    limits, rows = {bar["name"]: bar for bar in bars}, {}
    for name in names:
        first, *others = (written(name, column.get(name), none) for column in columns.values())
        rows[name] = [limit_of(name, limits.get(name)), first + missed(limits.get(name)), *others]
    return rows


def missed(bar: dict[str, Any] | None) -> str:
    return " (missed)" if bar and bar["value"] is not None and not bar["holds"] else ""


def limit_of(measure: str, bar: dict[str, Any] | None) -> str:
    if bar is None:
        return "reported"
    kind, limit = bar["limit"].rsplit(" ", 1)
    return f"{kind} {written(measure, float(limit))}"


def written(measure: str, value: float | None, none: str = "not measured") -> str:
    """Shares as per cent; drift (of 255), texture and sharpness (ratios) as numbers."""
    if value is None:
        return none
    ratio = any(word in measure for word in ("drift", "texture", "sharpness", "detail"))
    return f"{value:.2f}" if ratio else f"{value:.0%}"


# Pictures


def save_sheet(watched: Watched, path: Path, rows: int = 12) -> None:
    """The first videos, each under its prompt and what the judge sees in its first, sixteenth and last frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = [(label(watched, number), watched.videos[number]) for number in range(rows)]
    contact_sheet(shown, columns=8).save(path, quality=88)


def label(watched: Watched, number: int) -> str:
    """The prompt, and what is seen."""
    last, seen = watched.videos.shape[1] - 1, watched.seen
    things, there = named(seen.things[number], THINGS), seen.there[number] > 0.5
    told = [f"{frame}: {things[frame] if there[frame] else 'nothing'}" for frame in sorted({0, min(15, last), last})]
    told += [told_motions(seen, 0, WINDOW)[number], named(seen.places[number, :1], PLACES)[0]]
    return f"{watched.prompts[number].caption}   [{'; '.join(told)}]"


def save_moving(videos: Tensor, captions: Sequence[str], path: Path, fps: float = 8.0, count: int = 8) -> None:
    """An animated WebP of the first `count` of videos [N, T, 3, H, W] in [0, 1], each above its caption."""
    pixels = (videos[:count].clamp(0, 1) * 255).round().byte().permute(1, 0, 3, 4, 2).numpy()
    first, *others = [_page(frames, captions[:count]) for frames in pixels]
    path.parent.mkdir(parents=True, exist_ok=True)
    how = {"duration": round(1000 / fps), "loop": 0, "quality": 80, "method": 6}
    first.save(path, save_all=True, append_images=others, **how)


def _page(frames: Sequence[Any], captions: Sequence[str]) -> Image.Image:
    """Four frames in a row."""
    height, width = frames[0].shape[:2]
    page = Image.new("RGB", (4 * (width + 4) - 4, -(-len(frames) // 4) * (height + 32) - 6), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=9)
    for number, (frame, caption) in enumerate(zip(frames, captions, strict=True)):
        x, y = number % 4 * (width + 4), number // 4 * (height + 32)
        page.paste(Image.fromarray(frame), (x, y))
        draw.multiline_text((x, y + height + 1), "\n".join(wrapped(caption, font, width)), "black", font, spacing=2)
    return page
