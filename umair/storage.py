"""Tables as Delta tables, models as folders, finished steps in a ledger. No Spark, no torch.

Spark (or anyone) writes Parquet files into a fresh folder of the table; `Store.commit` makes them real in one Delta
transaction. A step killed before that leaves the last version intact. Readers resolve a version to a list of files.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, create_table_with_add_actions

from umair.errors import ClusterError, StorageError

STALE_SECONDS = 24 * 3600.0  # an uncommitted folder older than this was left by a run that died
KEEP_LOG = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)  # old versions stay readable


@dataclass(frozen=True)
class Snapshot:
    """One committed version of a table: the exact files, and what was said at the commit."""

    name: str
    version: int
    files: tuple[str, ...]
    rows: int
    facts: dict[str, Any]
    identity: str  # of the table, drawn when it was made: version 3 of another store's table is another thing


@dataclass(frozen=True)
class Step:
    """A finished step of a week, as the ledger holds it."""

    step: str
    week: str
    key: str
    seconds: float
    outputs: dict[str, Any]
    finished_at: float


class Store:
    """Everything below one root folder, which all nodes see: tables/, encoders/, rankers/, report/,
    steps/ and, while a step that was killed waits to go on, unfinished/."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    @contextlib.contextmanager
    def sole_writer(self) -> Iterator[None]:
        """Keeps other processes from writing tables meanwhile; the lock dies with its process.

        Raises StorageError when the root cannot be written, ClusterError when another run holds it.
        """
        with locked(self.root / ".writer", f"root {self.root}", "another run that writes its tables"):
            yield

    # ------------------------------------------------------------ tables
    def exists(self, name: str) -> bool:
        return bool(DeltaTable.is_deltatable(str(self._table(name))))

    def staging(self, name: str) -> Path:
        """A fresh folder inside the table, not yet part of it; write Parquet files there, then `commit` it."""
        folder = self._table(name) / f"part-{uuid.uuid4().hex[:12]}"
        self._sweep(name)
        return folder

    def unfinished(self, step: str) -> Path:
        """Where a step leaves what a later run of it can go on with; the step deletes it when it is done."""
        return self.root / "unfinished" / step

    def commit(self, name: str, folder: Path, facts: dict[str, Any], *, append: bool = False) -> Snapshot:
        """Makes the Parquet files of `folder` the table's new version (or part of it), all or nothing.

        Raises StorageError: no file there, a file that is not Parquet, another schema than the table's, a lost race.
        """
        table, (actions, schema) = self._table(name), self._actions(name, folder)
        properties = CommitProperties(custom_metadata={"umair": json.dumps(facts, sort_keys=True)})
        if append and self.exists(name):
            self._require_same_schema(name, schema)
        try:
            if self.exists(name):
                DeltaTable(str(table)).create_write_transaction(
                    actions, "append" if append else "overwrite", schema,
                    commit_properties=properties, post_commithook_properties=KEEP_LOG)
            else:
                create_table_with_add_actions(str(table), schema, actions, name=name, commit_properties=properties)
        except (DeltaError, OSError) as error:
            raise StorageError(f"table '{name}'", f"a commit that failed ({error})", "sole writer and free space",
                               "check the disk and that no other run writes this root, then run again") from error
        return self.snapshot(name)

    def snapshot(self, name: str, version: int | None = None) -> Snapshot:
        """The newest version of a table, or the one asked for. Raises StorageError when there is none, or none any more."""
        snapshot = self._snapshot(name, version)
        if version is not None and not all(map(os.path.exists, snapshot.files)):
            raise StorageError(f"table '{name}' below {self.root}", f"version {version}, of which files were tidied away",
                               "a version of a week that was kept", "remove the week's lines below steps/ and run it again, "
                               "or restore the files")
        return snapshot

    def files_of(self, name: str, version: int) -> tuple[str, ...]:
        """The files that a version is or was made of, whether or not they have been tidied away since."""
        return self._snapshot(name, version).files

    def facts_of(self, name: str, version: int) -> dict[str, Any]:
        """What was said at a version's commit, whether or not its files have been tidied away since."""
        return self._facts(name, version)

    def _snapshot(self, name: str, version: int | None = None) -> Snapshot:
        try:
            table = DeltaTable(str(self._table(name)), version=version)
        except TableNotFoundError as error:
            raise StorageError(f"table '{name}' below {self.root}", "no such table",
                               "a committed table", "run the job that makes it first (docs/flow.md names it)") from error
        except DeltaError as error:
            raise StorageError(f"table '{name}' below {self.root}", f"no readable version {version} ({error})",
                               "a committed version", "run the job that makes it again") from error
        actions = pa.table(table.get_add_actions(flatten=True))
        files = tuple(sorted(str(self._table(name) / unquote(path)) for path in actions.column("path").to_pylist()))
        rows = sum(int(count or 0) for count in actions.column("num_records").to_pylist())
        return Snapshot(name, table.version(), files, rows, self._facts(name, table.version()), str(table.metadata().id))

    def tables(self) -> list[str]:
        """The names of all tables that have a version."""
        return sorted(folder.name for folder in (self.root / "tables").glob("*") if self.exists(folder.name))

    def files_beyond(self, name: str, versions: set[int]) -> list[Path]:
        """Parquet files on disk that neither the newest version of a table nor any of `versions` is made of."""
        kept = {file for version in {None, *versions} for file in self._snapshot(name, version).files}
        return [path for path in sorted(self._table(name).glob("part-*/**/*.parquet")) if str(path) not in kept]

    def latest_week(self, name: str) -> str | None:
        """The latest week that any version of a table was committed for; None before its first version."""
        if not self.exists(name):
            return None
        newest = DeltaTable(str(self._table(name))).version()
        return max((self._facts(name, version).get("week", "") for version in range(newest + 1)), default=None)

    def _table(self, name: str) -> Path:
        return self.root / "tables" / name

    def _actions(self, name: str, folder: Path) -> tuple[list[AddAction], Schema]:
        paths = sorted(folder.rglob("*.parquet")) if folder.is_dir() else []
        if not paths:
            raise StorageError(f"table '{name}'", f"no Parquet file in {folder}", "at least one, even if it has no rows",
                               "look for the writer's error above")
        footers = {path: self._footer(name, path) for path in paths}
        schema = Schema.from_arrow(footers[paths[0]].schema_arrow.remove_metadata())
        for path, footer in footers.items():
            found = _types(Schema.from_arrow(footer.schema_arrow.remove_metadata()))
            if found != _types(schema):
                raise StorageError(f"table '{name}'", f"{path.name} with columns {found}",
                                   f"one schema in all files, {_types(schema)}", "write all files in one go")
        actions = [AddAction(str(path.relative_to(self._table(name))), path.stat().st_size, {},
                             int(path.stat().st_mtime * 1000), True, json.dumps({"numRecords": footer.metadata.num_rows}))
                   for path, footer in footers.items()]
        return actions, schema

    def _footer(self, name: str, path: Path) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise StorageError(f"table '{name}'", f"{path.name}, which is no Parquet file ({error})",
                               "whole Parquet files", "run the step again") from error

    def _require_same_schema(self, name: str, schema: Schema) -> None:
        known = _types(DeltaTable(str(self._table(name))).schema())
        if known != _types(schema):
            raise StorageError(f"table '{name}'", f"columns {_types(schema)}", f"columns {known}",
                               "move the old table away or convert it")

    def _log(self, name: str, version: int) -> list[dict[str, Any]]:
        """What one version's commit wrote into the Delta log."""
        text = (self._table(name) / "_delta_log" / f"{version:020}.json").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def _facts(self, name: str, version: int) -> dict[str, Any]:
        for entry in self._log(name, version):
            if "commitInfo" in entry:
                facts: dict[str, Any] = json.loads(entry["commitInfo"].get("umair", "{}"))
                return facts
        return {}

    def _sweep(self, name: str) -> None:
        """Removes folders that a dead run left behind; those that any version committed stay."""
        if not self.exists(name):
            return
        table = self._table(name)
        stale = [folder for folder in table.glob("part-*") if time.time() - folder.stat().st_mtime > STALE_SECONDS]
        newest = DeltaTable(str(table)).version() if stale else -1
        kept = {Path(entry["add"]["path"]).parts[0]
                for version in range(newest + 1) for entry in self._log(name, version) if "add" in entry}
        for folder in stale:
            if folder.name not in kept:
                shutil.rmtree(folder)

    # ------------------------------------------------------------ models
    def model_folder(self, kind: str, key: str) -> Path:
        """Where an encoder or ranker of this key lives: `<root>/<kind>/<key>`."""
        return self.root / kind / key

    # ------------------------------------------------------------ ledger
    def finished(self, step: str, week: str, key: str) -> Step | None:
        """The ledger's line of a step, if it was finished with exactly this key."""
        path = self._ledger(step, week, key)
        return Step(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def record(self, step: Step) -> None:
        """Says that a step is finished; the last act of every step."""
        write_atomically(self._ledger(step.step, step.week, step.key),
                         json.dumps(step.__dict__, sort_keys=True, indent=1))

    def weeks(self) -> list[str]:
        """The weeks of which the ledger knows steps, earliest first."""
        return sorted(folder.name for folder in self.root.glob("steps/????-W??"))

    def steps_of(self, week: str) -> list[Step]:
        """The ledger's lines of a week, of every configuration."""
        return self._lines(f"steps/{week}/*.json")

    def all_finished(self, step: str) -> list[Step]:
        """The ledger's lines of a step in every week and configuration, in the order in which they were finished."""
        return sorted(self._lines(f"steps/*/{step}-*.json"), key=lambda line: line.finished_at)

    def _lines(self, pattern: str) -> list[Step]:
        return [Step(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(self.root.glob(pattern))]

    def _ledger(self, step: str, week: str, key: str) -> Path:
        return self.root / "steps" / week / f"{step}-{key}.json"


@contextlib.contextmanager
def locked(path: Path, where: str, found: str) -> Iterator[None]:
    """Holds the lock of a file, which dies with its process. Raises ClusterError, saying `where` and `found`, while another
    process holds it, and StorageError where the file cannot be written."""
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(path.open("a+", encoding="utf-8"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
        except BlockingIOError as error:
            holder = path.read_text(encoding="utf-8").strip()
            raise ClusterError(where, f"{found} ({holder})", "one at a time",
                               "wait until it is done, then run again") from error
        except OSError as error:
            raise _unwritable(path, error) from error
        yield  # what goes wrong from here on is the caller's own


def for_spark(*paths: str | Path) -> list[str]:
    """Files or folders as Spark is given them: they lie where all nodes mount them, whatever Spark's default file system is
    (fs.defaultFS, on YARN most often HDFS)."""
    return [f"file://{Path(path).absolute()}" for path in paths]


def write_folder(folder: Path, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """`write(temporary)` fills a folder and returns its facts; only then does `folder` appear, whole, with facts.json.

    Raises StorageError when the disk does not take it; whatever `write` raises passes through, and nothing is left.
    """
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        _sweep_folders(folder)
        facts = write(temporary)
        write_atomically(temporary / "facts.json", json.dumps(facts, sort_keys=True, indent=1))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return facts


def _sweep_folders(folder: Path) -> None:
    """Removes what runs that died while writing this folder left beside it."""
    for left in folder.parent.glob(f".{folder.name}-*"):
        if re.fullmatch(rf"\.{re.escape(folder.name)}-[0-9a-f]{{8}}", left.name) and _age(left) > STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _age(path: Path) -> float:
    """Seconds since the newest change inside."""
    return time.time() - max(part.stat().st_mtime for part in (path, *path.rglob("*")))


def digest_path(path: Path) -> str:
    """Twelve hex digits over the bytes of a file, or of all files of a folder with their names."""
    files = sorted(part for part in path.rglob("*") if part.is_file()) if path.is_dir() else [path]
    stamps = tuple((str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return _digest_files(path, stamps)


@functools.lru_cache(maxsize=16)
def _digest_files(path: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    """The same; size and time of each file say whether it must be read again."""
    sha = hashlib.sha256()
    for name, size, _ in stamps:
        sha.update(f"{os.path.relpath(name, path.resolve())} {size}\n".encode())
        with open(name, "rb") as file:
            while part := file.read(2**20):
                sha.update(part)
    return sha.hexdigest()[:12]


def read_facts(folder: Path) -> dict[str, Any]:
    """facts.json of a model or checkpoint folder. Raises StorageError when the folder is not whole."""
    path = folder / "facts.json"
    if not path.is_file():
        raise StorageError(str(folder), "no facts.json", "a folder that was written to its end",
                           "run the job that makes it first")
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def write_atomically(path: Path, text: str) -> None:
    """Writes a small text file so that a reader sees the old one or the new one, never a part."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(str(path), f"a write that failed ({error})", "a writable folder with free space",
                        "free some space or choose another root")


def _types(schema: Schema) -> dict[str, str]:
    """Column -> type, without nullability, which Spark and pyarrow state differently."""
    return {column["name"]: _type(column["type"]) for column in json.loads(schema.to_json())["fields"]}


def _type(kind: str | dict[str, Any]) -> str:
    if isinstance(kind, str):
        return kind
    return f"array of {_type(kind['elementType'])}" if kind["type"] == "array" else json.dumps(kind)
