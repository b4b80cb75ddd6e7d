"""Judges raw rows: every row is kept, set aside with the rules that it breaks, or not yet there.

A judged frame has the columns of its raw table, then `key` (text, of broken rows only), `broken`
(array<struct<rule, value>>, empty for a row that is kept) and `not_yet` (its time is at or after the week's end).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from functools import reduce
from typing import TYPE_CHECKING

from pyspark.sql import Column, Window
from pyspark.sql import functions as F

from umair.errors import ContractError
from umair.schema import REJECTS, Table
from umair.tables.raw import LINE
from umair.tables.values import parsed, was_given

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType

MARKS = ("key", "broken", "not_yet")
KEPT = "NOT not_yet AND size(broken) = 0"
VALUE_CHARACTERS = 200  # of an offending value that a reject row shows


def judge(frames: list[DataFrame], table: Table, schema: StructType, time: str | None, end: datetime) -> DataFrame:
    """The rows of `frames` typed as `schema` and judged by the rules of `table`.

    A value that was given and cannot be read breaks `<column>_parses`, and then not also `<column>_known`. A row whose
    column `time` is at or after `end` is not yet there, unless that time breaks `<time>_plausible`.
    Raises ContractError: a Parquet column of a type that cannot be read as the wanted one.
    """
    typed = reduce(lambda one, other: one.unionByName(other), [_typed(frame, table, schema) for frame in frames])
    not_yet = F.lit(False)
    if time:
        plausible = F.expr(table.rules[f"{time}_plausible"])
        not_yet = F.coalesce((F.col(time) >= F.lit(end)) & plausible, F.lit(False))
    broken = F.expr(f"concat(unread, {_list_of(_rule_breaks(table))})")
    judged = typed.select(*schema.names, "key", broken.alias("broken"), not_yet.alias("not_yet"))
    return _with_keys(judged, table)


def mark_duplicates(judged: DataFrame, table: Table, rule: str, best_first: list[Column]) -> DataFrame:
    """Adds `rule` to every row but one of those that share the table's key; the first by `best_first` stays.

    Rows that are equal in `best_first` are ordered by a hash of all columns, so that the choice never depends on the
    order of files. Costs one shuffle of the table.
    """
    values = [name for name in judged.columns if name not in MARKS]
    eligible = F.expr(KEPT)
    copies = Window.partitionBy(*table.key, eligible).orderBy(*best_first, F.xxhash64(*values))
    mark = F.array(F.struct(F.lit(rule).alias("rule"), F.concat(F.lit("copy "), F.col("_copy")).alias("value")))
    marked = judged.withColumn("_copy", F.row_number().over(copies)).withColumn(
        "broken", F.when(eligible & (F.col("_copy") > 1), mark).otherwise(F.col("broken")))
    return _with_keys(marked.drop("_copy"), table)


def add_breaks(judged: DataFrame, table: Table, rules: dict[str, tuple[str, str]]) -> DataFrame:
    """Judges the rows that are kept so far by further rules: name -> (SQL that a row keeps, SQL of the value to show)."""
    breaks = [_Break(name, f"NOT coalesce({keeps}, false)", value) for name, (keeps, value) in rules.items()]
    marked = judged.withColumn("broken", F.when(F.expr(KEPT), F.expr(_list_of(breaks))).otherwise(F.col("broken")))
    return _with_keys(marked, table)


def kept_rows(judged: DataFrame) -> DataFrame:
    """The rows that break no rule and are there, without the marks."""
    return judged.where(KEPT).drop(*MARKS)


def reject_rows(judged: DataFrame, table: Table) -> DataFrame:
    """One row of schema.REJECTS for each rule that a row breaks."""
    listed = judged.where("NOT not_yet").select("key", F.explode("broken").alias("broken"))
    return listed.select(F.lit(table.name).alias("table"), "key", "broken.rule", "broken.value",
                         F.lit(None).cast("string").alias("state")).select(*REJECTS.column_names)


@dataclass(frozen=True)
class Tally:
    """How many rows of a raw table had which fate: `rows` = `kept` + `set_aside` + `not_yet`."""

    table: str
    rows: int
    kept: int
    set_aside: int
    not_yet: int
    by_rule: dict[str, int]  # reject rows; a row that breaks two rules counts in both
    first: dict[str, str] = field(repr=False)  # rule -> an example

    def as_facts(self) -> dict[str, object]:
        """The counts as JSON-like values, for a commit's facts."""
        return {"rows": self.rows, "kept": self.kept, "set_aside": self.set_aside, "not_yet": self.not_yet,
                "by_rule": self.by_rule}


def tally(judged: DataFrame, table: Table) -> Tally:
    """Counts a judged frame in one pass."""
    no_breaks = F.expr("CASE WHEN not_yet THEN slice(broken, 1, 0) ELSE broken END")
    listed = judged.select("not_yet", "key", F.posexplode_outer(no_breaks).alias("position", "broken"))
    groups = listed.groupBy("not_yet", "broken.rule").agg(
        F.count(F.lit(1)).alias("listed"), F.expr("count_if(coalesce(position, 0) = 0)").alias("rows"),
        F.min(F.struct("key", "broken.value")).alias("first")).collect()
    broken = sorted((group for group in groups if group.rule is not None), key=lambda group: str(group.rule))
    set_aside, not_yet = sum(group.rows for group in broken), sum(group.rows for group in groups if group.not_yet)
    rows = sum(group.rows for group in groups)
    return Tally(table.name, rows, rows - set_aside - not_yet, set_aside, not_yet,
                 {group.rule: group.listed for group in broken},
                 {group.rule: f"key {group.first.key}, value {group.first.value}" for group in broken})


