"""The illustrations of a world as numbers, before anything is painted: what is on them, how, whose, when, how popular."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from umair.world.config import WorldConfig
from umair.world.pictures import ASPECTS, LAYOUTS, Content
from umair.world.scenes import MOTIFS, SCENES
from umair.world.style import STYLE
from umair.world.words import (
    CATEGORIES,
    CONCEPTS,
    FIRST_COUNT,
    FIRST_OTHER,
    FIRST_SCENE,
    INDEX,
    LANGUAGES,
    SUBJECTS,
    TITLE_FORMS,
)

TERMS = ("style", "content", "tags", "artist", "popularity")  # what a user's utility is made of
NAMED, UNNAMED = 8, 8  # width of the content vector's two halves: what tags name, and what they never do
NONE = -1
WEEK_SECONDS = 7 * 24 * 3600

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Contents:
    """What is on N illustrations: indices and degrees as in `pictures.Content`, all [N]."""

    first: Ints
    first_count: Ints
    second: Ints
    second_count: Ints
    scene: Ints
    layout: Ints
    motif: Ints
    tilt: Floats
    aspect: Ints


@dataclass(frozen=True, kw_only=True)
class Illustrations(_Contents):
    """N illustrations, oldest first."""

    illust_id: Ints  # [N] rising
    artist: Ints  # [N] 0..artists-1
    created: Ints  # [N] seconds since 1970, rising
    style: NDArray[np.float32]  # [N, 8] by style.STYLE, about standard normal
    content: Floats  # [N, 16] what tastes for content see: NAMED then UNNAMED, each axis standardised
    concepts: Ints  # [N, 6] concepts that the tags name, in the artist's order, filled with -1
    languages: Ints  # [N, 6] of each tag, by words.LANGUAGES
    forms: Ints  # [N, 6] which synonym each tag uses
    title_language: Ints  # [N]
    title_form: Ints  # [N]
    popularity: Floats  # [N] exponential: the exposure that it drives has a long tail

    def __len__(self) -> int:
        return len(self.illust_id)

    def part(self, first: int, last: int) -> Illustrations:
        """Illustrations first..last-1."""
        return Illustrations(**{field.name: getattr(self, field.name)[first:last] for field in fields(self)})

    def content_of(self, index: int) -> Content:
        values = {field.name: getattr(self, field.name)[index].item() for field in fields(Content)}
        return Content(**values)

    def tags_of(self, index: int) -> list[str]:
        """The words under the picture."""
        rows = zip(self.concepts[index], self.languages[index], self.forms[index], strict=True)
        return [CONCEPTS[concept].words(LANGUAGES[language])[form] for concept, language, form in rows if concept != NONE]

    def depicted(self, index: int) -> list[str]:
        """The names of the concepts that can be seen, whether or not a tag names them."""
        second = [SUBJECTS[self.second[index]].name] if self.second_count[index] else []
        return [SUBJECTS[self.first[index]].name, *second, CONCEPTS[FIRST_SCENE + self.scene[index]].name]


def draw_illustrations(config: WorldConfig) -> Illustrations:
    """Draws all factors. Content is drawn without a look at artist or style: the two vary independently."""
    rng = np.random.default_rng([config.seed, 1])
    count = config.illustrations
    artist = rng.choice(config.artists, count, p=rng.dirichlet(np.full(config.artists, 2.0)))
    drawn = _draw_content(count, rng)
    language = rng.choice(len(LANGUAGES), config.artists, p=(0.35, 0.4, 0.25))[artist]
    concepts = _named_concepts(drawn, config, rng)
    return Illustrations(
        illust_id=100_000_000 + np.cumsum(rng.integers(1, 10, count)), artist=artist, created=_moments(config, rng),
        style=_styles(artist, config, rng), **{field.name: getattr(drawn, field.name) for field in fields(drawn)},
        content=_content_vectors(drawn, rng), concepts=concepts,
        languages=np.where(rng.random(concepts.shape) < config.other_language,
                           rng.integers(0, len(LANGUAGES), concepts.shape), language[:, None]),
        forms=rng.choice(3, concepts.shape, p=(0.6, 0.27, 0.13)), title_language=language,
        title_form=rng.integers(0, TITLE_FORMS, count), popularity=rng.exponential(1.0, count))


def _moments(config: WorldConfig, rng: np.random.Generator) -> Ints:
    """Moments of publishing [N], rising: a back catalogue, then about equally many every week."""
    back = max(1, round(config.back_share * config.illustrations))  # the first view is of something
    before = rng.integers(config.start - config.back_weeks * WEEK_SECONDS, config.start, back)
    new = config.illustrations - back
    share = (np.arange(new) + rng.random(new)) / new
    after = config.start + (share * (config.end - config.start)).astype(np.int64)
    return np.sort(np.concatenate([before, after]))


def _styles(artist: Ints, config: WorldConfig, rng: np.random.Generator) -> NDArray[np.float32]:
    """[N, 8]: the artist's centre plus the picture's own deviation, together of variance 1."""
    centre = rng.standard_normal((config.artists, len(STYLE)))[artist]
    own = rng.standard_normal((len(artist), len(STYLE)))
    style: NDArray[np.float32] = (np.sqrt(config.artist_style) * centre + np.sqrt(1 - config.artist_style) * own
                                  ).astype(np.float32)
    return style


def _draw_content(count: int, rng: np.random.Generator) -> _Contents:
    first = rng.integers(0, len(SUBJECTS), count)
    return _Contents(
        first=first, first_count=1 + rng.choice(4, count, p=(0.45, 0.3, 0.17, 0.08)),
        second=(first + rng.integers(1, len(SUBJECTS), count)) % len(SUBJECTS),
        second_count=rng.choice(3, count, p=(0.45, 0.4, 0.15)), scene=rng.integers(0, len(SCENES), count),
        layout=rng.integers(0, len(LAYOUTS), count), motif=rng.integers(0, len(MOTIFS), count),
        tilt=rng.normal(0, 13, count).clip(-40, 40), aspect=rng.choice(len(ASPECTS), count, p=(0.5, 0.25, 0.25)))


def _content_vectors(drawn: _Contents, rng: np.random.Generator) -> Floats:
    """[N, 16]: subjects and scene through latent vectors in which a category's members are near; then what no tag names."""
    latent = _concept_latents(rng)
    there = (drawn.second_count > 0)[:, None]
    scene = latent[FIRST_SCENE + drawn.scene]
    named = latent[drawn.first] + 0.6 * there * latent[drawn.second] + 0.7 * scene
    layout = rng.standard_normal((len(LAYOUTS), 3))[drawn.layout]
    motif = rng.standard_normal((len(MOTIFS), 3))[drawn.motif]
    total = drawn.first_count + drawn.second_count
    vectors = np.concatenate([named, layout, motif, drawn.tilt[:, None], total[:, None]], 1)
    standard: Floats = (vectors - vectors.mean(0)) / vectors.std(0)
    return standard


