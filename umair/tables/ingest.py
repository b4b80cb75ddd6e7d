"""Raw catalogue, users, events and terms -> trusted tables and rejects, as of a week's end.

Everything is judged before anything is written. Reads the raw folder, and the indices of the last committed versions.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from pyspark.sql import functions as F

from umair import schema
from umair.config import PlainPath, Section
from umair.errors import ContractError
from umair.picture_files import require_root
from umair.schema import Table
from umair.tables.contract import (
    Tally,
    add_breaks,
    check_tally,
    judge,
    kept_rows,
    mark_duplicates,
    reject_rows,
    tally,
)
from umair.tables.raw import LINE, find_raw, read_raw
from umair.tables.tags import normalised
from umair.tables.trusted import Trusted, cached

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

    from umair.storage import Store
    from umair.weeks import Week

log = logging.getLogger("umair")

TRUSTED = (schema.ILLUSTRATIONS, schema.USERS, schema.TAGS, schema.EVENTS, schema.TERMS)
TIMES = {"catalogue": "created_at", "events": "at"}  # the column that says since when a row is there
OPTIONAL = ("terms",)
WHOLE = ("catalogue", "users")  # handed over whole each week, so that a column does not lose all its values by itself
EVENT_RULES = {  # beyond the columns: name -> (SQL that a row keeps, SQL of the value to show)
    "unknown_user": ("user_index IS NOT NULL", "user_id"),
    "unknown_illustration": ("illust_index IS NOT NULL", "illust_id"),
    "event_before_creation": ("illust_index IS NULL OR at >= created_at", "at"),
}


class RawConfig(Section):
    """Where a site's raw tables and pictures lie, and how many bad rows they may hold."""

    folder: PlainPath  # holds catalogue, users, events and perhaps terms, each a file or a folder of files
    image_root: str  # the catalogue's `image` paths begin here
    max_reject_share: float = Field(0.05, ge=0, le=1)  # of the rows of a table that are there by the week's end
    lost_columns: Literal["refuse", "accept"] = Field("refuse", exclude=True)  # a column that had values when the table was
    #                               taken in before, and has none at all now. No part of the step's key


@dataclass(frozen=True)
class Ingested:
    """Judged tables, not yet committed: frames and the facts of their commits, by name of the trusted table.

    The frames rest on Spark's cache: write them inside `with ingested.cache:`, which frees it.
    """

    frames: dict[str, DataFrame]
    facts: dict[str, dict[str, Any]]
    tallies: dict[str, Tally]  # by name of the raw table
    cache: contextlib.ExitStack


def ingest(spark: SparkSession, config: RawConfig, week: Week, store: Store) -> Ingested:
    """Judges every raw table and builds illustrations, users, tags, events, terms and ingest_rejects; commits nothing.

    The same raw data, week and earlier indices give the same tables.
    Raises ConfigError: a missing folder. ContractError: a table that is missing, empty, unreadable or too bad, or that
    lost a column.
    """
    require_root(config.image_root)
    judged = _judge_columns(spark, config.folder, week.end)
    cache = contextlib.ExitStack()
    with contextlib.ExitStack() as on_error:
        on_error.callback(cache.close)
        before = {} if config.lost_columns == "accept" else _given_before(store, week)
        intake, trusted = _Intake(judged, config.max_reject_share, cache, before), Trusted(spark, store, cache)
        catalogue, users = intake.catalogue(), trusted.users(intake.users())
        births = trusted.births(catalogue)
        events, terms, tags = intake.events(births, users), intake.terms(), trusted.tags(catalogue)
        frames = [trusted.illustrations(catalogue, births, tags), users, tags, events, terms]
        promised = {table.name: frame.to(_schema_of(spark, table)) for table, frame in zip(TRUSTED, frames, strict=True)}
        on_error.pop_all()
    promised[schema.INGEST_REJECTS] = intake.rejects()
    trusted.facts[schema.INGEST_REJECTS]["raw"] = {name: counted.as_facts() for name, counted in intake.tallies.items()}
    trusted.facts[schema.INGEST_REJECTS]["given"] = intake.given
    return Ingested(promised, {name: trusted.facts[name] for name in promised}, intake.tallies, cache)


def _judge_columns(spark: SparkSession, folder: str, end: datetime) -> dict[str, DataFrame]:
    """Every raw table judged by its columns alone. Nothing runs yet, but what is missing or of a wrong type is refused."""
    judged = {}
    for table in schema.RAW_TABLES:
        files = find_raw(Path(folder), table.name)
        if not files and table.name not in OPTIONAL:
            raise ContractError(f"raw table '{table.name}' in {folder}", "nothing of that name",
                                f"{table.name}.parquet, .jsonl, .json or .csv, or a folder {table.name}/ of such files",
                                "hand over the table, or correct raw.folder")
        frames = read_raw(spark, files, table) if files else [spark.createDataFrame([], f"{table.columns}, {LINE} string")]
        absent = [name for name in table.column_names if not any(name in frame.columns for frame in frames)]
        if absent:
            log.info("%s: no column %s; taken as unknown", table.name, ", ".join(absent))
        judged[table.name] = judge(frames, table, _schema_of(spark, table), TIMES.get(table.name), end)
    return judged


