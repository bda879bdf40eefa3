"""The prompts for measuring models of the world of pictures: 64 held-out pairs of thing and place, with one thing each.

They depend only on the names, so they stay the same if the drawing of scenes changes. Not in the paper.
"""

import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch

from ..synthetic.pictures.names import (
    DETAILED_PLACES,
    DIRECTIONS,
    MOTIONS,
    OTHER_MOTIONS,
    PLACES,
    SIZES,
    SPEEDS,
    THINGS,
    caption,
    is_held_out,
)
from ..synthetic.pictures.scenes import Scenes
from ..synthetic.pictures.world import PictureWorld

COUNT = 64
SIZE_SHARES = {"small": 12, "large": 12, "": 40}
DETAILED_COUNT = 48
"""How many of the prompts have detailed places."""


@dataclass(frozen=True)
class PicturePrompt:
    """One prompt, by names. `caption` is the text for the model."""

    thing: str
    place: str
    motion: str
    size: str

    @property
    def caption(self) -> str:
        """The caption, in the form of the world's own captions."""
        return caption(self.thing, self.motion, self.place, self.size)

    @property
    def linear(self) -> bool:
        """Whether the thing moves along a line."""
        return self.motion not in OTHER_MOTIONS


def picture_prompts(words: Collection[str] = ()) -> list[PicturePrompt]:
    """All 64 prompts: each thing at most once, 48 in detailed places, 40 linear motions (each two or three times), each
    other motion four times. The first few of them are mixed in the same way.

    `words`: the words that a model knows, if it does not know all things. Things are then repeated as rarely as
    possible. Raises ValueError if a place is left without any thing.
    """
    lot = random.Random("pictures/quality")
    motions, places = _motions(), _places()
    sizes = [size for size, count in SIZE_SHARES.items() for _ in range(count)]
    for values in (motions, places, sizes):
        lot.shuffle(values)
    prompts: list[PicturePrompt] = []
    for motion, place, size in zip(motions, places, sizes, strict=True):
        used = Counter(prompt.thing for prompt in prompts)
        allowed = [thing for thing in THINGS if _held_out(thing, place) and _known(f"{thing} {place}", words)]
        if not allowed:
            raise ValueError(
                f"the checkpoint knows none of the things that are held out {place}, so it cannot be measured there"
            )
        least = min(used[thing] for thing in allowed)
        free = sorted(thing for thing in allowed if used[thing] == least)
        prompts.append(PicturePrompt(lot.choice(free), place, motion, size))
    return prompts


def _known(text: str, words: Collection[str]) -> bool:
    return not words or set(text.split()) <= set(words)


def _motions() -> list[str]:
    directions, speeds = sorted(DIRECTIONS), list(SPEEDS)
    linear = [f"moving {direction} {speed}" for direction in directions for speed in speeds]
    third = [f"moving {direction} {speeds[index % 2]}" for index, direction in enumerate(directions)]
    return [*linear, *linear, *third, *sorted(OTHER_MOTIONS) * 4]


def _places() -> list[str]:
    plain = sorted(set(PLACES) - set(DETAILED_PLACES))
    detailed = sorted(DETAILED_PLACES) * (DETAILED_COUNT // len(DETAILED_PLACES) + 1)
    return detailed[:DETAILED_COUNT] + plain * ((COUNT - DETAILED_COUNT) // len(plain))


def _held_out(thing: str, place: str) -> bool:
    return is_held_out(THINGS.index(thing), PLACES.index(place))


def true_scenes(world: PictureWorld, prompts: Sequence[PicturePrompt], seed: int = 0) -> Scenes:
    """One scene of the world for each prompt, drawn at random with the prompt's motion and size, then given its thing
    and place."""
    drawn = world.draw(8192, torch.Generator().manual_seed(seed), two_share=0.0)
    kinds = list(zip(drawn.motions[:, 0].tolist(), drawn.size.tolist(), strict=True))
    rows: list[int] = []
    for prompt in prompts:
        kind = MOTIONS.index(prompt.motion), list(SIZES).index(prompt.size)
        rows.append(kinds.index(kind, max((row for row in rows if kinds[row] == kind), default=-1) + 1))
    chosen = drawn[rows]
    places = torch.tensor([PLACES.index(prompt.place) for prompt in prompts])
    things = chosen.things.clone()
    things[:, 0] = torch.tensor([THINGS.index(prompt.thing) for prompt in prompts])
    return replace(
        chosen,
        things=things,
        places=places.to(things.device),
        picture=chosen.picture % torch.tensor(world.pictures_of)[places].to(things.device),
    )
