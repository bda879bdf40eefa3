"""`artv prepare` on real files of the synthetic world: what is kept, what kills cost, and whether engines agree.

`measure` makes MP4s of six kinds in known numbers (moving, still, cut, too short, wrong caption, corrupt),
trains a small open_clip model to tell right captions from wrong ones, and runs the command as a process.
"""

import dataclasses
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from artv_core.media import VideoWriter
from artv_core.synthetic.shapes import COLORS, DIRECTIONS, Clip, render, sample_clip

from .programs import ROOT

FPS, SUBSTEPS, SECONDS = 8, 3, 2
SIZES = ((64, 64), (64, 96), (96, 64))
SHARES = {"moving": 0.5, "still": 0.14, "cut": 0.12, "wrong caption": 0.12, "short": 0.04, "corrupt": 0.08}
EXPECTED = {
    "moving": "kept",
    "still": "too little motion",
    "cut": "cut",
    "wrong caption": "caption does not fit",
    "short": "too short",
    "corrupt": "broken",
}
"""What is to become of each kind."""

CLIP_CONFIG = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 128, "layers": 3, "head_width": 32},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 96, "heads": 4, "layers": 2},
}


def measure(folder: Path, quick: bool) -> dict[str, Any]:
    """The table, and the bars that it is held to."""
    found = table(folder, clips=60 if quick else 500)
    unlike = found["shards unlike the plain run's"]
    return found | {
        "bars": {
            "prepare: clips": found["clips"],
            "prepare: clips kept or dropped otherwise than they should be": found[
                "clips that became otherwise than they should"
            ],
            "prepare: kills": found["kills"],
            "prepare: shards that differ after kills": unlike["killed"] + unlike["killed-ray"],
            "prepare: shards that differ between Ray with 2 workers and a plain run": unlike["ray"],
        }
    }


def table(folder: Path, clips: int = 500, steps: int = 400, seed: int = 0) -> dict[str, Any]:
    """Everything in a table: counts by kind, kills, and whether all runs made the same bytes."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    kinds = make_clips(folder / "clips", clips, seed)
    started = time.monotonic()
    threshold, separation = train_clip(folder / "clip", steps, seed)
    trained = time.monotonic() - started
    command = _command(folder, threshold)
    rng = random.Random(seed)

    seconds = {}
    for name, options in (("plain", ()), ("ray", ("--engine", "ray", "--workers", "2"))):
        started = time.monotonic()
        _run([*command, str(folder / name), *options])
        seconds[name] = round(time.monotonic() - started, 1)
    kills = {
        "plain": _killed([*command, str(folder / "killed")], folder / "killed", rng, 3),
        "ray": _killed(
            [*command, str(folder / "killed-ray"), "--engine", "ray", "--workers", "2"], folder / "killed-ray", rng, 2
        ),
    }
    outputs = {name: _digests(folder / name) for name in ("plain", "ray", "killed", "killed-ray")}
    fates = _fates(folder / "plain")
    wrong = {name: fates.get(name, "lost") for name, kind in kinds.items() if fates.get(name) != EXPECTED[kind]}
    return {
        "clips": clips,
        "made": dict(Counter(kinds.values())),
        "became": dict(Counter(fates.values())),
        "clips that became otherwise than they should": len(wrong),
        "which": dict(list(wrong.items())[:10]),
        "files compared": len(outputs["plain"]),
        "shards unlike the plain run's": {
            name: sum(
                outputs["plain"].get(file) != output.get(file) for file in outputs["plain"].keys() | output.keys()
            )
            for name, output in outputs.items()
        },
        "kills": sum(len(files) for files in kills.values()),
        "files there when killed": kills,
        "open_clip: seconds of training": round(trained, 1),
        "open_clip: right captions above the threshold": separation,
        "seconds": seconds,
    }


def make_clips(folder: Path, count: int, seed: int) -> dict[str, str]:
    """Write `count` MP4s with captions beside them; returns name -> kind."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    numbers = {kind: round(share * count) for kind, share in SHARES.items()}
    numbers["moving"] += count - sum(numbers.values())
    kinds = [kind for kind, number in numbers.items() for _ in range(number)]
    random.Random(seed).shuffle(kinds)
    for index, kind in enumerate(kinds):
        path = folder / f"{index:04d}.mp4"
        frames, caption = _clip_of(kind, seed, index)
        with VideoWriter(path, FPS * SUBSTEPS) as video:
            for frame in frames:
                video.append(frame)
        if kind == "corrupt":
            _corrupt(path, index)
        path.with_suffix(".txt").write_text(caption)
    return {f"{index:04d}.mp4": kind for index, kind in enumerate(kinds)}


