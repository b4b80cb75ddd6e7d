"""What a week's training reads: exact versions of tables, exact files, and the encoders whose vectors count."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umair.schema import window_table
from umair.storage import Snapshot, Store, read_facts
from umair.training.packing import TABLES, VECTOR_TABLES, FeatureSource
from umair.training.reader import count_rows
from umair.weeks import Week


@dataclass(frozen=True)
class TrainingInputs:
    """Plain values, so that they travel to the ranks and into facts."""

    source: FeatureSource
    rows_by_file: dict[str, dict[str, int]]  # by split: rows of each file, as its footer says
    versions: dict[str, int]  # of every table used

    @classmethod
    def of_week(cls, store: Store, week: Week, image_encoder: dict[str, Any], text_encoder: dict[str, Any]
                ) -> TrainingInputs:
        """The tables as they stood for `week`; the encoders are given by their folders' facts.

        A site without any picture or text has no table of their vectors; then none is known. Raises StorageError for
        another missing table and for a damaged file.
        """
        windows = {split: snapshot_of(store, window_table(split), week) for split in ("train", "valid")}
        versions = {name: snapshot_of(store, name, week).version for name in TABLES
                    if name not in VECTOR_TABLES or store.exists(name)}
        widths = {"semantic": image_encoder["semantic_width"], "style": image_encoder["style_width"],
                  "text": text_encoder["width"]}
        source = FeatureSource(versions, image_encoder["fingerprint"], text_encoder["fingerprint"], widths)
        return cls(source, {split: count_rows(snapshot.files) for split, snapshot in windows.items()},
                   {**versions, **{snapshot.name: snapshot.version for snapshot in windows.values()}})

    def made(self, folder: Path) -> bool:
        """Whether the rankers in `folder` were trained on exactly these tables."""
        return (folder / "facts.json").is_file() and read_facts(folder)["versions"] == self.versions


def snapshot_of(store: Store, table: str, week: Week) -> Snapshot:
    """The newest version that was committed for `week` or an earlier one; the oldest where all are later."""
    snapshot = store.snapshot(table)
    while snapshot.version > 0 and snapshot.facts.get("week", "") > str(week):
        snapshot = store.snapshot(table, snapshot.version - 1)
    return snapshot
