"""A picture: subjects, scene, layout and motif as a map of tones, then painted in a style."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from umair.world.scenes import SCENES, motif
from umair.world.shapes import Part, Polygon, turning
from umair.world.style import FIRST, MOTIF_TONE, SECOND_SUBJECT, SHARPER, Pixels, StyleVector, look_of, paint
from umair.world.subjects import subjects

LAYOUTS = ("centre", "row", "column", "ring", "diagonal", "close_up")
ASPECTS = (1.0, 6 / 7, 7 / 6)  # width by height
Place = tuple[float, float, float]  # x, y of the middle and half size, in the unit square


@dataclass(frozen=True)
class Content:
    """What is on a picture; indices into words.SUBJECTS, words.SCENES, scenes.MOTIFS, LAYOUTS and ASPECTS."""

    first: int
    first_count: int
    second: int
    second_count: int  # 0 = the second subject is not there
    scene: int
    layout: int
    motif: int
    tilt: float  # degrees, of all subjects
    aspect: int


@lru_cache(maxsize=1)
def _subject_parts() -> list[list[Part]]:
    return subjects()


def picture(content: Content, style: StyleVector, size: int, seed: tuple[int, ...]) -> Pixels:
    """Paints `content` in `style` [8], [height, width, 3] sRGB, the longer side `size` pixels.

    The same content and seed give the same forms in every style, the same style and seed the same texture.
    """
    form, texture = (np.random.default_rng((*seed, stream)) for stream in (0, 1))
    aspect = ASPECTS[content.aspect]
    width, height = round(size * min(1.0, aspect)), round(size / max(1.0, aspect))
    look = look_of(style)
    canvas = Canvas(width * SHARPER, height * SHARPER, look.line * SHARPER)
    canvas.draw_content(content, form)
    return paint(canvas.tones, canvas.ink, look, texture)


class Canvas:
    """Two masks (mode L): which tone lies on top, and where its outline is."""

    def __init__(self, width: int, height: int, line: float) -> None:
        self.line = line  # pixels of a subject's outline
        self.tones, self.ink = Image.new("L", (width, height), 0), Image.new("L", (width, height), 0)
        self._tone_pen, self._ink_pen = ImageDraw.Draw(self.tones), ImageDraw.Draw(self.ink)
        self._unit = np.array([width, height], float)

    def draw_content(self, content: Content, rng: np.random.Generator) -> None:
        for role, points in SCENES[content.scene](rng):
            self._lay(role, points * self._unit, 0.4 * self.line)
        places = LAYOUT_PLACES[content.layout](content.first_count + content.second_count, rng)
        for each, place in reversed(list(enumerate(places))):
            second = each >= content.first_count
            self._draw_subject(content.second if second else content.first, SECOND_SUBJECT if second else FIRST, place,
                               content.tilt + rng.normal(0, 4), bool(rng.random() < 0.5))
        for points in motif(content.motif, rng):
            self._lay(MOTIF_TONE, points * self._unit.min() + (self._unit - self._unit.min()) / 2, 0.4 * self.line)

    def _draw_subject(self, kind: int, tone: int, place: Place, tilt: float, flip: bool) -> None:
        x, y, half_size = place
        scale, middle = half_size * self._unit.min(), np.array([x, y]) * self._unit
        matrix = turning(tilt) * ([[-1.0], [1.0]] if flip else 1.0) * scale
        for role, points in _subject_parts()[kind]:
            self._lay(tone + role, points @ matrix + middle, self.line * min(1.0, 0.5 + 2 * half_size))

    def _lay(self, tone: int, points: Polygon, line: float) -> None:
        corners = points.ravel().tolist()
        self._tone_pen.polygon(corners, fill=tone)
        self._ink_pen.polygon(corners, fill=0)  # what lies below is covered, its outline too
        if line >= 0.5:
            self._ink_pen.line([*corners, *corners[:4]], fill=255, width=max(1, round(line)), joint="curve")


def _centre(count: int, rng: np.random.Generator) -> list[Place]:
    spots = [(0.5, 0.5, 0.37), (0.17, 0.82, 0.17), (0.83, 0.82, 0.17), (0.15, 0.2, 0.15), (0.85, 0.2, 0.15),
             (0.5, 0.9, 0.13)]
    return [(x + rng.normal(0, 0.015), y + rng.normal(0, 0.015), half) for x, y, half in spots[:count]]


def _row(count: int, rng: np.random.Generator) -> list[Place]:
    half, y = min(0.32, 0.57 / count), rng.uniform(0.62, 0.74)
    return [((each + 0.5) / count, y + rng.normal(0, 0.01), half) for each in range(count)]


def _column(count: int, rng: np.random.Generator) -> list[Place]:
    half, x = min(0.3, 0.6 / count), rng.choice([0.27, 0.73])
    return [(x + rng.normal(0, 0.01), (each + 0.5) / count, half) for each in range(count)]


def _ring(count: int, rng: np.random.Generator) -> list[Place]:
    start, half = rng.uniform(0, 2 * np.pi), (0.3, 0.27, 0.25, 0.22, 0.2, 0.18)[count - 1]
    angles = start + 2 * np.pi * np.arange(count) / count
    return [(0.5 + 0.31 * np.cos(angle), 0.5 + 0.31 * np.sin(angle), half) for angle in angles]


def _diagonal(count: int, rng: np.random.Generator) -> list[Place]:
    half, down = min(0.3, 0.7 / (count + 0.3)), rng.random() < 0.5
    along = [(each + 0.5) / count for each in range(count)]
    return [(0.12 + 0.76 * share, 0.14 + 0.72 * (share if down else 1 - share), half) for share in along]


def _close_up(count: int, rng: np.random.Generator) -> list[Place]:
    left = rng.random() < 0.5
    spots = [(0.36, 0.6, 0.52), (0.86, 0.2, 0.14), (0.86, 0.52, 0.13), (0.86, 0.84, 0.14), (0.58, 0.12, 0.11),
             (0.2, 0.12, 0.11)]
    return [(x if left else 1 - x, y, half) for x, y, half in spots[:count]]


LAYOUT_PLACES: tuple[Callable[[int, np.random.Generator], list[Place]], ...] = (
    _centre, _row, _column, _ring, _diagonal, _close_up)  # in the order of LAYOUTS