def train_clip(folder: Path, steps: int, seed: int) -> tuple[float, float]:
    """Train a small open_clip model on the world and write config.json and weights.safetensors. Returns a threshold
    between right and wrong captions of clips that it never saw, and the share of both that lie on the right side."""
    from open_clip.model import CLIP
    from open_clip.tokenizer import SimpleTokenizer
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    model, tokenize = CLIP(**CLIP_CONFIG), SimpleTokenizer(context_length=CLIP_CONFIG["text_cfg"]["context_length"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    for step in range(steps):
        images, captions = _pairs(range(step * 64, (step + 1) * 64), seed + 1)
        seen, said, scale = model(images, tokenize(captions))
        logits, target = scale * seen @ said.T, torch.arange(len(images))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CLIP_CONFIG))
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "weights.safetensors"
    )
    return _threshold(model.eval(), tokenize, seed + 2)


def _pairs(indices: Sequence[int], seed: int) -> tuple[torch.Tensor, list[str]]:
    """Images as the command looks at clips of all shapes: their centres, where the object need not be."""
    clips = [sample_clip(seed, index) for index in indices]
    images = [torch.empty(0)] * len(clips)
    for number, (height, width) in enumerate(SIZES):
        top, left = (height - 64) // 2, (width - 64) // 2
        rendered = render(clips[number :: len(SIZES)], 1, height, width)[:, 0, :, top : top + 64, left : left + 64]
        images[number :: len(SIZES)] = list(rendered)
    return _normalised(torch.stack(images)), [clip.caption for clip in clips]