@dataclass
class _Intake:
    """Takes in one raw table after the other, and remembers what was set aside."""

    judged: dict[str, DataFrame]
    max_reject_share: float
    cache: contextlib.ExitStack
    before: dict[str, list[str]]  # by raw table: its columns that had a value when it was taken in last
    given: dict[str, list[str]] = field(default_factory=dict)  # the same of now
    tallies: dict[str, Tally] = field(default_factory=dict)
    set_aside: list[DataFrame] = field(default_factory=list)

    def catalogue(self) -> DataFrame:
        """Kept rows with tags in one spelling; of two rows with one id, the later created stays."""
        table = schema.RAW_CATALOGUE
        once = mark_duplicates(self.judged[table.name], table, "duplicate_key", [F.col("created_at").desc()])
        given = F.when(F.trim("image") != "", F.col("image"))  # a blank path is no picture, not a broken one
        return self._accept(once.withColumns({"tags": normalised(F.col("tags")), "image": given}), table)

    def users(self) -> DataFrame:
        """Kept rows, one a user."""
        table = schema.RAW_USERS
        return self._accept(mark_duplicates(self.judged[table.name], table, "duplicate_key", []), table)

    def terms(self) -> DataFrame:
        """Kept rows, each once. Sites gather terms from many sources: a duplicate is set aside, but is not bad."""
        table = schema.RAW_TERMS
        once = mark_duplicates(self.judged[table.name], table, "duplicate_key", [])
        return self._accept(once, table, free=("duplicate_key",))

    def events(self, births: DataFrame, users: DataFrame) -> DataFrame:
        """Kept rows, each once, with user_index and illust_index, of users and illustrations that were kept."""
        table = schema.RAW_EVENTS
        once = mark_duplicates(self.judged[table.name], table, "duplicate_event", [])
        known = (once.join(users.select("user_id", "user_index"), "user_id", how="left")
                 .join(births, "illust_id", how="left"))
        return self._accept(add_breaks(known, table, EVENT_RULES).drop("created_at"), table)

    def rejects(self) -> DataFrame:
        """Every row that was set aside, as schema.REJECTS."""
        return reduce(lambda one, other: one.unionByName(other), self.set_aside)

    def _accept(self, judged: DataFrame, table: Table, free: tuple[str, ...] = ()) -> DataFrame:
        judged = cached(judged, self.cache)
        counted = tally(judged, table)
        if counted.rows or table.name not in OPTIONAL:
            check_tally(counted, table, self.max_reject_share, free)
        log.info("%s: %s rows, %s kept, %s set aside, %s not yet there", table.name,
                 *(f"{count:,}" for count in (counted.rows, counted.kept, counted.set_aside, counted.not_yet)))
        self.tallies[table.name] = counted
        self.set_aside.append(reject_rows(judged, table))
        kept = kept_rows(judged)
        if table.name in WHOLE:
            self._require_columns(kept, table)
        return kept

    def _require_columns(self, kept: DataFrame, table: Table) -> None:
        """A column that was renamed or left out would else be unknown for all: pictures withdrawn, tags gone."""
        filled = {name: F.size(name) > 0 if name == "tags" else F.col(name).isNotNull() for name in table.column_names}
        found = kept.agg(*[F.max(test).alias(name) for name, test in filled.items()]).collect()[0].asDict()
        self.given[table.name] = [name for name in table.column_names if found[name]]
        lost = [name for name in self.before.get(table.name, []) if not found.get(name)]
        if lost:
            raise ContractError(f"raw table '{table.name}'", f"no value in column {', '.join(lost)}",
                                "some, as when the table was taken in before",
                                "correct the export; if they are meant to be empty from now on, run once with "
                                "raw.lost_columns=accept; nothing was committed")


def _given_before(store: Store, week: Week) -> dict[str, list[str]]:
    """By raw table: the columns that had a value when it was last taken in. Nothing where that was for a later week."""
    if not store.exists(schema.INGEST_REJECTS):
        return {}
    facts = store.snapshot(schema.INGEST_REJECTS).facts
    given: dict[str, list[str]] = facts.get("given", {}) if facts["week"] <= str(week) else {}
    return given


def _schema_of(spark: SparkSession, table: Table) -> StructType:
    return spark.createDataFrame([], table.columns).schema
