"""Tables that change all at once, folders that appear whole, and what a full disk or a damaged file does to them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from umair.errors import StorageError
from umair.storage import STALE_SECONDS, Step, Store, read_facts, write_atomically, write_folder


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "a röot with blanks")


def stage(store: Store, values: list, kind: pa.DataType | None = None, column="a", files=1) -> Path:
    folder = store.staging("t")
    folder.mkdir(parents=True)
    for number in range(files):
        pq.write_table(pa.table({column: pa.array(values, kind or pa.int64())}), folder / f"{number} of {files}.parquet")
    return folder


def put(store: Store, values: list, append=False, **facts):
    return store.commit("t", stage(store, values), facts, append=append)


def values_of(store: Store, version: int | None = None) -> list:
    return sorted(value for file in store.snapshot("t", version).files for value in pq.read_table(file)["a"].to_pylist())


def age(folder: Path) -> None:
    old = time.time() - STALE_SECONDS - 60
    os.utime(folder, (old, old))


# ------------------------------------------------------------------------------------------------ tables
def test_a_commit_replaces_and_an_append_adds(store):
    assert not store.exists("t")
    assert put(store, [1, 2], week="W1").version == 0
    assert store.exists("t")
    snapshot = put(store, [3], week="W2")
    assert (snapshot.version, snapshot.rows, snapshot.facts, values_of(store)) == (1, 1, {"week": "W2"}, [3])
    snapshot = put(store, [4, 5], append=True, week="W3")
    assert (snapshot.version, snapshot.rows, snapshot.facts, values_of(store)) == (2, 3, {"week": "W3"}, [3, 4, 5])


def test_append_to_nothing_makes_the_table(store):
    assert put(store, [1], append=True).version == 0
    assert values_of(store) == [1]


def test_old_versions_keep_their_rows_and_facts(store):
    for number in range(4):
        put(store, list(range(number)), append=number == 3, number=number)
    for number in range(3):
        snapshot = store.snapshot("t", number)
        assert (snapshot.version, snapshot.rows, snapshot.facts) == (number, number, {"number": number})
        assert values_of(store, number) == list(range(number))
    assert values_of(store, 3) == [0, 0, 1, 1, 2]


def test_old_versions_outlive_the_checkpoints_of_the_log(store):
    for number in range(102):  # deltalake writes a checkpoint every 100 versions
        put(store, [number], number=number)
    assert list(store.root.rglob("*.checkpoint.parquet"))
    for log in store.root.rglob("_delta_log/*.json"):
        os.utime(log, (0, 0))  # long past what deltalake keeps by itself, 30 days
    put(store, [7], number=102)
    assert (store.snapshot("t", 3).facts, values_of(store, 3)) == ({"number": 3}, [3])


def test_what_is_staged_is_not_there(store):
    put(store, [1])
    before = store.snapshot("t")
    stage(store, [2])
    assert store.snapshot("t") == before


def test_several_files_and_folders_below_the_staged_one(store):
    folder = stage(store, [1, 2], files=3)
    (folder / "deeper").mkdir()
    pq.write_table(pa.table({"a": [9]}), folder / "deeper" / "x.parquet")
    (folder / "_SUCCESS").touch()
    snapshot = store.commit("t", folder, {})
    assert (snapshot.rows, len(snapshot.files), values_of(store)) == (7, 4, [1, 1, 1, 2, 2, 2, 9])
    age(folder)
    put(store, [1])
    assert values_of(store, 0) == [1, 1, 1, 2, 2, 2, 9]


def test_an_overwrite_may_change_columns_and_an_append_may_not(store):
    put(store, [1])
    for kind, column, found in ((pa.string(), "a", r"\{'a': 'string'\}"), (pa.int64(), "b", r"\{'b': 'long'\}")):
        with pytest.raises(StorageError, match=rf"table 't': found columns {found}; expected columns \{{'a': 'long'\}}"):
            store.commit("t", stage(store, [None], kind, column), {}, append=True)
    assert (store.snapshot("t").version, values_of(store)) == (0, [1])
    lists = pa.list_(pa.field("item", pa.int32(), nullable=False))
    store.commit("t", stage(store, [[1]], lists), {})
    store.commit("t", stage(store, [[2]], pa.list_(pa.field("element", pa.int32()))), {}, append=True)  # Spark's name for it
    assert values_of(store) == [[1], [2]]


def test_damaged_and_missing_files_are_refused(store):
    put(store, [1])
    cut = stage(store, [2])
    file = next(cut.glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-20])
    mixed = stage(store, [3])
    pq.write_table(pa.table({"a": ["text"]}), mixed / "other.parquet")
    empty = store.staging("t")
    for folder, found in ((cut, "1.parquet, which is no Parquet file"), (mixed, "other.parquet with columns {'a': 'string'}"),
                          (empty, "no Parquet file in")):
        with pytest.raises(StorageError) as raised:
            store.commit("t", folder, {})
        assert found in str(raised.value)
    assert (store.snapshot("t").version, values_of(store)) == (0, [1])


def test_tables_and_versions_that_are_not_there(store):
    with pytest.raises(StorageError, match=r"table 't' below .*: found no such table; expected a committed table. "
                                           r"What to do: run the job that makes it first"):
        store.snapshot("t")
    put(store, [1])
    with pytest.raises(StorageError, match="found no readable version 5"):
        store.snapshot("t", 5)


def test_the_sweep_takes_only_old_folders_that_no_version_holds(store):
    first, left = stage(store, [1]), stage(store, [66])
    store.commit("t", first, {})
    second, fresh = stage(store, [2]), stage(store, [77])
    store.commit("t", second, {})
    for folder in (first, second, left):
        age(folder)
    store.staging("t")
    assert [folder.exists() for folder in (first, second, left, fresh)] == [True, True, False, True]
    assert (values_of(store, 0), values_of(store)) == ([1], [2])


# ------------------------------------------------------------------------------------------------ folders, ledger
def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "encoders" / "key"

    def write(into: Path, text: str, fail: bool = False) -> dict:
        (into / "weights").write_text(text)
        assert not (folder / "weights").exists() or (folder / "weights").read_text() == "one"
        if fail:
            raise RuntimeError("died")
        return {"text": text}

    with pytest.raises(RuntimeError, match="died"):
        write_folder(folder, lambda into: write(into, "half", fail=True))
    assert list(folder.parent.iterdir()) == []
    with pytest.raises(StorageError, match=r"found no facts.json; expected a folder that was written to its end"):
        read_facts(folder)
    assert write_folder(folder, lambda into: write(into, "one")) == {"text": "one"} == read_facts(folder)
    with pytest.raises(RuntimeError, match="died"):
        write_folder(folder, lambda into: write(into, "half", fail=True))
    assert (folder / "weights").read_text() == "one"
    write_folder(folder, lambda into: write(into, "two"))
    assert read_facts(folder) == {"text": "two"}
    assert [path.name for path in folder.parent.iterdir()] == ["key"]


def test_the_ledger_gives_back_what_it_was_told(store):
    step = Step("train", "2026-W10", "abc", 1.5, {"rows": 3, "names": ["ä"]}, 1e9)
    assert store.finished("train", "2026-W10", "abc") is None
    store.record(step)
    assert store.finished("train", "2026-W10", "abc") == step
    for other in (("embed", "2026-W10", "abc"), ("train", "2026-W11", "abc"), ("train", "2026-W10", "abd")):
        assert store.finished(*other) is None


def test_a_small_file_is_the_old_or_the_new_one(tmp_path):
    write_atomically(tmp_path / "new" / "x.json", "one")
    write_atomically(tmp_path / "new" / "x.json", "two")
    assert (tmp_path / "new" / "x.json").read_text() == "two"
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"a write that failed .*; expected a writable folder with free space"):
        write_atomically(tmp_path / "file" / "x.json", "three")


# ------------------------------------------------------------------------------------------------ a full disk
def on_a_full_disk(store: Store, code: str) -> None:
    """Runs `code` where no file may grow beyond 600 bytes, and expects its StorageError."""
    script = f"""
        import resource
        from pathlib import Path
        from umair.errors import StorageError
        from umair.storage import Store, write_atomically, write_folder
        store = Store({str(store.root)!r})
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
        try:
            {code}
        except StorageError as error:
            print(error)
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False,
                         cwd=Path(__file__).parents[1])
    assert ran.returncode == 0, ran.stderr
    assert "free space" in ran.stdout


