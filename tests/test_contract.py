"""Raw files of every format, values that cannot be read, rules, duplicates and the limit on bad rows."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import functions as F

from umair.errors import ConfigError, ContractError
from umair.schema import RAW_CATALOGUE, RAW_EVENTS, RAW_TERMS, RAW_USERS, REJECTS
from umair.tables.contract import Tally, check_tally, judge, kept_rows, mark_duplicates, reject_rows, tally
from umair.tables.raw import find_raw, read_raw
from umair.tables.tags import normalise

END = datetime(2026, 3, 9, tzinfo=timezone.utc)
NOON = datetime(2026, 1, 2, 12, tzinfo=timezone.utc)


def schema_of(spark, table):
    return spark.createDataFrame([], table.columns).schema


def judged(spark, folder: Path, table, time=None):
    frames = read_raw(spark, find_raw(folder, table.name), table)
    return judge(frames, table, schema_of(spark, table), time, END)


def write_lines(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def rejects(frame, table) -> set[tuple[str, str, str]]:
    return {(row.key, row.rule, row.value) for row in reject_rows(frame, table).collect()}


def utc(moment: datetime) -> datetime:
    return moment.astimezone(timezone.utc).replace(tzinfo=None)


# ------------------------------------------------------------------------------------------------ values
MOMENTS = {  # as given -> in UTC, or None where it cannot be read
    "2026-01-02T12:00:00": "2026-01-02 12:00:00", "2026-01-02 12:00": "2026-01-02 12:00:00",
    "2026-01-02": "2026-01-02 00:00:00", "2026-01-02T12:00:00Z": "2026-01-02 12:00:00",
    "2026-01-02T12:00:00+09:00": "2026-01-02 03:00:00", "2026-01-02T12:00:00.25-01:30": "2026-01-02 13:30:00.25",
    "1767355200": "2026-01-02 12:00:00", "1767355200.5": "2026-01-02 12:00:00.5", " 1767355200 ": "2026-01-02 12:00:00",
    "12:00": None, "yesterday": None, "2026-02-30": None, "2026-01-02T25:00:00": None, "02/01/2026": None,
    "1767355200000": None, "2026": "1970-01-01 00:33:46",  # milliseconds, and a year alone: not plausible either
}


def test_times_as_text(spark, tmp_path):
    write_lines(tmp_path / "events.jsonl", [{"user_id": 1, "illust_id": 2, "kind": "view", "at": text} for text in MOMENTS])
    frame = judged(spark, tmp_path, RAW_EVENTS).select(F.col("at").cast("string"), "broken")
    unread = {text: row for text, row in zip(MOMENTS, frame.collect(), strict=True)}
    assert {text: row.at for text, row in unread.items()} == MOMENTS
    assert [(row.broken[0].rule, row.broken[0].value) for text, row in unread.items() if MOMENTS[text] is None] == [
        ("at_parses", text) for text, moment in MOMENTS.items() if moment is None]


NUMBERS = {"7": 7, " 7 ": 7, "7.0": 7, "-7": -7, "7e2": 700, "9223372036854775807": 2**63 - 1,
           "9223372036854775808": None, "7.5": None, "seven": None, "7 8": None, "0x7": None, "NaN": None}


def test_ids_as_text(spark, tmp_path):
    write_lines(tmp_path / "users.csv", ["user_id,username\n", *(f"{text},a\n" for text in NUMBERS)])
    frame = judged(spark, tmp_path, RAW_USERS)
    assert [row.user_id for row in frame.collect()] == list(NUMBERS.values())
    assert rejects(frame, RAW_USERS) == {
        (text, "user_id_parses", text) for text, number in NUMBERS.items() if number is None}


def test_a_value_that_is_not_there_is_unknown_and_one_that_cannot_be_read_is_not(spark, tmp_path):
    write_lines(tmp_path / "users.csv", ["user_id,username\n", ",a\n", "x,b\n"])
    assert rejects(judged(spark, tmp_path, RAW_USERS), RAW_USERS) == {
        ("null", "user_id_known", None), ("x", "user_id_parses", "x")}


def test_parquet_numbers_are_ids_when_whole_and_times_as_seconds(spark, tmp_path):
    table = pa.table({"user_id": pa.array([1.0, 1.5, float("nan")]), "illust_id": pa.array([1, 2, 3], pa.int16()),
                      "kind": ["view"] * 3, "at": pa.array([1767355200.5, 1e300, 1767355200.0])})
    pq.write_table(table, tmp_path / "events.parquet")
    frame = judged(spark, tmp_path, RAW_EVENTS)
    assert [(row.user_id, row.illust_id) for row in frame.collect()] == [(1, 1), (None, 2), (None, 3)]
    assert {(rule, value) for _, rule, value in rejects(frame, RAW_EVENTS)} == {
        ("user_id_parses", "1.5"), ("at_parses", "1.0E300"), ("user_id_known", None)}


@pytest.mark.parametrize("unit", ["ns", "ns in Tokyo", "us", "us in Tokyo", "int96", "no zone"])
def test_parquet_times_of_every_unit(spark, tmp_path, unit):
    kind = {"ns": pa.timestamp("ns", "UTC"), "ns in Tokyo": pa.timestamp("ns", "Asia/Tokyo"), "no zone": pa.timestamp("us"),
            "us in Tokyo": pa.timestamp("us", "Asia/Tokyo")}.get(unit, pa.timestamp("us", "UTC"))
    table = pa.table({"user_id": [1], "illust_id": [1], "kind": ["view"], "at": pa.array([utc(NOON)], kind)})
    pq.write_table(table, tmp_path / "events.parquet", use_deprecated_int96_timestamps=unit == "int96")
    assert judged(spark, tmp_path, RAW_EVENTS).select(F.col("at").cast("string")).first().at == "2026-01-02 12:00:00"


def test_a_parquet_column_of_a_wrong_type_is_refused(spark, tmp_path):
    pq.write_table(pa.table({"user_id": [True]}), tmp_path / "users.parquet")
    with pytest.raises(ContractError, match=r"'users', column 'user_id': found type boolean; expected bigint"):
        judged(spark, tmp_path, RAW_USERS)


# ------------------------------------------------------------------------------------------------ files
CATALOGUE = [
    {"illust_id": 1, "artist_id": 5, "title": 'He said "no",\nand went', "tags": ["猫", "a,b", 'q"q'], "image": "a/1.png",
     "created_at": "2026-01-02T12:00:00Z", "width": 600, "height": 400, "restrict": None, "x_restrict": 0, "sanity_level": 2},
    {"illust_id": 2, "artist_id": 5, "title": None, "tags": None, "image": None, "created_at": "2026-01-02T12:00:00Z",
     "width": None, "height": None, "restrict": 1, "x_restrict": None, "sanity_level": None}]


def write_catalogue(folder: Path, form: str) -> None:
    frame = pd.DataFrame(CATALOGUE).astype({name: "Int64" for name in ("width", "height", "restrict", "x_restrict", "sanity_level")})
    if form == "parquet":
        frame.assign(created_at=pd.to_datetime(frame.created_at)).to_parquet(folder / "catalogue.parquet")
    elif form == "csv":
        frame.assign(tags=[json.dumps(row["tags"]) if row["tags"] else None for row in CATALOGUE]).to_csv(
            folder / "catalogue.csv", index=False)
    else:
        for number, row in enumerate(CATALOGUE):  # a folder, a file each, what is null left out
            write_lines(folder / "catalogue" / f"{number}{form}", [{key: value for key, value in row.items() if value is not None}])


def test_every_format_gives_the_same_rows(spark, tmp_path):
    expected = [{**row, "image_content": None, "created_at": "2026-01-02 12:00:00"} for row in CATALOGUE]
    for form in ("parquet", "csv", ".jsonl", ".json"):
        (tmp_path / form).mkdir()
        write_catalogue(tmp_path / form, form)
        kept = kept_rows(judged(spark, tmp_path / form, RAW_CATALOGUE, "created_at"))
        rows = kept.withColumn("created_at", F.col("created_at").cast("string")).orderBy("illust_id").collect()
        assert [row.asDict() for row in rows] == expected, form


def test_files_of_one_table_may_differ_in_columns_and_types(spark, tmp_path):
    (tmp_path / "users").mkdir()
    pq.write_table(pa.table({"user_id": [1], "username": ["a"]}), tmp_path / "users" / "old.parquet")
    pq.write_table(pa.table({"more": [0], "user_id": ["2"]}), tmp_path / "users" / "new.parquet")
    (tmp_path / "users" / "_SUCCESS").touch()
    assert sorted((row.user_id, row.username) for row in kept_rows(judged(spark, tmp_path, RAW_USERS)).collect()) == [
        (1, "a"), (2, None)]


def test_lines_that_are_no_rows_are_set_aside(spark, tmp_path):
    write_lines(tmp_path / "users.jsonl", ['{"user_id": 1}\n', '{"user_id": 2\n', "[3]\n"])
    assert rejects(judged(spark, tmp_path, RAW_USERS), RAW_USERS) == {
        ("null", "line_parses", '{"user_id": 2'), ("null", "line_parses", "[3]")}
    write_lines(tmp_path / "events.csv", ["user_id,illust_id,kind,at\n", "1,2,view,2026-01-02,what\n"])
    assert [rule for _, rule, _ in rejects(judged(spark, tmp_path, RAW_EVENTS), RAW_EVENTS)] == ["line_parses"]


def test_pictures_as_bytes_in_text_are_base64(spark, tmp_path):
    write_lines(tmp_path / "catalogue.jsonl", [
        {"illust_id": 1, "artist_id": 1, "created_at": "2026-01-01", "image_content": "aGk="},
        {"illust_id": 2, "artist_id": 1, "created_at": "2026-01-01", "image_content": "no!"}])
    frame = judged(spark, tmp_path, RAW_CATALOGUE, "created_at")
    assert [bytes(row.image_content) for row in kept_rows(frame).collect()] == [b"hi"]
    assert rejects(frame, RAW_CATALOGUE) == {("2", "image_content_parses", "no!")}


def test_what_find_raw_refuses(tmp_path):
    with pytest.raises(ConfigError, match=r"raw.folder = .*gone: found no such folder; expected a folder with catalogue"):
        find_raw(tmp_path / "gone", "users")
    assert find_raw(tmp_path, "users") == []
    (tmp_path / "users").mkdir()
    with pytest.raises(ContractError, match="a folder without files"):
        find_raw(tmp_path, "users")
    (tmp_path / "users" / "a.xlsx").touch()
    with pytest.raises(ContractError, match=r"files of format 'a.xlsx'; expected one format out of .parquet, .jsonl"):
        find_raw(tmp_path, "users")
    (tmp_path / "users" / "a.xlsx").rename(tmp_path / "users" / "a.csv")
    (tmp_path / "users" / "b.jsonl").touch()
    with pytest.raises(ContractError, match="files of format csv, json; expected one format"):
        find_raw(tmp_path, "users")
    (tmp_path / "users.csv").touch()
    with pytest.raises(ContractError, match=r"found users and users.csv; expected one file or folder"):
        find_raw(tmp_path, "users")


def test_what_read_raw_refuses(spark, tmp_path):
    def read(name: str) -> None:
        read_raw(spark, [tmp_path / name], RAW_USERS)

    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ContractError, match=r"cut.parquet: found no whole Parquet file"):
        read("cut.parquet")
    pq.write_table(pa.table({"uid": [1]}), tmp_path / "names.parquet")
    with pytest.raises(ContractError, match=r"names.parquet: found no column user_id \(columns: uid\); expected user_id bigint"):
        read("names.parquet")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ContractError, match=r"empty.csv: found no column user_id \(columns: none\)"):
        read("empty.csv")
    (tmp_path / "twice.csv").write_text("user_id,user_id\n1,2\n")
    with pytest.raises(ContractError, match="a column twice"):
        read("twice.csv")
    (tmp_path / "latin.csv").write_bytes("user_id,n\xe4me\n".encode("latin-1"))
    with pytest.raises(ContractError, match=r"no readable header .*expected CSV in UTF-8"):
        read("latin.csv")


# ------------------------------------------------------------------------------------------------ rules
def test_every_rule_of_the_catalogue(spark, tmp_path):
    good = {"illust_id": 1, "artist_id": 1, "created_at": "2026-01-01", "width": 1, "height": 1, "image": "a/..b/1.png"}
    bad = {"illust_id_known": {"illust_id": None}, "artist_id_known": {"artist_id": None}, "created_at_known": {"created_at": None},
           "created_at_plausible": {"created_at": "2150-01-01"}, "size_positive": {"width": 0}, "size_plausible": {"height": 1000001}}
    climbing = ["../1.png", "a/../../1.png", "a/..", "/etc/passwd", "file:///etc/passwd", "s3://b/1.png"]
    write_lines(tmp_path / "catalogue.jsonl", [
        good, *({**good, "illust_id": 2, **change} for change in bad.values()), *({**good, "image": path} for path in climbing)])
    frame = judged(spark, tmp_path, RAW_CATALOGUE, "created_at")
    assert kept_rows(frame).count() == 1
    assert sorted((rule, value) for _, rule, value in rejects(frame, RAW_CATALOGUE) if rule == "image_below_root") == [
        ("image_below_root", path) for path in sorted(climbing)]
    assert {(rule, value) for _, rule, value in rejects(frame, RAW_CATALOGUE) if rule != "image_below_root"} == {
        ("illust_id_known", None), ("artist_id_known", None), ("created_at_known", None),
        ("created_at_plausible", "2150-01-01 00:00:00"), ("size_positive", "width=0, height=1"),
        ("size_plausible", "width=1, height=1000001")}
    assert set(bad) | {"image_below_root"} == set(RAW_CATALOGUE.rules), "a rule without a bad row"


def test_a_row_that_breaks_two_rules_is_listed_twice_and_counted_once(spark, tmp_path):
    write_lines(tmp_path / "events.jsonl", [
        {"user_id": 1, "illust_id": 2, "kind": "view", "at": "2026-01-01"},
        {"user_id": None, "illust_id": 2, "kind": "like", "at": "2026-01-01"},
        {"user_id": 1, "illust_id": 2, "kind": "view", "at": END.isoformat()},
        {"user_id": 1, "illust_id": 2, "kind": "like", "at": "2026-03-10"},  # what is not there is not judged
        {"user_id": 1, "illust_id": 2, "kind": "view", "at": "2101-01-01"}])  # ... unless it never will be
    frame = judged(spark, tmp_path, RAW_EVENTS, "at")
    counted = tally(frame, RAW_EVENTS)
    assert (counted.rows, counted.kept, counted.set_aside, counted.not_yet) == (5, 1, 2, 2)
    assert counted.by_rule == {"at_plausible": 1, "kind_known": 1, "user_id_known": 1}
    assert counted.first["kind_known"] == "key null/2/like/2026-01-01 00:00:00, value like"
    assert reject_rows(frame, RAW_EVENTS).count() == 3
    assert tuple(reject_rows(frame, RAW_EVENTS).columns) == REJECTS.column_names


def test_of_duplicates_the_latest_stays_whatever_the_order_of_rows(spark, tmp_path):
    rows = [{"illust_id": 1, "artist_id": 1, "title": title, "created_at": f"2026-01-0{day}"}
            for title, day in [("old", 1), ("new", 3), ("middle", 2), ("also new", 3)]]
    rows += [{"illust_id": 1, "artist_id": None, "created_at": "2026-02-01"},  # broken: takes no part
             {"illust_id": 1, "artist_id": 1, "title": "future", "created_at": "2026-04-01"}]  # neither does what is not there
    stay = []
    for name, order in [("forth", rows), ("back", rows[::-1])]:
        write_lines(tmp_path / name / "catalogue.jsonl", order)
        frame = judged(spark, tmp_path / name, RAW_CATALOGUE, "created_at")
        marked = mark_duplicates(frame, RAW_CATALOGUE, "duplicate_key", [F.col("created_at").desc()])
        counted = tally(marked, RAW_CATALOGUE)
        assert (counted.kept, counted.not_yet, counted.by_rule) == (1, 1, {"artist_id_known": 1, "duplicate_key": 3})
        stay += [row.title for row in kept_rows(marked).collect()]
    assert stay[0] == stay[1]
    assert stay[0] in ("new", "also new")


# ------------------------------------------------------------------------------------------------ the limit
def counts(rows=100, set_aside=0, not_yet=0, table="events", **by_rule) -> Tally:
    return Tally(table, rows, rows - set_aside - not_yet, set_aside, not_yet, by_rule, {rule: "key 7, value x" for rule in by_rule})


def test_the_limit_is_a_share_of_the_rows_that_are_there():
    check_tally(counts(rows=100, not_yet=60, set_aside=2, kind_known=2), RAW_EVENTS, limit=0.05)  # 2 of 40 are 5 %
    with pytest.raises(ContractError) as raised:
        check_tally(counts(rows=100, not_yet=60, set_aside=3, kind_known=2, unknown_user=1), RAW_EVENTS, limit=0.05)
    assert str(raised.value) == (
        "raw table 'events': found 3 of 40 rows that break the contract (most often kind_known: 2; first: key 7, value x); "
        "expected at most 5.0% (raw.max_reject_share). What to do: correct the export, or raise raw.max_reject_share "
        "if such rows are to be left out")


def test_a_term_of_blanks_alone_is_none(spark, tmp_path):
    """As a text it would be the partner of all that it stands beside, and make one thing of them."""
    texts = ["cat", " ", "\u3000", "\u00a0\t", "\u200b", "\ufeff", "猫", "🐈"]
    pq.write_table(pa.table({"lang_a": ["en"] * 8, "text_a": texts, "lang_b": ["ja"] * 8, "text_b": ["x"] * 8, "kind": ["tag"] * 8}),
                   tmp_path / "terms.parquet")
    frame = judged(spark, tmp_path, RAW_TERMS)
    assert {row.text_a for row in kept_rows(frame).collect()} == {"cat", "猫", "🐈"}


def test_free_rules_do_not_count():
    terms = counts(table="terms", set_aside=90, duplicate_key=90)
    check_tally(terms, RAW_TERMS, 0.05, free=("duplicate_key",))
    with pytest.raises(ContractError, match="90 of 100 rows"):
        check_tally(terms, RAW_TERMS, 0.05)


@pytest.mark.parametrize(("counted", "text"), [
    (counts(rows=0), "found 0 rows; expected at least one row"),
    (counts(rows=5, not_yet=5), "found 5 rows, none before the week's end"),
    (counts(rows=5, set_aside=5, at_known=5), "found no row with a 'at'; expected columns user_id bigint"),
])
def test_a_table_that_cannot_be_used(counted, text):
    with pytest.raises(ContractError, match=text):
        check_tally(counted, RAW_EVENTS, limit=1.0)


# ------------------------------------------------------------------------------------------------ tags
def test_tags_in_one_spelling():
    assert normalise([" ネコ", "ﾈｺ", "ＣＡＴ", "", None, "  ", "cat", "CAT"]) == ["ネコ", "CAT", "cat"]


@given(st.lists(st.text(max_size=6) | st.none(), max_size=6))
def test_tags_do_not_change_a_second_time(tags):
    once = normalise(tags)
    assert normalise(once) == once
    assert all(once)
    assert len(set(once)) == len(once)


def test_a_quote_that_is_never_closed_is_refused_where_lines_may_belong_together(spark, tmp_path):
    lines = [f'{key},7,"title {key}, a ""b""",,,2026-01-01' for key in range(200)]
    head = "illust_id,artist_id,title,tags,image,created_at"
    (tmp_path / "catalogue.csv").write_text("\n".join([head, *lines, '200,7,"two\nlines",,,2026-01-01']), encoding="utf-8")
    assert read_raw(spark, find_raw(tmp_path, "catalogue"), RAW_CATALOGUE)[0].count() == 201
    lines[100] = '100,7,"title 100,,,2026-01-01'
    (tmp_path / "catalogue.csv").write_text("\n".join([head, *lines]), encoding="utf-8")
    with pytest.raises(ContractError, match=r"catalogue\.csv: found 1195 quotation marks, an odd number"):
        read_raw(spark, find_raw(tmp_path, "catalogue"), RAW_CATALOGUE)


