"""The numeric world: rows that know their own past alone, a truth that fits the labels, vectors that hold the factors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from umair.experiments.data import Rows
from umair.experiments.numeric_world import Factors, NumericWorldConfig, draw_numeric_world, numeric_inputs
from umair.metrics import auc
from umair.schema import SPLITS, WINDOW, window_table
from umair.storage import read_facts
from umair.training.features import Features

CONFIG = NumericWorldConfig(users=60, illustrations=300, artists=30, rows=12_000, history=8)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numeric") / "world"
    draw_numeric_world(CONFIG, folder)
    return folder


@pytest.fixture(scope="module")
def rows(world: Path) -> pd.DataFrame:
    """All rows of all splits in order of time."""
    parts = [pq.read_table(world / window_table(split)).to_pandas().assign(split=split) for split in SPLITS]
    return pd.concat(parts).sort_values("at", ignore_index=True)


def test_rows_have_the_columns_of_a_window_and_splits_follow_in_time(world, rows):
    assert pq.read_schema(next((world / "window_train").glob("*.parquet"))).names == list(WINDOW.column_names)
    assert rows["at"].is_unique
    ends = rows.groupby("split")["at"].agg(["min", "max"])
    assert ends.loc["train", "max"] < ends.loc["valid", "min"] < ends.loc["valid", "max"] < ends.loc["test", "min"]
    assert rows["split"].value_counts().to_dict() == read_facts(world)["rows"]


@pytest.mark.parametrize("place", [0, 500, 5_000, 11_999])
def test_a_row_knows_what_came_before_it_and_nothing_else(rows, place):
    row, before = rows.iloc[place], rows.iloc[:place]
    same_item, own = before[before.illust_index == row.illust_index], before[before.user_index == row.user_index]
    assert (row.illust_views, row.illust_bookmarks) == (len(same_item), same_item.label.sum())
    assert (row.user_views, row.user_bookmarks) == (len(own), own.label.sum())
    liked = own[own.label == 1].illust_index
    newest_first = list(dict.fromkeys(liked[::-1]))[:CONFIG.history]
    assert [one for one in row.bookmarked if one >= 0] == newest_first
    passed = dict.fromkeys(own[~own.illust_index.isin(set(liked))].illust_index[::-1])
    assert [one for one in row.passed if one >= 0] == list(passed)[:CONFIG.history]


def test_the_truth_stands_beside_the_test_rows_and_fits_their_labels(world):
    test = Rows.of(numeric_inputs(world).rows_by_file["test"], "test")
    with np.load(world / "truth.npz") as truth:
        probability_N = truth["probability"]
        factors = Factors(**{name: truth[name] for name in Factors.__dataclass_fields__})
    assert auc(test.label_N, probability_N) > 0.85
    assert auc(test.label_N, np.roll(probability_N, 1)) < 0.55  # a shift by one row would not fit
    error = abs(probability_N.mean() - test.label_N.mean())
    assert error < 4 * np.sqrt((probability_N * (1 - probability_N)).sum()) / len(probability_N)
    assert np.corrcoef(factors.utility(test.user_N, test.item_N), np.log(probability_N / (1 - probability_N)))[0, 1] > 0.99


def test_vectors_hold_their_factors_and_not_the_others(world):
    inputs = numeric_inputs(world)
    features = Features.open(world / "features" / inputs.source.key)
    with np.load(world / "truth.npz") as truth:
        factors = {"style": truth["style_IF"], "semantic": truth["content_IF"]}

    def explained(vector_ID: np.ndarray, factor_IF: np.ndarray) -> float:
        """Share of the variance of held-out illustrations' factors that a ridge regression on the vectors explains."""
        vector_ID = np.asarray(vector_ID, np.float64) - np.asarray(vector_ID, np.float64)[:200].mean(0)
        gram = vector_ID[:200] @ vector_ID[:200].T + 10 * np.eye(200)
        said = vector_ID[200:] @ vector_ID[:200].T @ np.linalg.solve(gram, factor_IF[:200] - factor_IF[:200].mean(0))
        left = factor_IF[200:] - factor_IF[:200].mean(0) - said
        return float(1 - (left**2).sum() / ((factor_IF[200:] - factor_IF[:200].mean(0)) ** 2).sum())

    assert explained(features.vectors["style"], factors["style"]) > 0.9
    assert explained(features.vectors["semantic"], factors["semantic"]) > 0.8
    assert explained(features.vectors["style"], factors["semantic"]) < 0.05


def test_the_same_configuration_gives_the_same_world_and_is_drawn_once(world, tmp_path):
    facts = draw_numeric_world(CONFIG, tmp_path / "again")
    assert facts == read_facts(world)
    for path in sorted(world.rglob("*.parquet")):
        assert (tmp_path / "again" / path.relative_to(world)).read_bytes() == path.read_bytes()
    before = (world / "facts.json").stat().st_mtime_ns
    draw_numeric_world(CONFIG, world)
    assert (world / "facts.json").stat().st_mtime_ns == before
    draw_numeric_world(CONFIG.model_copy(update={"seed": 1}), tmp_path / "again")  # over the other
    first = "window_test/part-0.parquet"
    assert (tmp_path / "again" / first).read_bytes() != (world / first).read_bytes()
