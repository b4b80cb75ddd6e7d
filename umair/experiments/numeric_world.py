"""A world of numbers: no pictures, no texts; vectors straight from the factors, so that rankers can be compared in minutes.

Users weigh an illustration's style, content and popularity differently; a view becomes a bookmark with a known probability.
The vectors that rankers see are fixed random maps of the factors in the paper's widths. What comes out is what a week of the
pipeline leaves to its ranker: a pack of features and labelled windows, in which every row knows its own past alone.

    features/KEY/ (packing.pack)   window_train/ window_valid/ window_test/ (schema.WINDOW)   truth.npz   facts.json

N rows, I illustrations, U users, T tags.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from umair.config import Section, fingerprint
from umair.evidence import code_digest
from umair.schema import SPLITS, WINDOW, window_table
from umair.storage import read_facts, write_folder
from umair.training.inputs import TrainingInputs
from umair.training.packing import LAYOUT, FeatureSource, fit_axes
from umair.training.reader import count_rows
from umair.windows.history import BOOKMARK, ROW, VIEW, Lengths, let_pass

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
WIDTHS = {"semantic": 1024, "style": 256, "text": 512}  # the paper's, but for the pooled Gram matrices
STYLE, CONTENT = 8, 12  # factors
TAGS = 4  # of an illustration
GAIN, OFFSET = 2.2, 1.0  # log odds of a bookmark: GAIN standard deviations of utility, less OFFSET
APPETITE = (1.0, 1.0, 0.6)  # Dirichlet: how users divide their attention between style, content and popularity
FIRST_MOMENT = 1_767_571_200_000_000  # microseconds since 1970: 2026-01-05, the Monday of 2026-W01
SPAN = 70 * 86_400_000_000  # microseconds from the first row to the last
FILES = 8  # of each split


class NumericWorldConfig(Section):
    """Sizes of a numeric world. The same values give the same bytes."""

    seed: int = Field(0, ge=0)  # of everything drawn
    users: int = Field(2_000, ge=10)
    illustrations: int = Field(5_000, ge=100)
    artists: int = Field(300, ge=2)
    tags: int = Field(60, ge=TAGS)  # in all; each illustration has four
    rows: int = Field(500_000, ge=1_000)  # views, each with its label
    train_share: float = Field(0.75, gt=0, lt=1)  # of the time
    test_from: float = Field(0.8, gt=0, lt=1)  # what lies between is the validation window
    history: int = Field(50, gt=0)  # illustrations in `bookmarked` and in `passed`
    interest: int = Field(4, gt=0)  # tags of an interest

    @model_validator(mode="after")
    def _validation_has_its_time(self) -> NumericWorldConfig:
        if not self.train_share < self.test_from:
            raise ValueError(f"train_share {self.train_share} and test_from {self.test_from}; the validation window lies "
                             "between: train_share is the smaller")
        return self


@dataclass(frozen=True)
class Factors:
    """What the world is made of; only references and evaluation may look."""

    style_IF: Floats
    content_IF: Floats
    popularity_I: Floats  # logarithm of a Zipf number
    style_taste_UF: Floats
    content_taste_UF: Floats
    weight_U3: Floats  # of style, content, popularity; rows sum to one

    def utility(self, user_N: Ints, item_N: Ints) -> Floats:
        """Standardised over the rows that are asked for."""
        matches = ((self.style_taste_UF[user_N] * self.style_IF[item_N]).sum(1),
                   (self.content_taste_UF[user_N] * self.content_IF[item_N]).sum(1), self.popularity_I[item_N])
        terms = [self.weight_U3[user_N, place] * _standard(match) for place, match in enumerate(matches)]
        utility: Floats = _standard(np.sum(terms, axis=0))
        return utility


def draw_numeric_world(config: NumericWorldConfig, folder: Path) -> dict[str, Any]:
    """Draws the world into `folder`, unless it is there already, and returns its facts. It appears whole or not at all."""
    if (folder / "facts.json").is_file() and read_facts(folder)["fingerprint"] == _key(config):
        return read_facts(folder)
    return write_folder(folder, lambda new: _draw(config, new))


def _key(config: NumericWorldConfig) -> str:
    """Stands for the world: its configuration, the code that makes it, and the layout of a pack and of a window."""
    code = code_digest("experiments/numeric_world.py", "windows/history.py", "windows/interests.py", "training/packing.py",
                       "model/compact.py")
    return fingerprint([config, LAYOUT, WINDOW.columns, code])


def numeric_inputs(folder: Path, splits: tuple[str, ...] = SPLITS) -> TrainingInputs:
    """What a ranker trains on in the world that lies in `folder`; the files of `splits` alone are opened."""
    files = {split: count_rows(map(str, sorted((folder / window_table(split)).glob("*.parquet")))) for split in splits}
    return TrainingInputs(_source(read_facts(folder)["fingerprint"]), files, {})


def _draw(config: NumericWorldConfig, folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng([config.seed, 5])
    artist_I = rng.integers(0, config.artists, config.illustrations)
    factors, tags_IT, concept_FT = _factors(config, artist_I, rng)
    user_N = rng.integers(0, config.users, config.rows)
    when_N = np.sort(rng.random(config.rows))
    there_N = np.searchsorted(np.sort(rng.random(config.illustrations)), when_N, side="right").clip(50)
    item_N = (rng.random(config.rows) * there_N).astype(np.int64)  # uniform over what is published
    probability_N = 1 / (1 + np.exp(OFFSET - GAIN * factors.utility(user_N, item_N)))
    label_N = (rng.random(config.rows) < probability_N).astype(np.int64)
    write_folder(folder / "features" / _source(_key(config)).key,
                 lambda new: _pack(config, new, artist_I, factors, tags_IT, concept_FT, rng))
    window = _window(config, user_N, item_N, when_N, label_N, tags_IT)
    order_N = rng.permutation(config.rows)  # files are shuffled as those of build_windows are
    split_N = np.select([when_N < config.train_share, when_N >= config.test_from], [0, 2], 1)
    counts = {}
    for place, split in enumerate(SPLITS):
        row_S = order_N[split_N[order_N] == place]
        _write_windows(folder / window_table(split), window.take(pa.array(row_S)))
        counts[split] = len(row_S)
    test_S = order_N[split_N[order_N] == SPLITS.index("test")]
    np.savez_compressed(folder / "truth.npz", probability=probability_N[test_S], **vars(factors))
    return {"fingerprint": _key(config), "rows": counts, "bookmark_share": round(float(label_N.mean()), 4)}


def _factors(config: NumericWorldConfig, artist_I: Ints, rng: np.random.Generator) -> tuple[Factors, Ints, Floats]:
    items, users = config.illustrations, config.users
    style_IF = rng.normal(size=(config.artists, STYLE))[artist_I] + 0.4 * rng.normal(size=(items, STYLE))
    content_IF = rng.normal(size=(items, CONTENT))
    concept_FT = rng.normal(size=(CONTENT, config.tags))
    likely_IT = content_IF @ concept_FT + 2 * rng.gumbel(size=(items, config.tags))
    factors = Factors(style_IF, content_IF, np.log(rng.zipf(1.6, items).clip(1, 500)), rng.normal(size=(users, STYLE)),
                      rng.normal(size=(users, CONTENT)), rng.dirichlet(APPETITE, users))
    return factors, np.argsort(-likely_IT, axis=1)[:, :TAGS], concept_FT


def _standard(values: Any) -> Any:
    return (values - values.mean()) / values.std()


# ---------------------------------------------------------------- the pack
def _source(key: str) -> FeatureSource:
    return FeatureSource({}, {}, f"numeric {key}", f"numeric {key}", WIDTHS, titles=False)


def _pack(config: NumericWorldConfig, folder: Path, artist_I: Ints, factors: Factors, tags_IT: Ints, concept_FT: Floats,
          rng: np.random.Generator) -> dict[str, Any]:
    """Fills `folder` as packing.pack does, and returns its facts."""
    tag_text_TD = _random_map(concept_FT.T, WIDTHS["text"], rng)
    vectors = {"semantic": _random_map(factors.content_IF, WIDTHS["semantic"], rng),
               "style": _random_map(factors.style_IF, WIDTHS["style"], rng), "text": tag_text_TD[tags_IT].mean(1)}
    items, zero_I, user_U = len(artist_I), np.zeros(len(artist_I), np.int32), np.arange(config.users)
    static_IF = np.stack([zero_I, zero_I, zero_I, zero_I, zero_I, np.arange(items), artist_I], 1)  # packing.STATIC_FIELDS
    scales = {f"{name}_scale": np.stack([of_ID.astype(np.float32).mean(0), of_ID.astype(np.float32).std(0)])
              for name, of_ID in vectors.items()}
    known_I = np.ones(items, bool)
    axes = {f"{name}_axes": fit_axes(of_ID, known_I, scales[f"{name}_scale"]) for name, of_ID in vectors.items()}
    arrays = {**vectors, **scales, **axes, **{f"{name}_known": known_I for name in vectors}, "tag_text": tag_text_TD,
              "tag_text_known": np.ones(config.tags, bool), "item_fields": static_IF.astype(np.int32),
              "item_tags": tags_IT.astype(np.int32), "user_fields": np.stack([user_U, user_U], 1).astype(np.int32)}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    source = _source(_key(config))
    return {"versions": {}, "image_encoder": source.image_encoder, "text_encoder": source.text_encoder, "widths": WIDTHS,
            "known": dict.fromkeys(vectors, items), "illustrations": items, "users": config.users, "tags": config.tags}


def _random_map(factor_XF: Floats, width: int, rng: np.random.Generator) -> npt.NDArray[np.float16]:
    """tanh of a random mixture with a little noise, as fp16: every factor is in the vector, none in a place of its own."""
    mixed_XD = factor_XF @ rng.normal(size=(factor_XF.shape[1], width)) / np.sqrt(factor_XF.shape[1])
    vector_XD: npt.NDArray[np.float16] = np.tanh(mixed_XD + 0.05 * rng.normal(size=mixed_XD.shape)).astype(np.float16)
    return vector_XD


# ---------------------------------------------------------------- the windows
def _window(config: NumericWorldConfig, user_N: Ints, item_N: Ints, when_N: Floats, label_N: Ints, tags_IT: Ints
            ) -> pa.Table:
    """One row a view in order of time, with everything that it may know (schema.WINDOW)."""
    at_N = FIRST_MOMENT + (when_N * (SPAN - 2 * config.rows)).astype(np.int64) + 2 * np.arange(config.rows)  # none twice
    views_N, bookmarks_N = _counts_before(item_N, label_N)
    marked = np.flatnonzero(label_N)
    source = np.concatenate([np.arange(config.rows)] * 2 + [marked])
    what = np.repeat([ROW, VIEW, BOOKMARK], [config.rows, config.rows, len(marked)])
    moment = at_N[source] + (what == BOOKMARK)  # a bookmark follows its view at once
    order = np.lexsort((what != ROW, moment, user_N[source]))
    source, what, moment = source[order], what[order], moment[order]
    line = pa.RecordBatch.from_pydict({
        "user_index": user_N[source].astype(np.int32), "illust_index": item_N[source].astype(np.int32), "at_us": moment,
        "what": what, "tag_indices": pa.FixedSizeListArray.from_arrays(pa.array(tags_IT[item_N[source]].ravel()), TAGS).cast(
            pa.list_(pa.int64())), "label": label_N[source].astype(np.int32), "place": source,
        "illust_views": views_N[source].astype(np.int32), "illust_bookmarks": bookmarks_N[source].astype(np.int32)})
    lengths = Lengths(config.history, config.interest, 20, 7 * 86_400_000_000)
    kept = ["user_index", "illust_index", "at_us", "label", "place", "illust_views", "illust_bookmarks"]
    rows = pa.Table.from_batches(list(let_pass([line], lengths, kept))).sort_by("place")
    timed = rows.append_column("at", rows.column("at_us").cast(pa.timestamp("us", "UTC")))
    return timed.select(list(WINDOW.column_names))


def _counts_before(item_N: Ints, label_N: Ints) -> tuple[Ints, Ints]:
    """Views and bookmarks of each row's illustration in earlier rows; rows are in order of time."""
    order_N = np.argsort(item_N, kind="stable")
    item_S, label_S = item_N[order_N], label_N[order_N]
    first_S = np.searchsorted(item_S, item_S)  # where each row's illustration begins
    marked_S = np.cumsum(label_S) - label_S
    views_N, bookmarks_N = np.empty_like(item_N), np.empty_like(item_N)
    views_N[order_N] = np.arange(len(item_S)) - first_S
    bookmarks_N[order_N] = marked_S - marked_S[first_S]
    return views_N, bookmarks_N


def _write_windows(folder: Path, rows: pa.Table) -> None:
    folder.mkdir()
    bounds = np.linspace(0, len(rows), FILES + 1).astype(int)
    for number, (first, last) in enumerate(itertools.pairwise(bounds)):
        pq.write_table(rows.slice(first, last - first), folder / f"part-{number}.parquet", compression="zstd")