def check_tally(counted: Tally, table: Table, limit: float, free: tuple[str, ...] = ()) -> None:
    """Raises ContractError when a table holds too little or too much of it breaks the contract.

    `limit` is the largest share of the rows that are there; rules in `free` do not count towards it.
    """
    where, there = f"raw table '{table.name}'", counted.rows - counted.not_yet
    if counted.rows == 0:
        raise ContractError(where, "0 rows", "at least one row", "export the table again; is the folder the right one?")
    if there == 0:
        raise ContractError(where, f"{counted.rows:,} rows, none before the week's end", "rows before the week's end",
                            "choose a later --week")
    _require_given(counted, table, there)
    bad = counted.set_aside - sum(counted.by_rule.get(rule, 0) for rule in free)
    if bad > limit * there:
        worst = max((rule for rule in counted.by_rule if rule not in free), key=lambda rule: counted.by_rule[rule])
        raise ContractError(
            where, f"{bad:,} of {there:,} rows that break the contract (most often {worst}: {counted.by_rule[worst]:,}; "
            f"first: {counted.first[worst]})", f"at most {limit:.1%} (raw.max_reject_share)",
            "correct the export, or raise raw.max_reject_share if such rows are to be left out")


def _require_given(counted: Tally, table: Table, there: int) -> None:
    for rule, broken in counted.by_rule.items():
        if rule.endswith("_known") and broken == there:
            column = rule.removesuffix("_known")
            raise ContractError(f"raw table '{table.name}'", f"no row with a '{column}'", f"columns {table.columns}",
                                f"check that the export has a column called '{column}'")


@dataclass(frozen=True)
class _Break:
    rule: str
    broken: str  # SQL: does the row break it?
    value: str  # SQL of the value to show

    @property
    def item(self) -> str:
        shown = f"left(cast({self.value} AS string), {VALUE_CHARACTERS})"
        return f"CASE WHEN {self.broken} THEN named_struct('rule', '{self.rule}', 'value', {shown}) END"


def _list_of(breaks: list[_Break]) -> str:
    """SQL for the breaks of a row. Most rows have none: they must not pay for building a list."""
    any_broken = " OR ".join(f"({one.broken})" for one in breaks)
    items = ", ".join(one.item for one in breaks)
    return (f"CASE WHEN {any_broken} THEN filter(array({items}), item -> item IS NOT NULL) "
            "ELSE cast(array() AS array<struct<rule: string, value: string>>) END")


def _typed(frame: DataFrame, table: Table, schema: StructType) -> DataFrame:
    """Typed columns, `unread` (what was given and could not be read), and `key` as given where that is not empty."""
    unread, typed = [_Break("line_parses", f"`{LINE}` IS NOT NULL", f"`{LINE}`")], []
    for wanted in schema.fields:
        sql = "NULL"
        if wanted.name in frame.columns:
            given = frame.schema[wanted.name].dataType
            read, present = parsed(wanted.name, given, wanted.dataType), was_given(wanted.name, given, wanted.dataType)
            if read is None:
                raise ContractError(f"raw table '{table.name}', column '{wanted.name}'", f"type {given.simpleString()}",
                                    wanted.dataType.simpleString(), "export the column with the expected type")
            sql = f"CASE WHEN {present} THEN {read} END"
            unread.append(_Break(f"{wanted.name}_parses", f"{present} AND ({read}) IS NULL", f"`{wanted.name}`"))
        typed.append(F.expr(sql).cast(wanted.dataType).alias(wanted.name))
    unread_list = _list_of(unread)
    key = F.when(F.expr(" OR ".join(f"({one.broken})" for one in unread)),
                 _key_text([name if name in frame.columns else None for name in table.key]))
    return frame.select(*typed, key.alias("key"), F.expr(unread_list).alias("unread"))


def _with_keys(judged: DataFrame, table: Table) -> DataFrame:
    """Fills `key` where a row breaks a rule; a key as it was given stays."""
    return judged.withColumn("key", F.when(F.size("broken") > 0, F.coalesce("key", _key_text(list(table.key)))))


def _key_text(names: list[str | None]) -> Column:
    """A key as text: its parts joined by '/', null written out."""
    missing = F.lit("null")
    return F.concat_ws("/", *(F.coalesce(F.col(name).cast("string"), missing) if name else missing for name in names))


def _rule_breaks(table: Table) -> list[_Break]:
    breaks = []
    for name, keeps in table.rules.items():
        broken = f"NOT coalesce({keeps}, false) AND NOT array_contains(unread.rule, 'line_parses')"
        if name.endswith("_known"):
            broken += f" AND NOT array_contains(unread.rule, '{name.removesuffix('_known')}_parses')"
        breaks.append(_Break(name, broken, _offending_value(table, keeps)))
    return breaks


def _offending_value(table: Table, rule_sql: str) -> str:
    """SQL for the columns that a rule speaks of: a single value, or `a=1, b=2`."""
    names = [name for name in table.column_names if re.search(rf"\b{name}\b", rule_sql)]
    if len(names) == 1:
        return f"`{names[0]}`"
    return "concat_ws(', ', " + ", ".join(f"concat('{name}=', cast(`{name}` AS string))" for name in names) + ")"
