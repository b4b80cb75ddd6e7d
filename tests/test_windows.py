"""Windows: a hand-worked week, a slow reference that agrees on every column, and laws: no future, no overlap, equal files."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta, timezone
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from build_windows import build_windows as build_windows_job
from pyspark.sql import DataFrame, SparkSession
from windows_by_hand import Event, expected_windows

from umair.config import load_config
from umair.errors import ContractError
from umair.job import Config, Job, run_step
from umair.schema import EVENTS, SPLITS, WINDOW, window_table
from umair.weeks import Week
from umair.windows.build import EARLIEST, WindowsConfig, build_windows, describe_windows, require_both_classes, split_bounds
from umair.windows.files import deal, one_file_a_partition
from umair.windows.interactions import label_interactions

WEEK = Week(2026, 10)  # ends on Monday 2026-03-09 00:00 UTC
END = datetime(2026, 3, 9, tzinfo=timezone.utc)
SMALL = WindowsConfig(train_days=None, valid_days=2, test_days=3, label_days=1, history_length=4, interest_tags=3,
                      short_events=3, short_days=2, files=2, seed=5)
TAGS = {illust: [illust % 3, 3 + illust % 5, 8] for illust in range(30)}


def day(days: float) -> datetime:
    """So many days before the week's end."""
    return END - timedelta(days=days)


def random_events(seed: int, count: int = 500, users: int = 9) -> list[Event]:
    """Crowded on purpose: few illustrations and a coarse clock make repeats and ties; some lie after the week's end."""
    dice = random.Random(seed)
    return sorted({Event(dice.randrange(users), dice.randrange(len(TAGS)), dice.choice(["view", "view", "bookmark"]),
                         day(dice.randrange(-8, 100) / 8)) for _ in range(count)})


def frames(spark: SparkSession, events: list[Event], tags: dict[int, list[int]] = TAGS) -> tuple[DataFrame, DataFrame]:
    illustrations = [(illust, mine, day(200)) for illust, mine in tags.items()]
    return (spark.createDataFrame(events, EVENTS.columns),
            spark.createDataFrame(illustrations, "illust_index int, tag_indices array<int>, created_at timestamp"))


def collect(windows: dict[str, DataFrame]) -> dict[str, list[dict[str, Any]]]:
    """Rows by split, sorted by key, moments in UTC."""
    told = [frame.selectExpr("*", f"'{split}' AS split", "unix_micros(at) AS us") for split, frame in windows.items()]
    found: dict[str, list[dict[str, Any]]] = {split: [] for split in windows}
    for row in (row.asDict() for row in reduce(DataFrame.unionByName, told).collect()):
        row["at"] = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=row.pop("us"))
        found[row.pop("split")].append(row)
    return {split: by_key(rows) for split, rows in found.items()}


@pytest.fixture(scope="module")
def random_windows(spark) -> dict[str, DataFrame]:
    return build_windows(*frames(spark, random_events(1)), SMALL, WEEK)


@pytest.fixture(scope="module")
def random_rows(random_windows) -> dict[str, list[dict[str, Any]]]:
    return collect(random_windows)


def by_key(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["user_index"], row["illust_index"]))


# ------------------------------------------------------------ bounds
def test_bounds_leave_every_label_time_to_ripen_before_the_next_split():
    bounds = split_bounds(WEEK, WindowsConfig(train_days=10, valid_days=3, test_days=7, label_days=2))
    assert {split: (f"{start:%m-%d}", f"{end:%m-%d}") for split, (start, end) in bounds.items()} == {
        "test": ("02-28", "03-07"), "valid": ("02-23", "02-26"), "train": ("02-11", "02-21")}


def test_no_train_days_means_all_history():
    assert split_bounds(WEEK, SMALL)["train"] == (EARLIEST, datetime(2026, 3, 1, tzinfo=timezone.utc))


