"""What a week's training reads: exact versions of tables, exact files, and the encoders whose vectors count."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umair.schema import window_table
from umair.storage import Store, read_facts
from umair.training.packing import TABLES, VECTOR_TABLES, FeatureSource
from umair.training.reader import count_rows


@dataclass(frozen=True)
class TrainingInputs:
    """Plain values, so that they travel to the ranks and into facts."""

    source: FeatureSource
    rows_by_file: dict[str, dict[str, int]]  # by split: rows of each file, as its footer says
    versions: dict[str, int]  # of every table used

    @classmethod
    def of(cls, store: Store, versions: dict[str, int], image_encoder: dict[str, Any], text_encoder: dict[str, Any], *,
           titles: bool) -> TrainingInputs:
        """`versions` by table, as the steps before left them; the encoders are given by their folders' facts.

        A site without any picture or text has no table of their vectors; then none is known. Raises StorageError for
        another missing table and for a damaged file.
        """
        windows = {split: store.snapshot(window_table(split), versions[window_table(split)]) for split in ("train", "valid")}
        packed = {name: store.snapshot(name, versions[name]) for name in TABLES
                  if name in versions or name not in VECTOR_TABLES}
        widths = {"semantic": image_encoder["semantic_width"], "style": image_encoder["style_width"],
                  "text": text_encoder["width"]}
        source = FeatureSource({name: each.version for name, each in packed.items()},
                               {name: each.identity for name, each in packed.items()},
                               image_encoder["fingerprint"], text_encoder["fingerprint"], widths, titles)
        return cls(source, {split: count_rows(snapshot.files) for split, snapshot in windows.items()},
                   {**source.versions, **{snapshot.name: snapshot.version for snapshot in windows.values()}})

    def made(self, folder: Path) -> bool:
        """Whether the rankers in `folder` were trained on exactly these tables."""
        return (folder / "facts.json").is_file() and read_facts(folder)["versions"] == self.versions

