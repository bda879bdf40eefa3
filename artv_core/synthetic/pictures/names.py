"""The content of the world of pictures in words: things, places, motions and sizes, and the captions made of them.

The words and the order of all these lists are those that the checkpoint `small` was trained with. A thing, place,
motion or size is identified by its index in its list. Not in the paper.
"""

import math
from itertools import chain

THINGS: tuple[str, ...] = (
    *("dog", "cat", "fox", "lion", "tiger", "bear", "panda", "koala", "pig", "cow", "monkey", "rabbit", "frog"),
    *("mouse", "unicorn", "dragon", "horse", "zebra", "giraffe", "elephant", "camel", "hedgehog", "penguin", "owl"),
    *("duck", "chick", "rooster", "parrot", "flamingo", "turtle", "snake", "crocodile", "dinosaur", "fish", "whale"),
    *("dolphin", "octopus", "crab", "jellyfish", "butterfly", "bee", "ladybug", "snail"),
    *("car", "taxi", "bus", "fire truck", "ambulance", "police car", "tractor", "train", "truck", "bicycle"),
    *("airplane", "helicopter", "rocket", "ufo", "sailboat", "ship"),
    *("sun", "moon", "cloud", "rainbow", "snowflake", "fire", "globe"),
    *("rose", "tulip", "sunflower", "pine tree", "tree", "palm tree", "cactus", "mushroom"),
    *("apple", "banana", "lemon", "cherry", "strawberry", "grapes", "watermelon", "pineapple"),
    *("carrot", "corn", "broccoli", "eggplant", "bread", "cheese", "pizza", "burger", "hot dog", "fries"),
    *("donut", "cupcake", "cake", "ice cream", "lollipop", "popcorn", "coffee"),
    *("soccer ball", "basketball", "balloon", "heart", "star", "gift", "clock", "umbrella", "crown", "bell", "key"),
    *("guitar", "drum", "teddy bear", "diamond", "light bulb", "backpack", "top hat", "anchor", "trophy"),
    *("house", "castle", "tent", "ghost", "robot", "alien", "snowman", "pumpkin", "clown"),
    *("smiley", "angry face", "cool face"),
)
DETAILED_PLACES: tuple[str, ...] = (
    "before a night sky with stars",
    "before a blue sky with clouds",
    "in a green meadow",
    "in a sandy desert",
    "on a sea with waves",
    "before snowy hills",
    "on a brick wall",
    "in a forest",
    "in a city at night",
    "on a wooden floor",
)
COLORS: tuple[str, ...] = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "gray")


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeio' or words.startswith('umbrella') else 'a'} {words}"


PLACES: tuple[str, ...] = DETAILED_PLACES + tuple(f"on {_with_article(color)} background" for color in COLORS)
"""The detailed places, then the plain colours, each as the phrase that ends a caption."""

_SLANT = 0.7
DIRECTIONS: dict[str, tuple[float, float]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "up left": (-_SLANT, -_SLANT),
    "up right": (_SLANT, -_SLANT),
    "down left": (-_SLANT, _SLANT),
    "down right": (_SLANT, _SLANT),
}
"""(x, y), y points down; multiplied by a speed this is the velocity."""

SPEEDS: dict[str, float] = {"slowly": 4 / 128, "fast": 9 / 128}
"""In frame sides per frame."""

OTHER_MOTIONS: tuple[str, ...] = (
    "bouncing",
    "spinning slowly",
    "spinning fast",
    "pulsing",
    "swinging",
    "standing still",
)
MOTIONS: tuple[str, ...] = tuple(f"moving {way} {speed}" for way in DIRECTIONS for speed in SPEEDS) + OTHER_MOTIONS
STANDING_STILL = MOTIONS.index("standing still")

VELOCITIES: tuple[tuple[float, float], ...] = (
    *((x * speed, y * speed) for x, y in DIRECTIONS.values() for speed in SPEEDS.values()),
    *((0.0, 0.0) for _ in OTHER_MOTIONS),
)
"""(x, y) of each motion in frame sides per frame."""

SIZES: dict[str, tuple[float, float]] = {
    "": (44 / 128, 54 / 128),
    "small": (34 / 128, 38 / 128),
    "large": (58 / 128, 64 / 128),
}
"""Smallest and largest side of a thing, in frame sides. The empty word is the common size."""

TURNS: dict[str, float] = {"spinning slowly": math.radians(12), "spinning fast": math.radians(30)}
"""Radians per frame, clockwise."""


def caption(thing: str, motion: str, place: str, size: str = "", second: str = "", second_motion: str = "") -> str:
    """What a clip shows, in the fixed word order of the training data. `second` is the second thing, if there is one;
    if `second_motion` is empty or the same, it moves like the first."""
    first = _with_article(f"{size} {thing}".strip())
    if not second:
        return f"{first} {motion} {place}"
    if second_motion in ("", motion):
        return f"{first} and {_with_article(second)} {motion} {place}"
    return f"{first} {motion} and {_with_article(second)} {second_motion} {place}"


def vocabulary() -> tuple[str, ...]:
    """Every word a caption can contain, sorted."""
    phrases = chain(map(_with_article, THINGS), PLACES, MOTIONS, SIZES, ["and"])
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))


def is_held_out(thing: int, place: int) -> bool:
    """Whether training never draws this thing in this place (given as indices). One pair in ten is held out, for
    measuring only."""
    return (7 * thing + thing // 10 + 3 * place) % 10 == 0
