"""What a site hands over, found and read loosely: one frame for each layout of files, values still as they were given.

A raw table is `<folder>/<name>.<parquet|jsonl|json|csv>` or a folder of such files. Nothing is judged here: text stays
text, so that a value that cannot be read becomes a reject row (`umair.tables.contract`) and never an exception.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import functions as F
from pyspark.sql.types import LongType, StringType, StructType

from umair.config import UNSAFE
from umair.errors import ConfigError, ContractError
from umair.schema import Table
from umair.storage import for_spark

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
LINE = "_unread_line"  # the text of a JSON or CSV line that could not be taken apart, else null
EXPORT = "export the table again"


def find_raw(folder: Path, name: str) -> list[Path]:
    """The files of one raw table, sorted; empty when the table is absent.

    Raises ConfigError: no such folder. ContractError: two candidates, no file in its folder, an unknown or a mixed format.
    """
    if not folder.is_dir():
        raise ConfigError(f"raw.folder = {folder}", "no such folder", "a folder with catalogue, users and events",
                          "correct raw.folder, or hand over the raw tables first (docs/own_data.md)")
    entries = [entry for entry in sorted(folder.iterdir()) if entry.name.split(".")[0] == name]
    if len(entries) > 1:
        raise ContractError(f"raw table '{name}' in {folder}", " and ".join(entry.name for entry in entries),
                            "one file or folder", "remove one of them")
    files = [file for entry in entries for file in _data_files(entry)]
    if entries and not files:
        raise ContractError(str(entries[0]), "a folder without files", "Parquet, JSON lines or CSV files", EXPORT)
    for file in files:
        if set(file.name) & set(UNSAFE):
            raise ContractError(f"raw table '{name}' in {folder}", f"a file named {file.name!r}",
                                f"a name without any of {' '.join(UNSAFE.strip())}, which Spark would not take as "
                                "they stand", "rename the file")
    formats = {FORMATS.get(file.suffix, f"'{file.name}'") for file in files}
    if len(formats) > 1 or not formats <= set(FORMATS.values()):
        raise ContractError(f"raw table '{name}' in {folder}", f"files of format {', '.join(sorted(formats))}",
                            f"one format out of {', '.join(FORMATS)}", "convert the files, or remove what is no table")
    return files


def read_raw(spark: SparkSession, files: list[Path], table: Table) -> list[DataFrame]:
    """One frame for each layout of `files`, with those columns of `table` that the files have, and LINE.

    JSON and CSV values are strings; Parquet ones have the type of the file. Raises ContractError: a damaged file, a
    column that a rule requires and a file does not have.
    """
    read = {"parquet": _read_parquet, "json": _read_json, "csv": _read_csv}[FORMATS[files[0].suffix]]
    return read(spark, files, table)


def required_columns(table: Table) -> list[str]:
    """The columns that no raw row may lack: those with a rule `<column>_known`."""
    return [name for name in table.column_names if f"{name}_known" in table.rules]


def require_columns(where: str, found: list[str], table: Table) -> None:
    """Raises ContractError when a required column of `table` is not among `found`."""
    missing = [name for name in required_columns(table) if name not in found]
    if missing:
        raise ContractError(where, f"no column {', '.join(missing)} (columns: {', '.join(found) or 'none'})",
                            f"{table.columns}", "rename or add the column")


def _data_files(entry: Path) -> list[Path]:
    if entry.is_file():
        return [entry]
    hidden = ("_", ".")  # _SUCCESS, _delta_log, .crc
    return [path for path in sorted(entry.rglob("*"))
            if path.is_file() and not any(part.startswith(hidden) for part in path.relative_to(entry).parts)]


def _read_parquet(spark: SparkSession, files: list[Path], table: Table) -> list[DataFrame]:
    layouts: dict[str, list[Path]] = defaultdict(list)
    schemas: dict[str, pa.Schema] = {}
    for file in files:
        try:
            schema = pq.read_schema(file).remove_metadata()
        except (pa.ArrowInvalid, OSError) as error:
            raise ContractError(str(file), f"no whole Parquet file ({error})", "a Parquet file", EXPORT) from error
        _require_once(file, schema.names)
        require_columns(str(file), schema.names, table)
        layouts[str(schema)].append(file)
        schemas[str(schema)] = schema
    return [_read_parquet_layout(spark, layouts[key], schemas[key], table) for key in layouts]


def _read_parquet_layout(spark: SparkSession, files: list[Path], schema: pa.Schema, table: Table) -> DataFrame:
    spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")  # pandas writes nanoseconds, which Spark refuses
    frame = spark.read.parquet(*for_spark(*files))
    columns = []
    for name in _shared(table, schema.names):
        kind = schema.field(name).type
        nanoseconds = pa.types.is_timestamp(kind) and kind.unit == "ns"  # in whatever zone: what is stored is UTC
        as_number = isinstance(frame.schema[name].dataType, LongType)  # not so for INT96, which Spark reads by itself
        columns.append(F.expr(f"timestamp_micros(`{name}` div 1000)").alias(name) if nanoseconds and as_number
                       else F.col(name))
    return frame.select(*columns, F.lit(None).cast("string").alias(LINE))


def _read_json(spark: SparkSession, files: list[Path], table: Table) -> list[DataFrame]:
    reader = spark.read.schema(_all_text([*table.column_names, LINE])).option("columnNameOfCorruptRecord", LINE)
    return [reader.json(for_spark(*files))]


def _read_csv(spark: SparkSession, files: list[Path], table: Table) -> list[DataFrame]:
    layouts: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for file in files:
        header = _csv_header(file)
        require_columns(str(file), list(header), table)
        if table.has_texts:
            _require_closed_quotes(file)
        layouts[header].append(file)
    frames = []
    for header, paths in layouts.items():
        reader = spark.read.schema(_all_text([*header, LINE])).options(
            header=True, multiLine=table.has_texts, escape='"', columnNameOfCorruptRecord=LINE)
        frames.append(reader.csv(for_spark(*paths)).select(*_shared(table, list(header)), LINE))
    return frames


def _csv_header(file: Path) -> tuple[str, ...]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            header = tuple(next(csv.reader(lines), []))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ContractError(str(file), f"no readable header ({error})", "CSV in UTF-8 with a header", EXPORT) from error
    _require_once(file, list(header))
    return header


def _require_once(file: Path, columns: list[str]) -> None:
    if len({name.casefold() for name in columns}) < len(columns):
        raise ContractError(str(file), f"a column twice in {', '.join(columns)}",
                            "each column once, whatever its upper and lower case", "rename one of them")


def _require_closed_quotes(file: Path) -> None:
    """A quotation mark that is never closed would swallow every line after it, in silence."""
    with file.open("rb") as content:
        marks = sum(part.count(b'"') for part in iter(lambda: content.read(2**20), b""))
    if marks % 2:
        raise ContractError(str(file), f"{marks} quotation marks, an odd number",
                            "each one closed, and those inside a value doubled", EXPORT)


def _all_text(names: list[str]) -> StructType:
    schema = StructType()
    for name in names:
        schema.add(name, StringType())
    return schema


def _shared(table: Table, found: list[str]) -> list[str]:
    return [name for name in table.column_names if name in found]
