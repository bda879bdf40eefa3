"""Trains the judge of the world of pictures on true frames, and on true frames that an autoencoder has encoded and
decoded.

It never sees a frame that a model made from noise. Everything that a step draws depends on its number, so a resumed run
gives the same result as one that never stopped. Not in the paper.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..files.partial_file import replacing
from ..models.artv import ARTV
from ..synthetic.pictures.names import MOTIONS, TURNS
from ..synthetic.pictures.scenes import Scenes, joined
from ..synthetic.pictures.world import PictureWorld
from .pictures_judge import FULL_TURN, Judge, Labels, angles, judge_loss, see, short_way

SCENES, HELD_OUT_SCENES, FRAMES = 10, 2, 4
"""In each batch: scenes, additional scenes with held-out pairs (so that the judge does not learn that these never
occur), and frames of each scene."""
REBUILT = 16
"""Frames in each batch that an autoencoder has encoded and decoded."""
EMPTY = 1
"""Scenes in each batch that show only the place."""
TURNED_SHARE, ANYWHERE_SHARE = 0.4, 0.5
"""Shares of scenes: with things turned by any angle, and with things anywhere, even across the frame's borders."""
BLURRED_SHARE = 0.4
WEIGHTS = {"thing": 1.0, "place": 0.5, "there": 0.5, "cell": 0.5, "offset": 1.0, "angle": 0.5, "size": 1.0}


@dataclass(frozen=True)
class JudgeTraining:
    """How the judge is trained. `pool`: how many frames the autoencoder encodes and decodes, once."""

    steps: int = 3000
    learning_rate: float = 2e-3
    muon_learning_rate: float = 0.015
    warmup: int = 50
    weight_decay: float = 0.02
    average: float = 0.995
    pool: int = 640
    save_every: int = 100