# ------------------------------------------------------------ by hand
def test_five_events_by_hand(spark):
    """A user views 1 and bookmarks it a minute later, passes over 2 and 3, and meets 4 in the test split."""
    minute = timedelta(minutes=1)
    events = [Event(0, 1, "view", day(9)), Event(0, 1, "bookmark", day(9) + minute), Event(0, 2, "view", day(6)),
              Event(0, 3, "view", day(4) + minute), Event(0, 4, "view", day(2))]
    config = SMALL.model_copy(update={"files": 1, "valid_days": 4, "test_days": 1, "short_days": 5})
    windows = build_windows(*frames(spark, events, {1: [7, 5], 2: [5], 3: [], 4: []}), config, WEEK)
    rows = collect(windows)
    assert [(row["illust_index"], row["label"]) for row in rows["train"]] == [(1, 1)]
    assert [(row["illust_index"], row["label"]) for row in rows["valid"]] == [(2, 0), (3, 0)]
    assert rows["test"] == [{
        "user_index": 0, "illust_index": 4, "label": 0, "at": day(2),
        "long_tags": [5, 7, -1], "long_weights": [0.5, 0.5, 0.0],
        "short_tags": [-1, -1, -1], "short_weights": [0.0, 0.0, 0.0],  # the bookmark is seven days old
        "user_views": 3, "user_bookmarks": 1, "illust_views": 0, "illust_bookmarks": 0,
        "bookmarked": [1, -1, -1, -1], "passed": [3, 2, -1, -1]}]
    assert rows["valid"][0]["short_tags"] == [5, 7, -1]  # three days old
    facts = describe_windows(windows)
    assert facts["train"] == {"rows": 1, "positives": 1, "users": 1, "illustrations": 1, "cold_share": 0.0}
    assert facts["valid"] == {"rows": 2, "positives": 0, "users": 1, "illustrations": 2, "cold_share": 1.0}


@pytest.mark.parametrize(("events", "moment", "label"), [
    ([("view", 0.0), ("bookmark", 0.99999)], 0.0, 1),
    ([("view", 0.0), ("bookmark", 1.0)], 0.0, 0),  # a day later is too late
    ([("view", 0.0), ("bookmark", 0.0)], 0.0, 1),
    ([("bookmark", 0.0), ("view", 0.5)], 0.0, 1),  # a bookmark that no view precedes
    ([("bookmark", 0.5)], 0.5, 1),
    ([("view", 0.2), ("view", 0.1)], 0.1, 0),
    ([("view", 0.0), ("bookmark", 2.0), ("bookmark", 0.5)], 0.0, 1)])
def test_moment_and_label(spark, events, moment, label):
    microseconds = [(0, 1, kind, round(days * 86400e6)) for kind, days in events]
    frame = spark.createDataFrame(microseconds, "user_index int, illust_index int, kind string, at_us bigint")
    (row,) = label_interactions(frame, label_days=1).collect()
    assert (row["at_us"], row["label"]) == (round(moment * 86400e6), label)


# ------------------------------------------------------------ equivalence
def test_agrees_with_a_reference_that_looks_everything_up_afresh(random_rows):
    expected = expected_windows(random_events(1), TAGS, SMALL, WEEK)
    for split in SPLITS:
        assert len(expected[split]) > 8
        assert random_rows[split] == by_key(expected[split])


def test_agrees_with_the_reference_on_partitions_of_another_shape(spark, random_windows):
    events, illustrations = frames(spark, random_events(1))
    seven = build_windows(events.repartition(7, "at"), illustrations.repartition(7), SMALL, WEEK)
    for split in SPLITS:
        assert seven[split].collect() == random_windows[split].collect()  # the order included


# ------------------------------------------------------------ laws
def test_a_later_event_changes_no_feature_of_an_earlier_row(spark, random_rows):
    cut = day(3)
    later = [Event(user, illust, kind, cut + timedelta(hours=user)) for user in range(9) for illust in TAGS
             for kind in ("view", "bookmark")]
    after = collect(build_windows(*frames(spark, sorted({*random_events(1), *later})), SMALL, WEEK))
    for split in SPLITS:
        unchanged = {key(row): features(row) for row in after[split]}
        earlier = [row for row in random_rows[split] if row["at"] <= cut]
        assert earlier
        assert [features(row) for row in earlier] == [unchanged[key(row)] for row in earlier]
    assert random_rows["test"] != after["test"]  # and it can fail


def features(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "label"}


def key(row: dict[str, Any]) -> tuple[int, int]:
    return row["user_index"], row["illust_index"]


def test_every_label_of_a_split_is_known_before_the_next_split_starts(random_rows):
    ripe = timedelta(days=SMALL.label_days)
    first, last = ({split: pick(row["at"] for row in rows) for split, rows in random_rows.items()} for pick in (min, max))
    assert last["train"] + ripe <= first["valid"]
    assert last["valid"] + ripe <= first["test"]
    assert last["test"] + ripe <= END