def test_a_stray_quote_in_the_events_costs_its_own_line(spark, tmp_path):
    lines = [f"{key},7,view,2026-01-01" for key in range(200)]
    lines[100] = '100,"7,view,2026-01-01'
    (tmp_path / "events.csv").write_text("\n".join(["user_id,illust_id,kind,at", *lines]), encoding="utf-8")
    rows = read_raw(spark, find_raw(tmp_path, "events"), RAW_EVENTS)[0]
    assert rows.count() == 200
    assert rows.filter("at IS NULL").count() == 1


@pytest.mark.parametrize("name", ["12:30.csv", "[1].csv", "a*.csv"])
def test_a_file_whose_name_spark_would_read_as_something_else_is_refused(tmp_path, name):
    (tmp_path / "users").mkdir()
    (tmp_path / "users" / name).write_text("user_id,username\n1,ann\n", encoding="utf-8")
    with pytest.raises(ContractError, match=r"a file named .*rename the file"):
        find_raw(tmp_path, "users")


def test_columns_that_differ_in_case_alone_are_refused(spark, tmp_path):
    (tmp_path / "users.csv").write_text("user_id,User_ID\n1,2\n", encoding="utf-8")
    with pytest.raises(ContractError, match="a column twice in user_id, User_ID"):
        read_raw(spark, find_raw(tmp_path, "users"), RAW_USERS)
    pq.write_table(pa.table({"user_id": [1], "User_ID": [2]}), tmp_path / "users.parquet")
    (tmp_path / "users.csv").unlink()
    with pytest.raises(ContractError, match="a column twice in user_id, User_ID"):
        read_raw(spark, find_raw(tmp_path, "users"), RAW_USERS)
