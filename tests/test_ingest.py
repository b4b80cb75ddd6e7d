"""A small site by hand: what ingest keeps, sets aside and leaves for later, and how its indices last."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from umair.errors import ConfigError, ContractError, StorageError
from umair.storage import Step, Store
from umair.tables import indices
from umair.tables.ingest import Ingested, RawConfig, ingest
from umair.tidy import tidy
from umair.weeks import Week

W10, W11 = Week.parse("2026-W10"), Week.parse("2026-W11")  # W10 ends with 8 March, W11 with 15 March

CATALOGUE = [
    {"illust_id": 30, "artist_id": 9, "title": "c", "tags": ["猫", "Ｃａｔ ", "cat", "猫"], "image": "30.png", "created_at": "2026-01-05"},
    {"illust_id": 10, "artist_id": 8, "title": "older copy", "tags": ["dog"], "created_at": "2026-01-04"},
    {"illust_id": 10, "artist_id": 8, "title": "b", "tags": ["cat", ""], "image": "10.png", "created_at": "2026-01-05"},
    {"illust_id": 20, "artist_id": 9, "title": "a", "tags": None, "image": None, "created_at": "2026-01-01"},
    {"illust_id": 50, "artist_id": 8, "image": "../../etc/passwd", "created_at": "2026-01-01"},
    {"illust_id": 60, "artist_id": None, "width": 0, "created_at": "2026-01-01"},
    {"illust_id": 40, "artist_id": 7, "title": "d", "tags": ["bird", "cat"], "created_at": "2026-03-09T00:00:00Z"},
]
USERS = "user_id,username\n200,ann\n100,bob\n200,ann\nx,eve\n"
EVENTS = """user_id,illust_id,kind,at
100,20,view,2026-01-02T00:00:00
100,20,bookmark,2026-01-02T00:00:01
100,20,view,2026-01-02T00:00:00Z
200,10,view,1767700000
200,30,bookmark,2026-03-08 23:59:59.999
200,30,view,2026-03-09 00:00:00
200,40,view,2026-03-10
100,30,view,2026-01-04 23:59:59
300,10,view,2026-01-06
100,50,view,2026-01-06
300,99,view,2026-01-06
100,10,like,2026-01-06
100,10,view,last week
"""
TERMS = "lang_a,text_a,lang_b,text_b,kind\nen,cat,ja,猫,tag\nen,cat,ja,猫,tag\nen,,ja,犬,tag\n"


class Site(NamedTuple):
    raw: Path
    config: RawConfig
    store: Store


def write_raw(raw: Path, catalogue: list[dict[str, Any]] = CATALOGUE, users=USERS, events=EVENTS, terms: str | None = TERMS) -> None:
    shutil.rmtree(raw, ignore_errors=True)
    (raw / "catalogue").mkdir(parents=True)
    for number, rows in enumerate((catalogue[:3], catalogue[3:])):
        lines = "\n".join(json.dumps(row) for row in rows)
        (raw / "catalogue" / f"part-{number}.jsonl").write_text(lines, encoding="utf-8")
    for name, text in (("users", users), ("events", events), ("terms", terms)):
        if text is not None:
            (raw / f"{name}.csv").write_text(text, encoding="utf-8")


def make_site(folder: Path) -> Site:
    write_raw(folder / "raw")
    (folder / "images").mkdir()
    config = RawConfig(folder=str(folder / "raw"), image_root=str(folder / "images"), max_reject_share=0.9)
    return Site(folder / "raw", config, Store(folder / "root"))


def commit(ingested: Ingested, store: Store, *names: str, week: Week = W10) -> None:
    for name in names or ingested.frames:
        folder = store.staging(name)
        ingested.frames[name].write.parquet(str(folder))
        store.commit(name, folder, {**ingested.facts[name], "week": str(week)})


def rows_of(store: Store, name: str) -> list[dict[str, Any]]:
    rows = [row for file in store.snapshot(name).files for row in pq.read_table(file).to_pylist()]
    return sorted(rows, key=repr)


def column(store: Store, name: str, key: str, value: str) -> dict[Any, Any]:
    return {row[key]: row[value] for row in rows_of(store, name)}


@pytest.fixture(scope="module")
def first(spark, tmp_path_factory):
    """The site after week 10, with what was ingested."""
    site = make_site(tmp_path_factory.mktemp("a site"))
    ingested = ingest(spark, site.config, W10, site.store)
    with ingested.cache:
        commit(ingested, site.store)
    return site, ingested


def test_illustrations_by_hand(first):
    (_, _, store), _ = first
    rows = {row["illust_id"]: row for row in rows_of(store, "illustrations")}
    shown = {key: [row[name] for name in ("illust_index", "artist_index", "title", "tags", "tag_indices", "image")]
             for key, row in rows.items()}
    assert shown == {20: [0, 0, "a", [], [], None],  # the oldest
                     10: [1, 1, "b", ["cat"], [1], "10.png"],  # as old as 30, smaller id; the later of two copies
                     30: [2, 0, "c", ["猫", "Cat", "cat"], [2, 0, 1], "30.png"]}
    assert column(store, "tags", "tag", "tag_index") == {"Cat": 0, "cat": 1, "猫": 2}
    assert column(store, "tags", "tag", "uses") == {"Cat": 1, "cat": 2, "猫": 1}
    assert column(store, "users", "user_id", "user_index") == {100: 0, 200: 1}
    assert store.snapshot("illustrations").facts["next_illust_index"] == 3
    assert store.snapshot("illustrations").facts["next_artist_index"] == 2


def test_events_by_hand(first):
    (_, _, store), _ = first
    rows = sorted((row["user_index"], row["illust_index"], row["kind"], str(row["at"])[:19]) for row in rows_of(store, "events"))
    assert rows == [(0, 0, "bookmark", "2026-01-02 00:00:01"), (0, 0, "view", "2026-01-02 00:00:00"),
                    (1, 1, "view", "2026-01-06 11:46:40"), (1, 2, "bookmark", "2026-03-08 23:59:59")]
    assert [row["text_b"] for row in rows_of(store, "terms")] == ["猫"]


def test_rejects_by_hand(first):
    (_, _, store), _ = first
    found = {(row["table"], row["key"], row["rule"], row["value"]) for row in rows_of(store, "ingest_rejects")}
    assert found == {
        ("catalogue", "10", "duplicate_key", "copy 2"), ("catalogue", "50", "image_below_root", "../../etc/passwd"),
        ("catalogue", "60", "artist_id_known", None), ("catalogue", "60", "size_positive", "width=0"),
        ("users", "200", "duplicate_key", "copy 2"), ("users", "x", "user_id_parses", "x"),
        ("events", "100/20/view/2026-01-02 00:00:00", "duplicate_event", "copy 2"),
        ("events", "100/30/view/2026-01-04 23:59:59", "event_before_creation", "2026-01-04 23:59:59"),
        ("events", "300/10/view/2026-01-06 00:00:00", "unknown_user", "300"),
        ("events", "100/50/view/2026-01-06 00:00:00", "unknown_illustration", "50"),
        ("events", "300/99/view/2026-01-06 00:00:00", "unknown_user", "300"),
        ("events", "300/99/view/2026-01-06 00:00:00", "unknown_illustration", "99"),
        ("events", "100/10/like/2026-01-06 00:00:00", "kind_known", "like"),
        ("events", "100/10/view/last week", "at_parses", "last week"),
        ("terms", "en/cat/ja/猫/tag", "duplicate_key", "copy 2"), ("terms", "en/null/ja/犬/tag", "text_a_known", None)}


def test_every_raw_row_has_one_fate(first):
    (_, _, store), ingested = first
    fates = {name: (one.rows, one.kept, one.set_aside, one.not_yet) for name, one in ingested.tallies.items()}
    assert fates == {"catalogue": (7, 3, 3, 1), "users": (4, 2, 2, 0), "events": (13, 4, 7, 2), "terms": (3, 1, 2, 0)}
    for raw, trusted in (("catalogue", "illustrations"), ("users", "users"), ("events", "events"), ("terms", "terms")):
        assert store.snapshot(trusted).rows == ingested.tallies[raw].kept
    assert store.snapshot("ingest_rejects").facts["raw"]["events"]["by_rule"]["unknown_user"] == 2


def test_the_same_week_again_is_the_same(spark, first):
    (_, config, store), ingested = first
    before = {name: rows_of(store, name) for name in ingested.frames}
    again = ingest(spark, config, W10, store)
    with again.cache:
        commit(again, store)
    assert {name: rows_of(store, name) for name in again.frames} == before
    assert store.snapshot("illustrations").version == 1
    assert store.snapshot("illustrations").facts == store.snapshot("illustrations", 0).facts


def test_the_next_week_keeps_indices_even_when_killed_between_two_commits(spark, first, tmp_path):
    (_, config, store), _ = first
    raw, (whole, killed) = tmp_path / "raw", (Store(shutil.copytree(store.root, tmp_path / name)) for name in ("one", "two"))
    catalogue = [row for row in CATALOGUE if row["illust_id"] != 30]  # withdrawn, and its tags with it
    catalogue += [{"illust_id": 5, "artist_id": 6, "tags": ["ant", "cat"], "created_at": "2026-01-03"}]  # handed over late
    write_raw(raw, catalogue, users=USERS + "50,cy\n", terms=None)
    config = config.model_copy(update={"folder": str(raw)})
    ingested = ingest(spark, config, W11, whole)
    with ingested.cache:
        commit(ingested, killed, "illustrations", "users")  # and then it died
        commit(ingested, whole)
    again = ingest(spark, config, W11, killed)
    with again.cache:
        commit(again, killed)
    assert {name: rows_of(killed, name) for name in again.frames} == {name: rows_of(whole, name) for name in again.frames}
    assert column(killed, "illustrations", "illust_id", "illust_index") == {20: 0, 10: 1, 5: 3, 40: 4}  # 2 was 30's
    assert column(killed, "illustrations", "artist_id", "artist_index") == {9: 0, 8: 1, 6: 2, 7: 3}
    assert column(killed, "tags", "tag", "tag_index") == {"cat": 1, "ant": 3, "bird": 4}  # 0 and 2 were Cat's and 猫's
    assert column(killed, "users", "user_id", "user_index") == {100: 0, 200: 1, 50: 2}
    assert killed.snapshot("illustrations").facts["next_illust_index"] == 5
    assert killed.snapshot("terms").rows == 0


def test_too_many_bad_rows_commit_nothing(spark, first):
    (_, config, store), ingested = first
    before = {name: store.snapshot(name) for name in ingested.frames}
    strict = config.model_copy(update={"max_reject_share": 0.55})  # catalogue and users pass with a half each
    with pytest.raises(ContractError, match=r"raw table 'events': found 7 of 11 rows .* \(most often unknown_illustration: 2; "
                                            r"first: key 100/50/view/2026-01-06 00:00:00, value 50\); expected at most 55.0%"):
        ingest(spark, strict, W10, store)
    assert {name: store.snapshot(name) for name in ingested.frames} == before
    assert not spark.sparkContext._jsc.sc().getPersistentRDDs().size(), "a failed run left something in Spark's cache"


def test_what_is_missing_is_said_before_anything_runs(spark, tmp_path):
    raw, config, store = make_site(tmp_path)
    with pytest.raises(ConfigError, match=r"raw.image_root = gone: found no such folder"):
        ingest(spark, config.model_copy(update={"image_root": "gone"}), W10, store)
    with pytest.raises(ConfigError, match=r"raw.folder = gone: found no such folder"):
        ingest(spark, config.model_copy(update={"folder": "gone"}), W10, store)
    (raw / "events.csv").unlink()
    with pytest.raises(ContractError, match=r"raw table 'events' in .*: found nothing of that name; expected events.parquet, .jsonl"):
        ingest(spark, config, W10, store)
    assert not store.root.exists()


@pytest.mark.parametrize(("week", "found"), [(W10, "users': found 0 rows"), (Week(2025, 1), "catalogue': found 7 rows, none before")])
def test_an_empty_table(spark, tmp_path, week, found):
    raw, config, store = make_site(tmp_path)
    (raw / "users.csv").write_text("user_id,username\n")
    for row in CATALOGUE:
        assert row["created_at"] > "2025-01-06"
    with pytest.raises(ContractError, match=found):
        ingest(spark, config, week, store)
    assert not store.root.exists()


@pytest.mark.parametrize("rows_per_bucket", [7, 40, 1000])
def test_numbers_follow_the_order_however_the_rows_are_cut(spark, rows_per_bucket):
    pairs = [(f"{(number * number) % 23:02}", number) for number in range(100)]  # 12 first keys for 100 rows
    frame = spark.createDataFrame(pairs, "word string, number int").repartition(3)
    numbered, free = indices.number(frame, ["word", "number"], "place", first=5, rows_per_bucket=rows_per_bucket)
    placed = {row.place: (row.word, row.number) for row in numbered.collect()}
    assert placed == dict(enumerate(sorted(pairs), start=5))
    assert free == 105


def test_an_earlier_week_again_leaves_the_numbers_of_later_ones(spark, first, tmp_path):
    """W10, W11 with one more illustration, W10 again, W11 again: 40 keeps its index, though W10 does not know it."""
    (_, config, store), _ = first
    again, seen = Store(shutil.copytree(store.root, tmp_path / "root")), []
    for week in (W11, W10, W11):
        ingested = ingest(spark, config, week, again)
        with ingested.cache:
            commit(ingested, again, week=week)
        seen.append(column(again, "illustrations", "illust_id", "illust_index"))
    assert seen[0] == seen[2] != seen[1]
    assert seen[1].items() < seen[0].items()


@pytest.mark.parametrize("weeks", [[W11], [W11, W10, W11]])
def test_a_week_after_a_tidying_keeps_all_indices(spark, first, tmp_path, weeks):
    """Versions that only old weeks need are gone from the disk; the numbers that they gave stay."""
    (_, config, store), _ = first
    tidied = Store(shutil.copytree(store.root, tmp_path / "root"))
    for week in weeks:
        ingested = ingest(spark, config, week, tidied)
        with ingested.cache:
            commit(ingested, tidied, week=week)
        versions = {name: tidied.snapshot(name).version for name in ingested.frames}
        tidied.record(Step("ingest_tables", str(week), "key", 1.0, {"versions": versions}, 1.0))
    before = column(tidied, "illustrations", "illust_id", "illust_index")
    assert tidy(tidied, 1, tmp_path / "packs", delete=True)["files"]
    with pytest.raises(StorageError, match="version 0, of which files were tidied away"):
        tidied.snapshot("illustrations", 0)
    ingested = ingest(spark, config, W11.plus(1), tidied)
    with ingested.cache:
        commit(ingested, tidied, week=W11.plus(1))
    assert column(tidied, "illustrations", "illust_id", "illust_index") == before


def test_a_column_that_lost_all_its_values_is_refused(spark, first, tmp_path):
    """Renamed or left out, it would be unknown for every illustration: all pictures withdrawn, no tags."""
    (_, config, store), _ = first
    raw, again = tmp_path / "raw", Store(shutil.copytree(store.root, tmp_path / "root"))
    before = {name: again.snapshot(name) for name in again.tables()}
    bare = [{"img" if name == "image" else name: value for name, value in row.items() if name != "tags"} for row in CATALOGUE]
    write_raw(raw, bare)
    config = config.model_copy(update={"folder": str(raw)})
    with pytest.raises(ContractError, match=r"raw table 'catalogue': found no value in column tags, image; expected some, as when "
                                            r"the table was taken in before.*raw.lost_columns=accept; nothing was committed"):
        ingest(spark, config, W11, again)
    assert {name: again.snapshot(name) for name in again.tables()} == before
    assert not spark.sparkContext._jsc.sc().getPersistentRDDs().size()
    ingested = ingest(spark, config.model_copy(update={"lost_columns": "accept"}), W11, again)
    with ingested.cache:
        commit(ingested, again, week=W11)
    ingested = ingest(spark, config, W11.plus(1), again)  # once is enough
    with ingested.cache:
        assert ingested.facts["ingest_rejects"]["given"]["users"] == ["user_id", "username"]
    write_raw(raw, bare, users="user_id\n200\n100\n")
    ingested = ingest(spark, config, W10, again)  # an earlier week may know less
    ingested.cache.close()
