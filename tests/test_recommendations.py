"""What is recommended is what scoring every pair row by row and sorting would say; nothing else is."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_site import ILLUSTRATIONS, MAIN, RIVAL, USERS, Site, make_site, save

from umair import recommendations
from umair.errors import ConfigError, ContractError
from umair.recommendations import ITEM_COLUMNS, USER_COLUMNS, Meeting, RecommendPlan, among, recommend, recommend_batches
from umair.training.checkpoint import load_ranker
from umair.training.lookup import COLUMNS, Lookup

SEEN = {0: [1, 2, 3], 1: [], 2: list(range(ILLUSTRATIONS - 4)), 3: list(range(ILLUSTRATIONS))}  # of other users [user]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Site:
    made = make_site(tmp_path_factory.mktemp("site"))
    return replace(made, plan=replace(made.plan, rankers={"main": made.plan.rankers["main"]}))


@pytest.fixture(scope="module")
def known(site) -> pd.DataFrame:
    """One row a user, with what was seen; illustration 7 is no candidate."""
    rows = pd.concat([pq.read_table(file, columns=list(COLUMNS)).to_pandas() for file in site.test_files])
    users = rows.drop_duplicates("user_index")[list(USER_COLUMNS)].sort_values("user_index", ignore_index=True)
    return users.assign(seen=[SEEN.get(user, [user]) for user in users["user_index"]])


@pytest.fixture(scope="module")
def users(spark, known):
    lists = "long_tags array<int>, long_weights array<float>, short_tags array<int>, short_weights array<float>"
    schema = f"user_index int, {lists}, user_views int, user_bookmarks int, bookmarked array<int>, passed array<int>, seen array<int>"
    rows = [{name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in row.items()}
            for row in known.to_dict("records")]
    return spark.createDataFrame(rows, schema).repartition(3)


@pytest.fixture(scope="module")
def candidates(spark):
    rows = [(illust, 3 * illust % 11, illust % 4) for illust in range(ILLUSTRATIONS) if illust != 7]
    return spark.createDataFrame(rows[::-1], "illust_index int, illust_views int, illust_bookmarks int")


def row_by_row(site: Site, known: pd.DataFrame, *, whatever: bool = False) -> pd.DataFrame:
    """Every pair as a window's row, scored by the ranker itself, best first."""
    of_items = pd.DataFrame({"illust_index": [illust for illust in range(ILLUSTRATIONS) if illust != 7]})
    of_items = of_items.assign(illust_views=3 * of_items["illust_index"] % 11, illust_bookmarks=of_items["illust_index"] % 4, label=0)
    pairs = known.merge(of_items, how="cross").sort_values(["user_index", "illust_index"], ignore_index=True)
    rows = {name: np.stack(pairs[name]) for name in COLUMNS}
    ranker = load_ranker(site.rankers / "main")
    with torch.inference_mode():
        logit_B = ranker(Lookup(site.plan.open_features(), ranker).batch(rows)).logit_B
    pairs["score"] = logit_B.double().sigmoid().numpy()
    if not whatever:
        pairs = pairs[[illust not in seen for illust, seen in zip(pairs["illust_index"], pairs["seen"], strict=True)]]
    pairs = pairs.sort_values(["user_index", "score"], ascending=[True, False], ignore_index=True)
    return pairs.assign(place=pairs.groupby("user_index").cumcount() + 1)[["user_index", "place", "illust_index", "score"]]


def found_by(users, candidates, plan: RecommendPlan) -> pd.DataFrame:
    found = recommend(users, candidates, plan, USERS).toPandas()
    return found.sort_values(["user_index", "place"], ignore_index=True)


def check(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found[["user_index", "place"]], expected[["user_index", "place"]], check_dtype=False)
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)
    assert (found["illust_index"].to_numpy() == expected["illust_index"].to_numpy()).mean() > 0.99  # but for ties in rounding


@pytest.mark.parametrize("whatever", [False, True])
def test_every_pair_is_scored_and_sorted_as_row_by_row(site, users, candidates, known, whatever):
    expected = row_by_row(site, known, whatever=whatever)
    check(found_by(users, candidates, RecommendPlan(site.plan, ILLUSTRATIONS, seen=whatever)), expected)
    assert expected["score"].std() > 0.05  # otherwise equality would say little


