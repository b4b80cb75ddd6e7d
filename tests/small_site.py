"""A site of 40 illustrations with packed vectors, windows, truth, pictures and two untrained rankers; for evaluation tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from small_store import next_indices

from umair.evaluation.scoring import ScoringPlan
from umair.model.ranker import RankerConfig
from umair.storage import Store, write_folder
from umair.training.checkpoint import build_ranker, save_ranker
from umair.training.packing import TABLES, FeatureSource

ILLUSTRATIONS, USERS, TAGS, ROWS, HISTORY = 40, 25, 12, 500, 5
WIDTHS = {"semantic": 6, "style": 5, "text": 4}
SMALL = {"user_fields": {"user_id": 50, "username": 10}, "item_fields": {"illust_id": 50, "artist_id": 20},
         "tag_buckets": 30, "tower": (8, 4), "deep": (8, 4), "match_width": 3}
MAIN = RankerConfig(**SMALL, match=True, counters=True)
RIVAL = RankerConfig(form="dcn_v2", **{**SMALL, "tag_buckets": 8})  # fewer than TAGS, so that it needs a batch of its own
TAG_NAMES = ["<b>bold</b>", *[f"タグ{one}" for one in range(1, TAGS)]]
COLD = range(30, ILLUSTRATIONS)  # illustrations without a training row
INT, LONG, FLOATS, INTS, TEXT = pa.int32(), pa.int64(), pa.list_(pa.float32()), pa.list_(pa.int32()), pa.string()


@dataclass(frozen=True)
class Site:
    folder: Path
    store: Store
    plan: ScoringPlan
    test_files: list[str]

    @property
    def truth(self) -> str:
        return str(self.folder / "truth")

    @property
    def rankers(self) -> Path:
        return self.folder / "rankers"


def make_site(folder: Path) -> Site:
    """Every fifth illustration has no picture vector; the file of illustration 1 is missing, that of 2 is damaged."""
    store, random = Store(folder / "root"), np.random.default_rng(0)
    fill_tables(store, random)
    draw_pictures(folder / "images")
    windows = {split: window(random, COLD.start if split == "train" else ILLUSTRATIONS) for split in ("train", "valid", "test")}
    for split, (rows, _) in windows.items():
        commit(store, f"window_{split}", rows, parts=3)
    write_truth(folder / "truth", *windows["test"])
    source = FeatureSource({name: 0 for name in TABLES}, {name: store.snapshot(name).identity for name in TABLES}, "img", "txt", WIDTHS,
                           titles=True)
    save_rankers(folder / "rankers", source)
    names = {"main": str(folder / "rankers" / "main"), "id_only": str(folder / "rankers" / "id_only")}
    plan = ScoringPlan(str(folder / "root"), source, str(folder / "packs"), names, batch_rows=64)
    return Site(folder, store, plan, list(store.snapshot("window_test").files))


def commit(store: Store, name: str, table: pa.Table, parts: int = 1) -> None:
    folder = store.staging(name)
    folder.mkdir(parents=True)
    size = -(-len(table) // parts)
    for part in range(parts):
        pq.write_table(table.slice(part * size, size), folder / f"part-{part}.parquet")
    store.commit(name, folder, {"week": "2026-W10", **next_indices([table])})


def fill_tables(store: Store, random: np.random.Generator) -> None:
    count = np.arange(ILLUSTRATIONS)
    seen, tags = count[count % 5 != 0], random.integers(0, TAGS, (ILLUSTRATIONS, 3))
    commit(store, "illustrations", pa.table({
        "illust_id": pa.array(count + 500, LONG), "illust_index": pa.array(count, INT), "artist_index": pa.array(count % 7, INT),
        "title": pa.array(["title"] * ILLUSTRATIONS), "tags": pa.array([[TAG_NAMES[tag] for tag in row] for row in tags]),
        "tag_indices": pa.array(tags.tolist(), INTS), "image": pa.array([f"{one}.png" for one in count]),
        "image_content": pa.array([None] * ILLUSTRATIONS, pa.binary()),
        **{name: pa.array(count % 3, INT) for name in ("width", "height", "restrict", "x_restrict", "sanity_level")}}))
    commit(store, "users", pa.table({"user_id": pa.array(np.arange(USERS) + 70, LONG), "user_index": pa.array(np.arange(USERS), INT),
                                     "username": pa.array([f"u{one}" for one in range(USERS)])}))
    commit(store, "tags", pa.table({"tag": pa.array(TAG_NAMES), "tag_index": pa.array(np.arange(TAGS), INT)}))
    commit(store, "image_vectors", pa.table({
        "illust_index": pa.array(seen, INT), "encoder": pa.array(["img"] * len(seen)),
        "semantic": pa.array(random.normal(size=(len(seen), 6)).tolist(), FLOATS),
        "style": pa.array(random.normal(size=(len(seen), 5)).tolist(), FLOATS)}))
    commit(store, "text_vectors", pa.table({"text": pa.array(TAG_NAMES), "encoder": pa.array(["txt"] * TAGS),
                                            "vector": pa.array(random.normal(size=(TAGS, 4)).tolist(), FLOATS)}))


def window(random: np.random.Generator, illustrations: int) -> tuple[pa.Table, np.ndarray]:
    """Distinct (user, illustration) pairs, and the probability that each label was drawn with."""
    pair = random.permutation(USERS * illustrations)[:ROWS]
    probability = random.beta(1, 1.5, ROWS)
    indices = {name: random.integers(-1, top, (ROWS, HISTORY)).tolist() for name, top in (
        ("long_tags", TAGS), ("short_tags", TAGS), ("bookmarked", illustrations), ("passed", illustrations))}
    counts = {name: random.integers(0, 30, ROWS) for name in ("user_views", "user_bookmarks", "illust_views", "illust_bookmarks")}
    weights = {name: random.random((ROWS, HISTORY)).tolist() for name in ("long_weights", "short_weights")}
    return pa.table({
        "user_index": pa.array(pair // illustrations, INT), "illust_index": pa.array(pair % illustrations, INT),
        "label": pa.array(random.random(ROWS) < probability, pa.bool_()).cast(INT), "at": pa.array([0] * ROWS, pa.timestamp("us")),
        **{name: pa.array(value, INTS) for name, value in indices.items()},
        **{name: pa.array(value, FLOATS) for name, value in weights.items()},
        **{name: pa.array(value, INT) for name, value in counts.items()}}), probability


def draw_pictures(folder: Path) -> None:
    folder.mkdir()
    for one in range(ILLUSTRATIONS):
        if one != 1:
            Image.new("RGB", (20, 14), (6 * one, 255 - 6 * one, 90)).save(folder / f"{one}.png")
    (folder / "2.png").write_bytes(b"<html>not found</html>")


def write_truth(folder: Path, rows: pa.Table, probability: np.ndarray) -> None:
    folder.mkdir()
    user, illust = rows["user_index"].to_numpy(), rows["illust_index"].to_numpy()
    pq.write_table(pa.table({"user_id": user.astype(np.int64) + 70, "illust_id": illust.astype(np.int64) + 500,
                             "probability": probability}), folder / "events.parquet")
    share = np.random.default_rng(1).dirichlet([1.0] * 5, USERS)
    pq.write_table(pa.table({"user_id": np.arange(USERS) + 70, **{
        f"weight_{name}": share[:, place] for place, name in enumerate(("style", "content", "tags", "artist", "popularity"))}}),
        folder / "users.parquet")


def save_rankers(folder: Path, source: FeatureSource) -> None:
    """A folder as train_ranker leaves it, rankers with random weights."""
    def write(temporary: Path) -> dict:
        save(temporary / "main", MAIN)
        save(temporary / "id_only", RIVAL)
        curve = [{"epoch": 0, "step": step, "rows": 50 * step, "loss": {"main": 0.7 - 0.02 * step, "id_only": 0.69}}
                 for step in range(1, 11)]
        valid = [{"epoch": 1, "rows": ROWS, "rankers": {name: {"log_loss": 0.6, "auc": 0.6} for name in ("main", "id_only")}}]
        versions = {name: 0 for name in (*TABLES, "window_train", "window_valid")}
        return {"versions": versions, "features": vars(source), "ranks": 2, "rows": ROWS, "curve": curve, "valid": valid,
                "rows_per_second": 1234.5, "bytes_sent_per_step": 4096,
                "rankers": {name: {"kept_epoch": 1, "trainable": 77, "shared_buckets": {"user_id": 0.25, "illust_id": 0.0}}
                            for name in ("main", "id_only")}}

    write_folder(folder, write)


def save(folder: Path, config: RankerConfig, mean: float = 0.0) -> str:
    torch.manual_seed(0)
    ranker = build_ranker(config, WIDTHS)
    for parameter in ranker.parameters():
        parameter.data.normal_(0.0, 0.3).add_(mean)
    save_ranker(folder, ranker, config, WIDTHS)
    return str(folder)
