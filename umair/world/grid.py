"""A grid of pictures, every content in every style: on it can be counted what a vector finds and what it ignores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from umair.world.config import WorldConfig
from umair.world.factors import draw_illustrations
from umair.world.pictures import picture
from umair.world.style import STYLE, Pixels

STYLES_STREAM, PICTURES_STREAM = 21, 22  # of the seed


class GridPicture(NamedTuple):
    """One picture and its place in the grid."""

    style: int
    content: int
    pixels: Pixels


def draw_grid(styles: int, contents: int, size: int, seed: int) -> Iterator[GridPicture]:
    """`styles` x `contents` pictures whose longer side is `size` pixels; each row is a style, drawn standard normal.

    Contents are drawn as a world's are: subjects, counts, layout, scene, motif. Pictures of one content differ in where
    exactly its parts stand, pictures of one style in their grain: no two are painted from the same random numbers.
    """
    look = np.random.default_rng([seed, STYLES_STREAM]).standard_normal((styles, len(STYLE))).astype(np.float32)
    drawn = draw_illustrations(WorldConfig(seed=seed + 1_000_000, illustrations=max(1_000, contents), users=20, views=400))
    for style in range(styles):
        for content in range(contents):
            seeds = (seed, PICTURES_STREAM, style, content)
            yield GridPicture(style, content, picture(drawn.content_of(content), look[style], size, seeds))