def test_candidates_may_come_in_blocks(site, known, monkeypatch):
    columns = {"illust_index": np.arange(ILLUSTRATIONS), "illust_views": np.arange(ILLUSTRATIONS), "illust_bookmarks": np.arange(40) % 4}
    columns = {name: column.astype(np.int32) for name, column in columns.items()}
    rows = {name: np.stack(known[name]) for name in USER_COLUMNS}
    ranker = load_ranker(site.rankers / "main").eval()
    lookup = Lookup(site.plan.open_features(), ranker)
    whole = Meeting(ranker, lookup, columns, rows=64).scores(rows)
    monkeypatch.setitem(recommendations.PAIRS, "cpu", 7 * recommendations.USERS)
    meeting = Meeting(ranker, lookup, columns, rows=9)
    assert (meeting.block, whole.shape) == (7, (len(known), ILLUSTRATIONS))
    torch.testing.assert_close(meeting.scores(rows), whole)


def test_the_first_places_of_a_longer_list_are_a_shorter_one(site, users, candidates, known):
    expected = row_by_row(site, known)
    found = found_by(users, candidates.repartition(5), RecommendPlan(site.plan, 6))
    check(found, expected[expected["place"] <= 6].reset_index(drop=True))
    sizes = found.groupby("user_index").size()
    assert (sizes[2], set(known["user_index"]) - set(sizes.index)) == (4, {3})  # one has seen all but four, one has seen all
    assert (sizes.drop(2) == 6).all()


def test_a_task_may_have_many_users(site, users, candidates, known):
    """As `mapInArrow` calls it: 70 users in one batch meet in groups of 32."""
    many = users.sort("user_index").toArrow().to_pandas().sample(70, replace=True, random_state=0, ignore_index=True)
    batch = pa.RecordBatch.from_pandas(many, users.toArrow().schema, preserve_index=False)
    columns = {name: np.sort(np.array([illust for illust in range(ILLUSTRATIONS) if illust != 7], np.int32)) for name in ITEM_COLUMNS}
    columns |= {"illust_views": 3 * columns["illust_index"] % 11, "illust_bookmarks": columns["illust_index"] % 4}
    found = pa.Table.from_batches(recommend_batches(iter([batch]), RecommendPlan(site.plan, 6), SimpleNamespace(value=columns), "key")).to_pandas()
    expected = row_by_row(site, known)
    for user, times in many["user_index"].value_counts().items():
        mine, own = found[found["user_index"] == user], expected[(expected["user_index"] == user) & (expected["place"] <= 6)]
        np.testing.assert_allclose(np.sort(mine["score"]), np.sort(np.repeat(own["score"], times)), atol=1e-5)


@pytest.mark.parametrize("mean", [float("nan"), float("inf")])
def test_scores_that_are_not_numbers_are_refused(site, users, candidates, tmp_path, mean):
    broken = replace(site.plan, rankers={"main": save(tmp_path / "broken", MAIN, mean=mean)})
    with pytest.raises(Exception, match=r"the ranker: found scores that are not numbers.*lower learning rate"):
        recommend(users, candidates, RecommendPlan(broken, 3), USERS).collect()


@pytest.mark.parametrize(("config", "said"), [(RIVAL, "form dcn_v2"), (MAIN.model_copy(update={"batch_mean": True}), "batch_mean")])
def test_a_ranker_without_sides_is_refused(site, users, candidates, tmp_path, config, said):
    plan = replace(site.plan, rankers={"main": save(tmp_path / "other", config)})
    with pytest.raises(Exception, match=f"the ranker: found {said}; expected form umair without batch_mean"):
        recommend(users, candidates, RecommendPlan(plan, 3), USERS).collect()


def test_a_condition_chooses_among_the_candidates(candidates):
    assert among(candidates, None) is candidates
    assert {row["illust_bookmarks"] for row in among(candidates, "illust_bookmarks = 2").collect()} == {2}
    for wrong in ("x_restrict = 0", "illust_bookmarks ="):
        with pytest.raises(ConfigError, match=r"recommend\.candidates: found '.*expected a condition on illust_index, illust_views"):
            among(candidates, wrong)


def test_no_user_is_refused(site, users, candidates):
    with pytest.raises(ContractError, match=r"users: found none with an event; expected some, in recommend\.active_days"):
        recommend(users, candidates, RecommendPlan(site.plan, 3), 0)


def test_no_candidate_is_refused_and_one_beyond_the_pack(spark, site, users, candidates):
    with pytest.raises(ContractError, match=r"candidates: found no illustration.*recommend\.candidate_days"):
        recommend(users, candidates.filter("illust_index < 0"), RecommendPlan(site.plan, 3), USERS)
    strange = spark.createDataFrame([(ILLUSTRATIONS, 0, 0)], candidates.schema)
    with pytest.raises(Exception, match=rf"column 'illust_index': found index {ILLUSTRATIONS}; expected indices from 0"):
        recommend(users, strange, RecommendPlan(site.plan, 3), USERS).collect()