def test_a_full_disk_leaves_the_last_version(store):
    put(store, [1], week="W1")
    folder = stage(store, [2, 3])
    on_a_full_disk(store, f"store.commit('t', Path({str(folder)!r}), {{'text': 'x' * 2000}})")
    assert (store.snapshot("t").version, values_of(store)) == (0, [1])
    assert store.commit("t", folder, {"text": "x" * 2000}).version == 1  # with space again, the same folder will do
    assert values_of(store) == [2, 3]


def test_a_full_disk_leaves_the_old_folder_and_file(store):
    folder = store.model_folder("encoders", "k")
    write_folder(folder, lambda into: {"old": True})
    on_a_full_disk(store, f"write_folder(Path({str(folder)!r}), lambda into: (into / 'w').write_bytes(bytes(9999)) or {{}})")
    on_a_full_disk(store, f"write_atomically(Path({str(folder)!r}) / 'facts.json', 'x' * 9999)")
    assert read_facts(folder) == {"old": True}
    assert [path.name for path in folder.parent.rglob("*")] == ["k", "facts.json"]


def test_what_a_run_left_that_died_while_writing_a_folder_goes(tmp_path, monkeypatch):
    old, fresh, other = (tmp_path / name for name in (".pack-0123abcd", ".pack-4567abcd", ".packs-0123abcd"))
    for folder in (old, fresh, other):
        folder.mkdir()
        (folder / "half.npy").touch()
    for path in (old, old / "half.npy", other, other / "half.npy"):
        os.utime(path, (0, 0))
    write_folder(tmp_path / "pack", lambda folder: {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".pack-4567abcd", ".packs-0123abcd", "pack"]


def test_the_latest_week_is_that_of_all_versions_and_steps_come_as_they_ended(store):
    assert store.latest_week("t") is None
    for week in ("2026-W09", "2026-W12", "2026-W10"):
        put(store, [1], week=week)
    assert store.latest_week("t") == "2026-W12"
    for week, key, finished_at in (("2026-W09", "b", 3.0), ("2026-W12", "a", 1.0), ("2026-W12", "c", 2.0)):
        store.record(Step("embed_images", week, key, 0.0, {}, finished_at))
    store.record(Step("embed_texts", "2026-W12", "d", 0.0, {}, 0.0))
    assert [step.key for step in store.all_finished("embed_images")] == ["a", "c", "b"]