def train_judge(
    world: PictureWorld,
    autoencoder: ARTV | None,
    options: JudgeTraining,
    state_path: Path | None = None,
    report: Callable[[int, dict[str, float]], None] = lambda step, losses: None,
) -> Judge:
    """The judge, averaged over its last steps. Training continues from the state in `state_path` if there is one.
    `autoencoder`: the model whose autoencoder is used, or None."""
    torch.manual_seed(0)
    judge, averaged = Judge(), Judge()
    averaged.load_state_dict(judge.state_dict())
    optimizer = _optimizer(judge, options)
    rates = [group["lr"] for group in optimizer.param_groups]
    parts: dict[str, Any] = {"judge": judge, "averaged": averaged, "optimizer": optimizer}
    state = torch.load(state_path, weights_only=True) if state_path is not None and state_path.is_file() else {}
    for name, part in parts.items():
        if "step" in state:
            part.load_state_dict(state[name])
    pool = state.get("pool") or rebuilt_frames(world, autoencoder, options.pool)
    for step in range(state.get("step", 0), options.steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * _rate(step, options)
        losses = _step(judge, optimizer, *_batch(world, pool, step))
        for slow, fast in zip(averaged.parameters(), judge.parameters(), strict=True):
            slow.data.lerp_(fast.data, 1 - min(options.average, step / (step + 10)))
        report(step, losses)
        if state_path is not None and ((step + 1) % options.save_every == 0 or step + 1 == options.steps):
            kept = {name: part.state_dict() for name, part in parts.items()}
            with replacing(state_path) as partial:
                torch.save(kept | {"pool": pool, "step": step + 1}, partial)
    return averaged.eval()


def _optimizer(judge: Judge, options: JudgeTraining) -> torch.optim.Optimizer:
    from pytorch_optimizer import Muon

    modules = (*judge.trunk[2:], judge.thing_features, judge.place_features)
    inner = [parameter for module in modules for parameter in module.parameters() if parameter.ndim > 1]
    of_inner = {id(parameter) for parameter in inner}
    rest = [p for p in judge.parameters() if id(p) not in of_inner]
    muon = {"lr": options.muon_learning_rate, "weight_decay": options.weight_decay, "use_adjusted_lr": True}
    groups = [
        {"params": inner, **muon, "use_muon": True},
        {"params": rest, "lr": options.learning_rate, "weight_decay": 0.0, "use_muon": False},
    ]
    return Muon(groups)


def _rate(step: int, options: JudgeTraining) -> float:
    warm = min(1.0, (step + 1) / options.warmup)
    return warm * (1 - step / options.steps)


def _step(judge: Judge, optimizer: torch.optim.Optimizer, frames: Tensor, labels: Labels) -> dict[str, float]:
    with torch.autocast("cpu", torch.bfloat16):
        sight = judge(frames)
    losses = judge_loss(sight, labels)
    optimizer.zero_grad()
    torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum().backward()
    torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
    optimizer.step()
    return {name: loss.item() for name, loss in losses.items()}


def _batch(world: PictureWorld, pool: dict[str, Tensor], step: int) -> tuple[Tensor, Labels]:
    generator = torch.Generator().manual_seed(step)
    frames, labels = true_frames(world, SCENES, HELD_OUT_SCENES, EMPTY, generator)
    if pool:
        index = torch.randint(len(pool["frames"]), (REBUILT,), generator=generator)
        frames = torch.cat([frames, pool["frames"][index].float() / 255])
        labels = Labels(*(torch.cat([getattr(labels, f.name), pool[f.name][index]]) for f in fields(Labels)))
    return _disturbed(frames, generator), labels


def true_frames(
    world: PictureWorld, scenes: int, held_out: int, empty: int, generator: torch.Generator
) -> tuple[Tensor, Labels]:
    """Frames [N, 3, 128, 128] of `scenes` and `held_out` scenes of the world with one thing each, FRAMES frames of each
    in a row. The last `empty` scenes show only the place."""
    parts = [world.draw(scenes, generator, two_share=0.0), world.draw(held_out, generator, True, two_share=0.0)]
    drawn = _moved(joined([part for part in parts if len(part)]), generator)
    times = 64 * torch.rand(len(drawn), FRAMES, generator=generator)
    frames = world.render(drawn, times)
    there = torch.ones(len(drawn), FRAMES)
    if empty:
        frames[-empty:] = world.ground(drawn[-empty:])[:, None]
        there[-empty:] = 0
    states = world.states(drawn, times)
    labels = Labels(
        thing=drawn.things[:, :1].expand(-1, FRAMES).flatten(),
        place=drawn.places[:, None].expand(-1, FRAMES).flatten(),
        there=there.flatten(),
        position=torch.stack([states.x[..., 0], states.y[..., 0]], dim=-1).flatten(0, 1) % 1.0,
        size=states.side[..., 0].flatten(),
        angle=states.angle[..., 0].flatten() % FULL_TURN,
    )
    return frames.flatten(0, 1), labels


def _moved(scenes: Scenes, generator: torch.Generator) -> Scenes:
    """Turn more of the scenes, and put things anywhere."""
    count = len(scenes)
    turned = torch.rand(count, 1, generator=generator) < TURNED_SHARE
    turn = MOTIONS.index(next(iter(TURNS)))
    anywhere = torch.rand(count, 1, generator=generator) < ANYWHERE_SHARE
    x, y = torch.rand(2, count, 1, generator=generator)
    return replace(
        scenes,
        motions=torch.where(turned, turn, scenes.motions),
        x=torch.where(anywhere, x, scenes.x),
        y=torch.where(anywhere, y, scenes.y),
    )


@torch.no_grad()
def rebuilt_frames(world: PictureWorld, autoencoder: ARTV | None, count: int) -> dict[str, Tensor]:
    """`count` true frames after encoding and decoding by the autoencoder, uint8, and their labels by name."""
    if autoencoder is None:
        return {}
    generator, parts = torch.Generator().manual_seed(1 << 40), []
    for _ in range(math.ceil(count / 64)):
        frames, labels = true_frames(world, 14, 2, EMPTY, generator)
        with torch.autocast("cpu", torch.bfloat16):
            frames = autoencoder.decode_latents(autoencoder.encode_images(frames))
        named = {field.name: getattr(labels, field.name) for field in fields(Labels)}
        parts.append(named | {"frames": (frames.float().clamp(0, 1) * 255).round().byte()})
    return {name: torch.cat([part[name] for part in parts])[:count] for name in parts[0]}


def _disturbed(frames: Tensor, generator: torch.Generator) -> Tensor:
    """The frames, some slightly blurred, and all with a little noise and a small colour shift."""
    count = len(frames)
    sigma = 0.3 + 1.2 * torch.rand(count, generator=generator)
    chosen = torch.rand(count, generator=generator) < BLURRED_SHARE
    frames = torch.where(chosen[:, None, None, None], blurred(frames, sigma), frames)
    gain = 1 + 0.1 * (torch.rand(count, 3, 1, 1, generator=generator) - 0.5)
    noise = 0.02 * torch.rand(count, 1, 1, 1, generator=generator) * torch.randn(frames.shape, generator=generator)
    return (frames * gain + noise).clamp(0, 1)


def blurred(frames: Tensor, sigma: Tensor, reach: int = 3) -> Tensor:
    """Frames [N, 3, H, W], each blurred by a Gaussian of its own `sigma` [N] in pixels; wraps around the borders."""
    steps = torch.arange(-reach, reach + 1.0)
    kernel = torch.exp(-0.5 * (steps / sigma[:, None]).square())
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    channels = frames.flatten(0, 1)[None]
    padded = F.pad(channels, (reach,) * 4, mode="circular")
    across = F.conv2d(padded, kernel[:, None, None, :], groups=len(kernel))
    return F.conv2d(across, kernel[:, None, :, None], groups=len(kernel))[0].unflatten(0, (len(frames), 3))


def true_frame_scores(judge: Judge, world: PictureWorld, count: int = 2048, held_out: bool = True) -> dict[str, float]:
    """The judge's scores on `count` true frames that training never drew: shares of things, places and presence that
    are right, of positions within 3% of a frame side and sizes within 12%, and the median error of angles in
    degrees."""
    generator = torch.Generator().manual_seed(1 << 41)
    scenes = (0, 16) if held_out else (16, 0)
    batches = [true_frames(world, *scenes, 0, generator) for _ in range(count // 64)]
    frames = torch.cat([frames for frames, _ in batches])
    truth = Labels(*(torch.cat([getattr(labels, f.name) for _, labels in batches]) for f in fields(Labels)))
    seen = see(judge, frames[:, None])
    away = short_way(seen.position[:, 0] - truth.position).norm(dim=1)
    turned = short_way(angles(seen.turned[:, 0]) - truth.angle, FULL_TURN).abs()
    return {
        "thing": (seen.things[:, 0].argmax(1) == truth.thing).float().mean().item(),
        "place": (seen.places[:, 0].argmax(1) == truth.place).float().mean().item(),
        "there": (seen.there[:, 0] > 0.5).float().mean().item(),
        "position": (away < 0.03).float().mean().item(),
        "size": ((seen.size[:, 0] / truth.size).log().abs() < 0.12).float().mean().item(),
        "angle, degrees": math.degrees(turned.median().item()),
    }
