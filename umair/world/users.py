"""The users of a world: how much each of style, content, tags, artist and popularity weighs for them, and their tastes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from umair.world.config import FEWEST_VIEWS, WorldConfig
from umair.world.factors import NAMED, UNNAMED, Floats, Ints
from umair.world.style import STYLE
from umair.world.words import CONCEPTS

FAVOURITES = 5  # artists that a user follows
UNNAMED_MATTERS = 0.6  # how strongly users mind what no tag names, against what tags name


@dataclass(frozen=True)
class Users:
    """U users."""

    user_id: Ints  # [U] distinct, in no order
    weight: Floats  # [U, 5] by factors.TERMS, sum 1
    bias: Floats  # [U] log odds of a bookmark at average utility
    style_taste: Floats  # [U, 8] by style.STYLE
    content_taste: Floats  # [U, 16] as Illustrations.content
    tag_taste: Floats  # [U, concepts] by words.CONCEPTS
    favourites: Ints  # [U, 5] artists
    joined: Ints  # [U] seconds since 1970 of the earliest possible view
    quota: Ints  # [U] views

    def __len__(self) -> int:
        return len(self.user_id)


def draw_users(config: WorldConfig) -> Users:
    """Draws users; about a fifth join after the first moment, and few make many of the views."""
    rng = np.random.default_rng([config.seed, 2])
    count = config.users
    late = np.maximum(0, rng.uniform(-3, 0.8, count))
    return Users(
        user_id=1_000_000 + rng.permutation(3 * count)[:count], weight=rng.dirichlet(config.appetite, count),
        bias=rng.normal(config.bias, config.bias_spread, count), style_taste=rng.standard_normal((count, len(STYLE))),
        content_taste=rng.standard_normal((count, NAMED + UNNAMED)) * np.repeat([1.0, UNNAMED_MATTERS], [NAMED, UNNAMED]),
        tag_taste=_tag_tastes(count, rng),
        favourites=rng.integers(0, config.artists, (count, FAVOURITES)),
        joined=config.start + (late * (config.end - config.start)).astype(np.int64), quota=_quotas(config, rng))


def _tag_tastes(count: int, rng: np.random.Generator) -> Floats:
    """[U, concepts]: a user loves a few concepts, dislikes fewer and hardly minds the rest."""
    mind = rng.random((count, len(CONCEPTS)))
    taste: Floats = 0.4 * rng.standard_normal(mind.shape) + 2.0 * (mind < 0.12) - 1.5 * (mind > 0.92)
    return taste


def _quotas(config: WorldConfig, rng: np.random.Generator) -> Ints:
    """Views of each user [U]: long-tailed, none below FEWEST_VIEWS, none above two fifths of the catalogue."""
    most = 2 * config.illustrations // 5
    share = rng.lognormal(0, 0.9, config.users)
    quota = np.full(config.users, float(FEWEST_VIEWS))
    for _ in range(20):  # what the cap takes from some goes to the others
        open_share = share * (quota < most)
        if quota.sum() >= config.views or not open_share.any():
            break
        quota = np.minimum(most, quota + (config.views - quota.sum()) * open_share / open_share.sum())
    whole: Ints = np.floor(quota).astype(np.int64)
    return whole
