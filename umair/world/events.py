"""Who sees what and when, with which probability a view becomes a bookmark, and which did. All vectorised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from umair.world.config import WorldConfig
from umair.world.factors import NONE, TERMS, Floats, Illustrations, Ints
from umair.world.users import FAVOURITES, Users

CHUNK = 1 << 19  # views at a time: keeps memory flat
ROUNDS = 12  # of drawing again for views that would repeat an earlier one
DELAY_MEDIAN, DELAY_SPREAD = 600.0, 1.5  # seconds and log-normal sigma from a view to its bookmark
SHORTEST_DELAY, LONGEST_DELAY = 5, 24 * 3600 - 60  # seconds


@dataclass(frozen=True)
class Views:
    """V views in order of time; a user views an illustration at most once."""

    user: Ints  # [V] index into Users
    illust: Ints  # [V] index into Illustrations
    at: Ints  # [V] seconds since 1970

    def __len__(self) -> int:
        return len(self.at)


@dataclass(frozen=True)
class Truth:
    """What the world knows of each view."""

    probability: Floats  # [V] that the view becomes a bookmark
    bookmarked: NDArray[np.bool_]  # [V] whether it did
    bookmarked_at: Ints  # [V] seconds since 1970, less than a day after the view; 0 where not bookmarked


def draw_views(config: WorldConfig, illustrations: Illustrations, users: Users) -> Views:
    """Each user's quota of views, as far as distinct illustrations can be found for it."""
    rng = np.random.default_rng([config.seed, 3])
    exposure = _Exposure(config, illustrations, users)
    key, at = np.zeros(0, np.int64), np.zeros(0, np.int64)
    open_quota = users.quota
    for _ in range(ROUNDS):
        user = np.repeat(np.arange(len(users)), open_quota)
        moment = _moments(users.joined[user], config.end, rng)
        illust = exposure.choose(user, moment, rng)
        key, first = np.unique(np.concatenate([key, user * len(illustrations) + illust]), return_index=True)
        at = np.concatenate([at, moment])[first]
        open_quota = users.quota - np.bincount(key // len(illustrations), minlength=len(users))
        if not open_quota.any():
            break
    order = np.lexsort((key, at))
    return Views(key[order] // len(illustrations), key[order] % len(illustrations), at[order])


def _moments(joined: Ints, end: int, rng: np.random.Generator) -> Ints:
    return joined + (rng.random(len(joined)) * (end - joined)).astype(np.int64)


class _Exposure:
    """What is shown: the catalogue or its newest part by popularity, or the page of an artist whom the user follows."""

    def __init__(self, config: WorldConfig, illustrations: Illustrations, users: Users) -> None:
        self.config, self.created, self.favourites = config, illustrations.created, users.favourites
        self.mass = np.concatenate([[0.0], np.cumsum(np.exp(config.exposure * illustrations.popularity))])  # [N + 1]
        self.by_artist = np.lexsort((illustrations.created, illustrations.artist))  # [N]
        self.page_key = self._page_key(illustrations.artist[self.by_artist], self.created[self.by_artist])

    def _page_key(self, artist: Ints, moment: Ints) -> Ints:
        return artist * (1 << 40) + moment

    def choose(self, user: Ints, at: Ints, rng: np.random.Generator) -> Ints:
        """An illustration for each view [V], created before `at`."""
        way = rng.random(len(user))
        published = np.searchsorted(self.created, at)
        fresh = np.searchsorted(self.created, at - int(self.config.fresh_days * 86_400))
        oldest = np.where((way < self.config.fresh_share) & (fresh < published), fresh, 0)
        low, high = self.mass[oldest], self.mass[published]
        spot = np.searchsorted(self.mass, low + rng.random(len(user)) * (high - low), side="right") - 1
        chosen = np.clip(spot, oldest, published - 1)
        followed = self._on_a_page(user, at, rng)
        return np.where((way > 1 - self.config.follow_share) & (followed != NONE), followed, chosen)

    def _on_a_page(self, user: Ints, at: Ints, rng: np.random.Generator) -> Ints:
        """Any illustration of a favourite artist [V], -1 where that artist has published nothing yet."""
        artist = self.favourites[user, rng.integers(0, FAVOURITES, len(user))]
        start = np.searchsorted(self.page_key, self._page_key(artist, np.zeros_like(at)))
        there = np.searchsorted(self.page_key, self._page_key(artist, at)) - start
        spot = start + (rng.random(len(user)) * there).astype(np.int64)
        return np.where(there > 0, self.by_artist[np.minimum(spot, len(self.by_artist) - 1)], NONE)


def draw_truth(config: WorldConfig, illustrations: Illustrations, users: Users, views: Views) -> Truth:
    """probability = sigmoid(bias of the user + gain * standardised utility); labels and delays drawn from it."""
    rng = np.random.default_rng([config.seed, 4])
    utility = _standard(np.sum(_weighted_terms(illustrations, users, views), axis=0))
    probability = 1 / (1 + np.exp(-(users.bias[views.user] + config.gain * utility)))
    bookmarked = rng.random(len(views)) < probability
    delay = np.exp(rng.normal(np.log(DELAY_MEDIAN), DELAY_SPREAD, len(views))).clip(SHORTEST_DELAY, LONGEST_DELAY)
    return Truth(probability, bookmarked, np.where(bookmarked, views.at + delay.astype(np.int64), 0))


def _weighted_terms(illustrations: Illustrations, users: Users, views: Views) -> list[Floats]:
    """Each term of TERMS, standardised over all views, times its user's weight: 5 times [V]."""
    parts = [_terms(illustrations, users, views.user[start:start + CHUNK], views.illust[start:start + CHUNK])
             for start in range(0, len(views), CHUNK)]
    terms = np.concatenate(parts)
    return [users.weight[views.user, each] * _standard(terms[:, each]) for each in range(len(TERMS))]


def _terms(illustrations: Illustrations, users: Users, user: Ints, illust: Ints) -> Floats:
    """[V, 5] by TERMS: how well each illustration fits its viewer in style, content, tags, artist; how popular it is."""
    concepts = illustrations.concepts[illust]
    named = concepts != NONE
    tags = np.where(named, users.tag_taste[user[:, None], concepts], 0).sum(1) / np.maximum(1, named.sum(1))
    followed = (users.favourites[user] == illustrations.artist[illust][:, None]).any(1)
    return np.stack([np.einsum("vs,vs->v", users.style_taste[user], illustrations.style[illust]),
                     np.einsum("vc,vc->v", users.content_taste[user], illustrations.content[illust]),
                     tags, followed, illustrations.popularity[illust]], 1)


def _standard(values: Floats) -> Floats:
    spread = float(values.std())
    result: Floats = (values - values.mean()) / (spread if spread > 0 else 1.0)
    return result
