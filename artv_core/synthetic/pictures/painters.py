"""Paints the places: each painter makes a picture that depends on the state of its random numbers."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .names import COLORS, DETAILED_PLACES, PLACES
from .painting import (
    CANVAS,
    as_image,
    between,
    blades_of_grass,
    dot,
    downward,
    filled_below,
    ink,
    ridge,
    uneven,
    varied,
)

WHITE = (255, 255, 255)

Painter = Callable[[np.random.Generator], Image.Image]


def night_sky(rng: np.random.Generator) -> Image.Image:
    """Dark blue to violet, many stars of several sizes, a few that sparkle."""
    darkness = 0.7 * downward() + 0.5 * uneven(rng) - 0.1
    image = as_image(between(varied(rng, (6, 8, 34), 6), varied(rng, (40, 34, 96), 14), darkness))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(90, 170)):
        radius = rng.choice((0.8, 1.2, 1.7, 2.4), p=(0.45, 0.3, 0.18, 0.07))
        bright = rng.integers(150, 256)
        x, y = rng.integers(0, CANVAS, 2)
        dot(draw, x, y, radius, (bright, bright, bright + rng.integers(-50, 20)))
    for _ in range(rng.integers(2, 6)):
        (x, y), ray = rng.integers(10, CANVAS - 10, 2).tolist(), int(rng.integers(5, 9))
        draw.line((x - ray, y, x + ray, y), fill=(255, 255, 230))
        draw.line((x, y - ray, x, y + ray), fill=(255, 255, 230))
        dot(draw, x, y, 2, WHITE)
    return image


def cloudy_sky(rng: np.random.Generator) -> Image.Image:
    """Blue, paler below, with soft white clouds."""
    picture = between(varied(rng, (58, 132, 226), 12), varied(rng, (166, 212, 246), 8), downward())
    for _ in range(rng.integers(3, 7)):
        x, y, width = rng.integers(0, CANVAS), rng.integers(10, CANVAS - 20), rng.integers(30, 80)
        shape = Image.new("L", (CANVAS, CANVAS))
        draw = ImageDraw.Draw(shape)
        for _ in range(14):
            puff_x, puff_y = x + rng.normal(0, 0.45 * width), y - abs(rng.normal(0, 0.12 * width))
            puff = rng.uniform(0.14, 0.34) * width
            draw.ellipse((puff_x - puff, puff_y - 0.8 * puff, puff_x + puff, puff_y + 0.6 * puff), fill=255)
        soft = np.asarray(shape.filter(ImageFilter.GaussianBlur(2.5)), float) / 255
        thick = (soft * (0.65 + 0.35 * uneven(rng, 6)))[..., None]
        picture = picture + thick * (252 - picture)
    return as_image(picture)


def meadow(rng: np.random.Generator) -> Image.Image:
    """Tall grass with flowers under a blue sky, a hill behind."""
    horizon = int(rng.integers(60, 120))
    picture = between(varied(rng, (120, 190, 240)), varied(rng, (205, 232, 246), 6), downward())
    hill = between(varied(rng, (92, 150, 90), 8), varied(rng, (110, 170, 100), 8), uneven(rng))
    picture = filled_below(picture, ridge(rng, horizon - 18, 9, 3), hill)
    ground = between(varied(rng, (64, 142, 48), 8), varied(rng, (130, 192, 70), 10), uneven(rng, 4))
    image = as_image(filled_below(picture, ridge(rng, horizon, 3, 3), ground))
    draw = ImageDraw.Draw(image)
    greens = ((50, 120, 40), (90, 165, 55), (140, 200, 80), (70, 140, 50))
    blades_of_grass(draw, rng, horizon + 6, 1100, greens, (6, 16))
    petals = ((250, 240, 90), WHITE, (235, 90, 120), (190, 110, 220))
    for _ in range(rng.integers(18, 50)):
        x, y = rng.uniform(0, CANVAS), rng.uniform(horizon + 10, CANVAS)
        radius = 1.3 + 2.8 * (y - horizon) / (CANVAS - horizon)
        _flower(draw, x, y, radius, petals[rng.integers(len(petals))])
    return image


def _flower(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, color: tuple[int, int, int]) -> None:
    for petal in range(5):
        turn = petal * math.tau / 5
        dot(draw, x + radius * math.cos(turn), y + radius * math.sin(turn), 0.7 * radius, color)
    dot(draw, x, y, 0.6 * radius, (240, 180, 40))


def desert(rng: np.random.Generator) -> Image.Image:
    """Rippled dunes, one behind the other, and some stones."""
    horizon = int(rng.integers(70, 130))
    picture = between(varied(rng, (96, 170, 226)), varied(rng, (246, 222, 176), 8), np.minimum(1, 2 * downward()))
    y, x = np.mgrid[:CANVAS, :CANVAS] / CANVAS
    dunes = int(rng.integers(3, 5))
    for dune in range(dunes):
        crest = ridge(rng, horizon + dune * (CANVAS - horizon) / 4, 14, 2)
        color = varied(rng, (226 - 10 * dune, 176 - 8 * dune, 104 - 4 * dune), 7)
        depth = np.clip((np.arange(CANVAS)[:, None] - crest) / 70, 0, 1)
        slope = y * rng.uniform(60, 110) + x * rng.uniform(-14, 14) + 5 * uneven(rng, 3)
        ripples = 0.5 + 0.5 * np.sin(2 * slope * (1 - 0.3 * y))
        sand = between(color, 0.8 * color, depth * (0.6 + 0.4 * ripples)) + rng.normal(0, 4, (CANVAS, CANVAS, 1))
        picture = filled_below(picture, crest, sand)
    image = as_image(picture)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(3, 12)):
        x, y = rng.uniform(0, CANVAS), rng.uniform(horizon + 25, CANVAS)
        dot(draw, x, y, rng.uniform(2, 6), varied(rng, (150, 110, 70)), flatness=0.6)
    return image


def sea(rng: np.random.Generator) -> Image.Image:
    """Waves with foam, wider the nearer they are, under a pale sky."""
    horizon = int(rng.integers(50, 100))
    above = np.minimum(1, downward() * CANVAS / horizon)
    sky = between(varied(rng, (120, 190, 240)), varied(rng, (225, 238, 246), 6), above)
    depth = np.clip((np.arange(CANVAS)[:, None] - horizon) / (CANVAS - horizon), 0, 1)
    swell, tilt = uneven(rng, 3), np.linspace(0, rng.uniform(6, 20), CANVAS)
    waves = np.sin(np.sqrt(depth + 0.02) * rng.uniform(70, 100) + 5 * swell + tilt)
    light = np.clip(0.5 * depth + 0.3 * waves + 0.25 * swell, 0, 1)
    water = between(varied(rng, (20, 96, 160), 8), varied(rng, (60, 168, 190), 8), light)
    foam = (np.clip(7 * (waves - 0.86), 0, 1) * (uneven(rng, 8) > 0.45))[..., None]
    water = water + foam * (245 - water)
    return as_image(filled_below(sky, np.full(CANVAS, horizon), water))


def snowy_hills(rng: np.random.Generator) -> Image.Image:
    """Rocks, two hills with fir trees, falling snow."""
    picture = between(varied(rng, (130, 168, 214)), varied(rng, (220, 230, 242), 5), downward())
    layers = ((70, 26, (150, 168, 200)), (112, 18, (196, 210, 232)), (160, 12, (232, 240, 250)))
    for number, (height, swing, color) in enumerate(layers):
        line = ridge(rng, height + rng.normal(0, 10), swing, 3 if number else 5)
        bright = np.minimum(255, 1.06 * np.array(color))
        picture = filled_below(picture, line, between(0.86 * np.array(color), bright, uneven(rng, 3 + number)))
        if number:
            image = as_image(picture)
            _firs(ImageDraw.Draw(image), rng, line, 10 + 12 * number)
            picture = np.asarray(image).astype(float)
    image = as_image(picture)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(40, 110)):
        x, y = rng.uniform(0, CANVAS, 2)
        dot(draw, x, y, rng.uniform(0.8, 2.2), WHITE)
    return image


def _firs(draw: ImageDraw.ImageDraw, rng: np.random.Generator, line: np.ndarray, height: float) -> None:
    for _ in range(rng.integers(5, 14)):
        x = int(rng.integers(4, CANVAS - 4))
        y, tall = min(CANVAS - 1, line[x] + rng.uniform(2, 24)), height * rng.uniform(0.6, 1)
        for tier in range(3):
            wide, foot = tall * (0.22 + 0.1 * tier), y + tall * (0.28 * tier - 0.45)
            top = y + tall * (0.28 * tier - 1.15)
            draw.polygon(((x - wide, foot), (x + wide, foot), (x, top)), fill=ink(varied(rng, (36, 84, 66), 7)))


def brick_wall(rng: np.random.Generator) -> Image.Image:
    """Rows of bricks, each of its own shade, in pale mortar; unevenly lit."""
    mortar = ink(varied(rng, (186, 178, 168), 10))
    base = np.array(((164, 74, 56), (182, 92, 62), (140, 62, 52), (190, 112, 84)))[rng.integers(4)]
    image = Image.new("RGB", (CANVAS, CANVAS), mortar)
    draw = ImageDraw.Draw(image)
    high = int(rng.integers(18, 28))
    wide = int(high * rng.uniform(2, 2.5))
    left, top = int(rng.integers(wide)), int(rng.integers(high))
    for row in range(-1, CANVAS // high + 2):
        for column in range(-2, CANVAS // wide + 2):
            x, y = column * wide + row % 2 * (wide // 2) + left, row * high + top
            right, bottom = x + wide - 2, y + high - 2
            draw.rectangle((x + 2, y + 2, right, bottom), fill=ink(varied(rng, base * rng.uniform(0.85, 1.15), 5)))
            draw.line((x + 2, bottom, right, bottom), fill=ink(0.6 * base))
    light = (0.82 + 0.3 * uneven(rng, 3))[..., None]
    return as_image(np.asarray(image) * light + rng.normal(0, 5, (CANVAS, CANVAS, 1)))


def forest(rng: np.random.Generator) -> Image.Image:
    """Three rows of trunks, the nearest the darkest, with leaves above, moss between and grass before them."""
    light = between(varied(rng, (176, 214, 170)), varied(rng, (96, 150, 104), 8), downward())
    image = as_image(light * (0.85 + 0.25 * uneven(rng))[..., None])
    for row in range(3):
        ground = 165 + 28 * row
        _trunks(ImageDraw.Draw(image), rng, row, ground)
        moss = np.array(((84, 128, 62), (48, 92, 44))) * np.array(((1.1 - 0.22 * row,), (1.1 - 0.2 * row,)))
        floor = between(moss[0], moss[1], uneven(rng, 5))
        image = as_image(filled_below(np.asarray(image), ridge(rng, ground - 6, 6, 4), floor))
        _leaves(ImageDraw.Draw(image), rng, np.array((92, 150, 70)) * (1.05 - 0.2 * row))
    grass = ((40, 86, 36), (70, 120, 50), (100, 140, 60))
    blades_of_grass(ImageDraw.Draw(image), rng, 205, 320, grass, (6, 18))
    return image


def _trunks(draw: ImageDraw.ImageDraw, rng: np.random.Generator, row: int, ground: float) -> None:
    for _ in range(9 - 2 * row):
        x, wide = rng.uniform(-5, CANVAS + 5), rng.uniform(5, 9) * (1 + 1.1 * row)
        color = varied(rng, np.array((150, 130, 104)) * (1 - 0.26 * row), 7)
        above, foot = wide / 2, 0.75 * wide
        draw.polygon(((x - above, 0), (x + above, 0), (x + foot, ground), (x - foot, ground)), fill=ink(color))
        for _ in range(int(5 + wide)):
            crack_x, crack_y = x + wide * rng.uniform(-0.4, 0.4), rng.uniform(0, ground)
            draw.line((crack_x, crack_y, crack_x, crack_y + rng.uniform(5, 16)), fill=ink(0.7 * color))


def _leaves(draw: ImageDraw.ImageDraw, rng: np.random.Generator, color: np.ndarray) -> None:
    for _ in range(130):
        x, y, radius = rng.uniform(0, CANVAS), abs(rng.normal(0, 26)), rng.uniform(4, 9)
        dot(draw, x, y, radius, varied(rng, color, 12), flatness=0.7)


def city_at_night(rng: np.random.Generator) -> Image.Image:
    """Two rows of houses with lit windows before a dusky sky; some have a red light on a mast."""
    sky = between(varied(rng, (18, 18, 52), 6), varied(rng, (110, 62, 110), 14), downward() ** 1.4)
    image = as_image(sky)
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        draw.point((rng.uniform(0, CANVAS), rng.uniform(0, 110)), fill=(210, 210, 230))
    for near in range(2):
        x = -int(rng.integers(20))
        while x < CANVAS:
            wide, top = int(rng.integers(24, 50)), int(rng.integers(55 + 55 * near, 150 + 30 * near))
            _tower(draw, rng, x, top, wide, near)
            x += wide + int(rng.integers(7))
    return image


def _tower(draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: int, top: int, wide: int, near: int) -> None:
    wall = ink(varied(rng, (24, 24, 44) if near else (52, 50, 88), 5))
    draw.rectangle((x, top, x + wide, CANVAS), fill=wall)
    if rng.random() < 0.3:
        middle = x + wide / 2
        draw.line((middle, top - 16, middle, top), fill=wall, width=2)
        dot(draw, middle, top - 16, 2, (240, 70, 60))
    step, share = int(rng.integers(8, 12)), rng.uniform(0.25, 0.7)
    glow = np.array(((252, 214, 120), (255, 236, 180), (150, 210, 250)))[rng.integers(3)]
    for y in range(top + 6, CANVAS, step):
        for left in range(x + 5, x + wide - 5, step - 1):
            if rng.random() < share:
                draw.rectangle((left, y, left + 3, y + 4), fill=ink(varied(rng, glow, 12) if near else 0.7 * glow))


def wooden_floor(rng: np.random.Generator) -> Image.Image:
    """Boards with grain and a few joints, lengthwise or across."""
    base = np.array(((176, 124, 74), (150, 98, 56), (200, 152, 98), (122, 78, 48)))[rng.integers(4)]
    boards, across = int(rng.integers(5, 9)), rng.random() < 0.5
    edges = np.linspace(0, CANVAS, boards + 1).astype(int)
    picture = np.zeros((CANVAS, CANVAS, 3))
    for left, right in pairwise(edges):
        bend = Image.fromarray(uneven(rng, 2)).resize((int(right - left), CANVAS))
        grain = 0.5 + 0.5 * np.sin(np.arange(right - left) * rng.uniform(0.5, 0.9) + 12 * np.asarray(bend))
        color = base * rng.uniform(0.85, 1.12)
        share = 0.55 * grain + 0.3 * uneven(rng)[:, : right - left]
        picture[:, left:right] = color + share[..., None] * (-0.22 * color)
        picture[:, left : left + 2] = 0.42 * base
        for joint in rng.integers(0, CANVAS, rng.integers(1, 3)):
            picture[joint : joint + 2, left:right] = 0.45 * base
    picture += rng.normal(0, 3, (CANVAS, CANVAS, 1))
    return as_image(picture.transpose(1, 0, 2) if across else picture)


BASE_COLORS = {
    "red": (208, 52, 48),
    "orange": (238, 138, 40),
    "yellow": (244, 212, 70),
    "green": (64, 160, 82),
    "blue": (54, 104, 204),
    "purple": (134, 76, 176),
    "pink": (240, 140, 180),
    "gray": (140, 144, 150),
}


def plain(color: str) -> Painter:
    """A painter of one colour that runs from light to dark, along a line or away from a point."""

    def paint(rng: np.random.Generator) -> Image.Image:
        base = varied(rng, BASE_COLORS[color], 8)
        y, x = np.mgrid[:CANVAS, :CANVAS] / CANVAS - 0.5
        if rng.random() < 0.4:
            left, top = rng.uniform(-0.3, 0.3, 2)
            share = 1.4 * np.hypot(x - left, y - top)
        else:
            turn = rng.uniform(0, math.tau)
            share = 0.5 + (x * math.cos(turn) + y * math.sin(turn)) * rng.uniform(0.6, 1.1)
        return as_image(between(np.minimum(255, 1.18 * base + 12), 0.72 * base, share.clip(0, 1)))

    return paint


_DETAILED: tuple[Painter, ...] = (
    *(night_sky, cloudy_sky, meadow, desert, sea),
    *(snowy_hills, brick_wall, forest, city_at_night, wooden_floor),
)
PAINTERS: dict[str, Painter] = {
    **dict(zip(DETAILED_PLACES, _DETAILED, strict=True)),
    **dict(zip(PLACES[len(DETAILED_PLACES) :], map(plain, COLORS), strict=True)),
}
"""Of each place."""