def _concept_latents(rng: np.random.Generator) -> Floats:
    """[concepts, 8]."""
    categories = {concept.name: rng.standard_normal(NAMED) for concept in CATEGORIES}
    own = rng.standard_normal((len(CONCEPTS), NAMED))
    shared = np.array([categories.get(concept.category, np.zeros(NAMED)) for concept in CONCEPTS])
    return 0.6 * shared + 0.8 * own


def _named_concepts(drawn: _Contents, config: WorldConfig, rng: np.random.Generator) -> Ints:
    """[N, 6] concepts that the tags name: some are left out, some say nothing of the picture. -1 = no tag."""
    count = len(drawn.first)
    category = np.array([INDEX[subject.category] for subject in SUBJECTS])[drawn.first]
    total = drawn.first_count + drawn.second_count
    many = FIRST_COUNT + np.minimum(total, 3) - 1
    columns = [drawn.first, np.where(drawn.second_count > 0, drawn.second, NONE), FIRST_SCENE + drawn.scene,
               np.where(rng.random(count) < 0.35, category, NONE), np.where(rng.random(count) < 0.35, many, NONE)]
    seen = np.stack(columns, 1)
    seen = np.where(rng.random(seen.shape) < config.missing_tag, NONE, seen)
    noise = np.where(rng.random(count) < config.noise_tag, rng.integers(FIRST_OTHER, len(CONCEPTS), count), NONE)
    return np.concatenate([seen, noise[:, None]], 1)
