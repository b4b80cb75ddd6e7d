"""What lies behind and over the subjects: scenes, and motifs that no tag ever names. Unit square, y downward."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from umair.world.shapes import Part, Polygon, box, half, oval, poly, star

SKY, FAR, MID, NEAR, GLOW = range(5)  # roles of a scene's parts
MOTIFS = ("none", "bubbles", "sparkles", "petals", "confetti", "hearts")

Random = np.random.Generator


def _ground(role: int, top: float, swing: float, waves: float, rng: Random) -> Part:
    """Everything below a wavy line."""
    x = np.linspace(-0.02, 1.02, 24)
    y = top + swing * np.sin(2 * np.pi * (waves * x + rng.random()))
    return role, np.concatenate([np.stack([x, y], 1), [[1.02, 1.02], [-0.02, 1.02]]])


def _sea(rng: Random) -> list[Part]:
    sun = oval(GLOW, rng.uniform(0.15, 0.85), 0.4, 0.11, 0.11)
    return [sun, *[_ground(role, top, 0.012 + 0.01 * role, 3, rng) for role, top in ((FAR, 0.46), (MID, 0.62), (NEAR, 0.8))]]


def _mountain(rng: Random) -> list[Part]:
    parts: list[Part] = []
    for middle in np.array([0.12, 0.5, 0.88]) + rng.uniform(-0.08, 0.08, 3):
        top = rng.uniform(0.12, 0.3)
        slope = 0.34 / (0.8 - top)
        parts += [poly(FAR, middle, top, middle + 0.34, 0.8, middle - 0.34, 0.8),
                  poly(GLOW, middle, top, middle + 0.14 * slope, top + 0.14, middle, top + 0.09,
                       middle - 0.14 * slope, top + 0.14)]
    return [*parts, _ground(MID, 0.7, 0.02, 1, rng)]


def _city(rng: Random) -> list[Part]:
    parts = []
    for left in np.arange(-0.02, 1, 0.125):
        top = rng.uniform(0.15, 0.5)
        parts.append(box(FAR if rng.random() < 0.5 else MID, left, top, left + 0.125, 0.85))
        for y in np.arange(top + 0.05, 0.75, 0.1):
            parts += [box(GLOW, left + x, y, left + x + 0.025, y + 0.04) for x in (0.03, 0.075) if rng.random() < 0.8]
    return [*parts, box(NEAR, -0.02, 0.84, 1.02, 1.02)]


def _night(rng: Random) -> list[Part]:
    x, y = rng.uniform(0.2, 0.8), rng.uniform(0.14, 0.24)
    spots, sizes = rng.uniform((0.03, 0.02), (0.97, 0.6), (16, 2)), rng.uniform(0.015, 0.03, 16)
    stars = [star(GLOW, left, top, size, 4) for (left, top), size in zip(spots, sizes, strict=True)]
    moon = [oval(GLOW, x, y, 0.12, 0.12), oval(FAR, x + 0.055, y - 0.03, 0.1, 0.1)]
    return [box(FAR, -0.02, -0.02, 1.02, 1.02), *stars, *moon, _ground(NEAR, 0.86, 0.02, 1, rng)]


def _forest(rng: Random) -> list[Part]:
    parts = []
    for row, role in ((0, FAR), (1, MID)):
        for middle in np.arange(0.0, 1.1, 0.17) + 0.08 * row + rng.uniform(-0.02, 0.02, 7):
            top = 0.12 + 0.2 * row + rng.uniform(-0.06, 0.06)
            parts += [poly(role, middle, top, middle + 0.1, 0.84, middle - 0.1, 0.84)]
    return [*parts, _ground(NEAR, 0.82, 0.015, 2, rng)]


def _desert(rng: Random) -> list[Part]:
    x = rng.uniform(0.15, 0.85)
    return [oval(GLOW, x, 0.2, 0.14, 0.14), _ground(FAR, 0.52, 0.07, 0.8, rng), _ground(MID, 0.66, 0.06, 0.9, rng),
            _ground(NEAR, 0.82, 0.05, 0.7, rng)]


def _rain(rng: Random) -> list[Part]:
    spots = rng.uniform((0, 0.12), (1, 0.9), (34, 2))
    drops = [poly(GLOW, x, y, x + 0.012, y, x - 0.028, y + 0.11, x - 0.04, y + 0.11) for x, y in spots]
    clouds = [oval(MID, x, 0.03, 0.16, 0.1) for x in np.arange(0, 1.1, 0.2) + rng.uniform(-0.03, 0.03)]
    return [*clouds, *drops, _ground(NEAR, 0.9, 0.008, 2, rng)]


def _cloud(rng: Random) -> list[Part]:
    parts = []
    for x, y in ((0.2, 0.2), (0.75, 0.32), (0.3, 0.6), (0.85, 0.72)):
        x, y = x + rng.uniform(-0.1, 0.1), y + rng.uniform(-0.05, 0.05)
        parts += [half(GLOW, x - 0.11, y, 0.1, 0.09), half(GLOW, x + 0.12, y, 0.09, 0.08), half(GLOW, x, y, 0.13, 0.16)]
    return parts


def _snow(rng: Random) -> list[Part]:
    flakes = [oval(GLOW, x, y, size, size) for (x, y), size in
              zip(rng.uniform(0, (1, 0.85), (40, 2)), rng.uniform(0.01, 0.022, 40), strict=True)]
    return [_ground(FAR, 0.6, 0.05, 0.8, rng), *flakes, _ground(GLOW, 0.78, 0.03, 1, rng)]


def _meadow(rng: Random) -> list[Part]:
    blades = [poly(NEAR, x, y, x + 0.025, y, x + 0.03, y - 0.09) for x, y in rng.uniform((0, 0.72), (1, 1), (40, 2))]
    dots = [oval(GLOW, x, y, 0.014, 0.014) for x, y in rng.uniform((0, 0.66), (1, 0.98), (14, 2))]
    return [_ground(FAR, 0.5, 0.06, 1, rng), _ground(MID, 0.62, 0.05, 1, rng), *blades, *dots]


SCENES: tuple[Callable[[Random], list[Part]], ...] = (
    _sea, _mountain, _city, _night, _forest, _desert, _rain, _cloud, _snow, _meadow)  # in the order of words.SCENES


def motif(which: int, rng: Random) -> list[Polygon]:
    """About ten small shapes strewn over the picture, of the kind MOTIFS[which]."""
    spots, sizes = rng.uniform(0.04, 0.96, (11, 2)), rng.uniform(0.03, 0.055, 11)
    shapes: list[list[Polygon]] = [_motif_shapes(which, size, rng) for size in sizes]
    return [shape + spot for spot, group in zip(spots, shapes, strict=True) for shape in group]


def _motif_shapes(which: int, size: float, rng: Random) -> list[Polygon]:
    name, turn = MOTIFS[which], rng.uniform(0, 180)
    if name == "none":
        return []
    if name == "bubbles":
        outer, inner = (oval(0, 0, 0, share * size, share * size)[1] for share in (1.0, 0.68))
        return [np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])]
    if name == "sparkles":
        return [star(0, 0, 0, 1.5 * size, 4, 0.22)[1]]
    if name == "petals":
        return [oval(0, 0, 0, 1.2 * size, 0.5 * size, turn)[1]]
    if name == "confetti":
        return [oval(0, 0, 0, 1.5 * size, 0.24 * size, turn)[1]]
    return [np.array([[0, -0.4], [0.5, -1], [1, -0.5], [0.6, 0.3], [0, 1], [-0.6, 0.3], [-1, -0.5], [-0.5, -1]]) * size]