def test_no_row_lists_its_own_illustration(random_rows):
    for rows in random_rows.values():
        assert not [row for row in rows if row["illust_index"] in row["bookmarked"] + row["passed"]]


def test_columns_and_types_are_the_promise(random_windows):
    promised = [tuple(part.strip().split(" ")) for part in WINDOW.columns.split(",")]
    for frame in random_windows.values():
        assert frame.dtypes == promised


# ------------------------------------------------------------ files
@pytest.mark.parametrize("files", [1, 3, 16])
def test_files_are_exactly_as_many_as_asked_and_equal(spark, tmp_path, files):
    rows = spark.range(1000).selectExpr("int(id % 37) AS user_index", "int(id) AS illust_index",
                                        "CASE WHEN id < 333 THEN 'test' ELSE 'train' END AS split")
    dealt = deal(rows, files, seed=1)
    for split, count in (("test", 333), ("train", 667)):
        folder = tmp_path / split
        one_file_a_partition(dealt.filter(f"split = '{split}'"), files).write.parquet(str(folder))
        lengths = [pq.ParquetFile(path).metadata.num_rows for path in sorted(folder.glob("*.parquet"))]
        assert len(lengths) == files
        assert max(lengths) - min(lengths) <= 1
        assert sum(lengths) == count


def test_rows_are_in_random_order_that_the_seed_sets(spark):
    rows = spark.range(200).selectExpr("0 AS user_index", "int(id) AS illust_index", "'train' AS split")
    orders = [[row["illust_index"] for row in one_file_a_partition(deal(frame, 1, seed), 1).collect()]
              for frame, seed in ((rows, 1), (rows.repartition(5), 1), (rows, 2))]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != list(range(200))
    assert sorted(orders[0]) == sorted(orders[2]) == list(range(200))


# ------------------------------------------------------------ errors
def test_too_few_rows_name_the_split_its_dates_and_the_way_out(spark):
    events = [Event(0, illust, "view", day(9)) for illust in range(4)]
    with pytest.raises(ContractError, match=r"window_valid, 2026-03-02 to 2026-03-04: found 0 rows \(events run from "
                                            r"2026-02-28 00:00:00 to 2026-02-28 00:00:00\).*2 files.*windows.valid_days"):
        build_windows(*frames(spark, events), SMALL, WEEK)


def test_no_events_at_all_is_said(spark):
    with pytest.raises(ContractError, match=r"window_train.*found 0 rows \(there are no events\)"):
        build_windows(*frames(spark, []), SMALL, WEEK)


@pytest.mark.parametrize("positives", [0, 7])
def test_a_window_of_one_class_is_refused(positives):
    facts = {"train": {"rows": 20, "positives": 8}, "test": {"rows": 7, "positives": positives}}
    with pytest.raises(ContractError, match=rf"window_test: found 7 rows, {positives} of them bookmarks.*set windows.negatives"):
        require_both_classes(facts)
    require_both_classes({"train": facts["train"]})


def test_the_job_commits_no_window_of_one_class(spark, tmp_path):
    """Two views a split, of which the training and the test split each have one bookmarked: the validation split has none."""
    moments = {"train": day(9), "valid": day(6), "test": day(2)}
    assert all(start <= moments[split] < end for split, (start, end) in split_bounds(WEEK, SMALL).items())
    events = [Event(0, 2 * place + one, "view", at) for place, at in enumerate(moments.values()) for one in range(2)]
    events += [Event(0, 2 * place, "bookmark", at + timedelta(minutes=1)) for place, at in enumerate(moments.values()) if place != 1]
    settings = [f"windows.{name}={json.dumps(value)}" for name, value in SMALL.model_dump().items()]
    job = Job(load_config(Path(__file__).parent.parent / "conf/local.yaml", [f"root={tmp_path}", *settings], Config), WEEK)
    job.spark = spark

    def ingest_tables(job: Job) -> dict[str, Any]:
        named = zip(("events", "illustrations"), frames(spark, events), strict=True)
        return {"versions": {name: job.commit(name, frame).version for name, frame in named}}

    run_step(job, ingest_tables)
    with pytest.raises(ContractError, match=r"window_valid: found 2 rows, 0 of them bookmarks"):
        run_step(job, build_windows_job)
    assert not any(job.store.exists(window_table(split)) for split in SPLITS)
    assert job.finished("build_windows") is None
