"""Tidying: what old weeks alone need can go, what anything kept needs stays, and nothing goes unasked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from umair.errors import ClusterError, StorageError
from umair.storage import Step, Store, write_folder
from umair.tidy import tidy
from umair.training.packing import FeatureSource

WEEKS = ("2026-W01", "2026-W02", "2026-W03", "2026-W04")


def commit(store: Store, value: int, *, append: bool = False) -> int:
    folder = store.staging("t")
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"a": [value]}), folder / "0.parquet")
    return store.commit("t", folder, {}, append=append).version


def values_of(store: Store, version: int | None = None) -> list[int]:
    return sorted(value for file in store.snapshot("t", version).files for value in pq.read_table(file)["a"].to_pylist())


def source(version: int) -> dict[str, Any]:
    return {"versions": {"t": version}, "identities": {}, "image_encoder": "i", "text_encoder": "t", "widths": {}, "titles": False}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Four weeks: 10, 10 and 11, then replaced by 12, then by 13; each with a step, a ranker and a pack."""
    store = Store(tmp_path / "root")
    for number, week in enumerate(WEEKS):
        version = commit(store, 10 + number, append=number == 1)
        store.record(Step("embed_images", week, "k", 0.0, {"versions": {"t": version}}, float(number)))
        write_folder(store.model_folder("rankers", week) / "k", lambda _, version=version: {"features": source(version)})
        write_folder(store.root / "features" / FeatureSource(**source(version)).key,
                     lambda new, week=week: {"size": (new / "x.npy").write_bytes(week.encode())})
    return store


def test_it_only_counts_unless_told_to_delete(store: Store) -> None:
    said = tidy(store, 1, store.root / "features", delete=False)
    assert (said["weeks"], said["files"], said["packs"], said["deleted"]) == (["2026-W04"], 3, 3, False)
    assert said["bytes"] > 0
    assert values_of(store, 1) == [10, 11]


def test_what_a_kept_week_names_stays(store: Store) -> None:
    said = tidy(store, 3, store.root / "features", delete=True)
    assert (said["files"], said["packs"]) == (0, 1)  # version 1 of the second week holds the first week's file too
    assert values_of(store, 1) == [10, 11]
    assert tidy(store, 2, store.root / "features", delete=True)["files"] == 2
    assert (values_of(store, 2), values_of(store)) == ([12], [13])
    with pytest.raises(StorageError, match="version 1, of which files were tidied away"):
        store.snapshot("t", 1)
    assert tidy(store, 2, store.root / "features", delete=True)["files"] == 0
    assert commit(store, 14, append=True) == 4  # the table lives on
    assert values_of(store) == [13, 14]


def test_what_a_ranker_alone_names_stays(store: Store) -> None:
    write_folder(store.model_folder("rankers", "2026-W04") / "other", lambda _: {"features": source(0)})
    tidy(store, 1, store.root / "features", delete=True)
    assert values_of(store, 0) == [10]
    assert (store.root / "features" / FeatureSource(**source(0)).key).is_dir()


def test_unfinished_work_goes_once_its_step_has_finished_without_it(store: Store) -> None:
    for encoder, at in (("replaced", 2.0), ("awaited", 4.0)):  # the step finished last at 3.0
        part = store.unfinished("embed_images") / encoder / "run-1" / "0.parquet"
        part.parent.mkdir(parents=True)
        part.write_bytes(b"0123456789")
        for path in (part, part.parent, part.parent.parent):
            os.utime(path, (at, at))
    only_counted = tidy(store, 4, store.root / "features", delete=False)
    assert (only_counted["unfinished"], only_counted["bytes"]) == (1, 10)
    tidy(store, 4, store.root / "features", delete=True)
    assert [folder.name for folder in store.unfinished("embed_images").iterdir()] == ["awaited"]


def test_it_waits_for_no_writer(store: Store) -> None:
    with store.sole_writer(), pytest.raises(ClusterError, match=r"another run that writes its tables .*expected one at a time"):
        tidy(store, 1, store.root / "features", delete=True)
    assert json.loads(next(store.root.glob("steps/2026-W01/*.json")).read_text(encoding="utf-8"))["week"] == "2026-W01"