def _normalised(images: torch.Tensor) -> torch.Tensor:
    import open_clip

    mean, deviation = (
        torch.tensor(values)[:, None, None] for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    return (images - mean) / deviation


@torch.no_grad()
def _threshold(model: torch.nn.Module, tokenize: Any, seed: int, count: int = 512) -> tuple[float, float]:
    clips = [sample_clip(seed, index) for index in range(count)]
    images, captions = _pairs(range(count), seed)
    seen = model.encode_image(images, normalize=True)
    right = (seen * model.encode_text(tokenize(captions), normalize=True)).sum(dim=-1)
    others = [_other_caption(clip, seed, index) for index, clip in enumerate(clips)]
    wrong = (seen * model.encode_text(tokenize(others), normalize=True)).sum(dim=-1)
    threshold = float((right.quantile(0.02) + wrong.quantile(0.98)) / 2)
    share = (right > threshold).float().mean() + (wrong < threshold).float().mean()
    return round(threshold, 3), round(float(share) / 2, 4)


# Clips


def _clip_of(kind: str, seed: int, index: int) -> tuple[torch.Tensor, str]:
    """Frames [T, 3, H, W] and caption."""
    size = SIZES[index % len(SIZES)]
    clip = _clip("standing still" if kind == "still" else "", seed, index)
    frames = _frames(clip, size, SECONDS if kind != "short" else 0.5)
    caption = _other_caption(clip, seed, index) if kind == "wrong caption" else clip.caption
    if kind == "cut":
        other = next(
            found
            for number in range(1000)
            if _unlike((found := _clip("", seed, 10_000 * (number + 1) + index)).background, clip.background)
        )
        half = len(frames) // 2
        frames = torch.cat([frames[:half], _frames(other, size, SECONDS)[half:]])
    return frames, caption


def _clip(motion: str, seed: int, index: int) -> Clip:
    """A clip that stands still, or one that moves and is large enough for that to count."""
    number = 0
    while True:
        clip = sample_clip(seed, 1_000_000 * number + index)
        if clip.motion == motion or (not motion and clip.motion in DIRECTIONS and clip.size != "small"):
            return clip
        number += 1


def _frames(clip: Clip, size: tuple[int, int], seconds: float) -> torch.Tensor:
    """At three times the world's own rate, as films are."""
    count, short = round(seconds * FPS), min(size)
    dx, dy = clip.velocity or (0.0, 0.0)
    between = [
        dataclasses.replace(
            clip,
            x=(clip.x + dx * step / SUBSTEPS * short / size[1]) % 1,
            y=(clip.y + dy * step / SUBSTEPS * short / size[0]) % 1,
        )
        for step in range(SUBSTEPS)
    ]
    return render(between, count, *size).transpose(0, 1).flatten(0, 1)


def _other_caption(clip: Clip, seed: int, index: int) -> str:
    """Of a clip that shares neither the shape's colour nor the background's."""
    rng = random.Random(f"{seed}/{index}/other")
    while True:
        other = sample_clip(seed + 100, rng.randrange(10**9))
        if not {other.color, other.background} & {clip.color, clip.background}:
            return other.caption


def _unlike(one: str, other: str) -> bool:
    """Whether a change of background from one to the other is beyond doubt."""
    return sum(abs(a - b) for a, b in zip(COLORS[one], COLORS[other], strict=True)) > 1.2


def _corrupt(path: Path, index: int) -> None:
    """Truncated, garbage, or empty."""
    data = path.read_bytes()
    path.write_bytes((data[: len(data) // 3], random.Random(index).randbytes(2000), b"")[index % 3])


# Runs


def _command(folder: Path, threshold: float) -> list[str]:
    return [
        sys.executable,
        "-m",
        "artv_core.cli",
        "prepare",
        "--checkpoint",
        "tiny",
        "--shard-clips",
        "24",
        "--clip-model",
        str(folder / "clip/config.json"),
        "--clip-weights",
        str(folder / "clip/weights.safetensors"),
        "--min-clip-score",
        str(threshold),
        str(folder / "clips"),
    ]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")


def _killed(command: Sequence[str], output: Path, rng: random.Random, kills: int) -> list[int]:
    """Run, kill -9 at random moments, and run to the end. Returns how many files there were at each kill."""
    total, there = len(_files(output.parent / "plain")), []
    targets = sorted(rng.sample(range(1, total), kills))
    for target in targets:
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while len(_files(output)) < target and process.poll() is None:
                time.sleep(0.02)
            time.sleep(rng.random() * 0.5)
            process.send_signal(signal.SIGKILL)
        there.append(len(_files(output)))
        if (output / "dataset.json").exists():
            raise RuntimeError("the run was at its end before it was killed")
    _run(command)
    return there


def _files(output: Path) -> list[Path]:
    return [*output.glob("work/scores-*/*.jsonl"), *output.glob("shards/*.tar")]


def _digests(output: Path) -> dict[str, str]:
    """Of all that training reads."""
    paths = [*sorted((output / "shards").glob("*.tar")), output / "index.npz", output / "dropped.jsonl"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _fates(output: Path) -> dict[str, str]:
    """Clip -> "kept" or why it was dropped."""
    from artv_core.data.prepared import open_prepared

    lines = [json.loads(line) for line in (output / "dropped.jsonl").read_text().splitlines()]
    clips = open_prepared(output)
    kept = {clips.name(clip): "kept" for clip in range(len(clips.index))}
    return kept | {line["name"]: line["reason"] for line in lines}
