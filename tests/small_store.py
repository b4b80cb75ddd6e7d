"""A store with everything that training reads, drawn by numpy: users like illustrations whose semantic vector suits them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from umair.model.ranker import RankerConfig
from umair.storage import Store
from umair.training.inputs import TrainingInputs
from umair.weeks import Week

WEEK = Week(2026, 10)
IMAGE_ENCODER = {"fingerprint": "img", "semantic_width": 4, "style_width": 4}
TEXT_ENCODER = {"fingerprint": "txt", "width": 8}
SMALL = {"user_fields": {"user_id": 128, "username": 16}, "item_fields": {"illust_id": 512, "artist_id": 32},
         "tag_buckets": 64, "tower": (32, 16), "deep": (16, 8), "cross_rank": 4, "cross_experts": 2}
RANKER = RankerConfig(**SMALL, match=True, match_width=8, standardise=True, counters=True, tower_dropout=0.1, deep_dropout=0.1)
RIVAL = RankerConfig(**SMALL, form="dcn_v2", counters=True)


def lists(matrix: np.ndarray, kind: pa.DataType) -> pa.Array:
    rows, width = matrix.shape
    return pa.ListArray.from_arrays(np.arange(0, rows * width + 1, width, dtype=np.int32), pa.array(matrix.ravel(), kind))


def commit(store: Store, name: str, tables: list[pa.Table]) -> None:
    folder = store.staging(name)
    folder.mkdir(parents=True)
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"part-{number}.parquet", row_group_size=300)
    store.commit(name, folder, {"week": str(WEEK), **next_indices(tables)})


def next_indices(tables: list[pa.Table]) -> dict[str, int]:
    """The facts next_<index> of a commit that has no holes."""
    names = [name for name in ("illust_index", "user_index", "tag_index") if name in tables[0].column_names]
    return {f"next_{name}": 1 + max(table[name].to_numpy().max(initial=-1) for table in tables).item() for name in names}


def draw_store(root: Path, *, rows: int = 1_200, files: int = 4, users: int = 60, illustrations: int = 200, tags: int = 20,
               history: int = 6, seed: int = 0, widths: tuple[int, int, int] = (4, 4, 8)) -> Store:
    """Everything is drawn from `seed`; `widths` are those of semantic, style and text vectors."""
    random = np.random.default_rng(seed)
    store = Store(root)
    semantic, style, text = (random.normal(size=(count, width)) for count, width in
                             zip((illustrations, illustrations, tags), widths, strict=True))
    _commit_catalogue(store, random, illustrations, users, tags)
    numbers = np.arange(illustrations)
    commit(store, "image_vectors", [pa.table({
        "illust_index": pa.array(numbers, pa.int32()), "semantic": lists(semantic, pa.float32()),
        "style": lists(style, pa.float32()), "encoder": pa.array(["img"] * illustrations)})])
    commit(store, "text_vectors", [pa.table({"text": [f"tag {tag}" for tag in range(tags)], "vector": lists(text, pa.float32()),
                                             "encoder": pa.array(["txt"] * tags)})])
    taste = random.normal(size=(users, widths[0])) * 6 / np.sqrt(widths[0])
    for split, count in (("train", rows), ("valid", max(rows // 4, files))):
        table = _window(random, taste @ semantic.T, count, tags, history)
        commit(store, f"window_{split}", [table.slice(count * part // files, count * (part + 1) // files - count * part // files)
                                          for part in range(files)])
    return store


def _commit_catalogue(store: Store, random: np.random.Generator, illustrations: int, users: int, tags: int) -> None:
    def number(high: int) -> pa.Array:
        return pa.array(random.integers(0, high, illustrations), pa.int32())

    commit(store, "illustrations", [pa.table({
        "illust_index": pa.array(np.arange(illustrations), pa.int32()), "artist_index": number(20), "width": number(2_000),
        "height": number(2_000), "restrict": number(2), "x_restrict": number(3), "sanity_level": number(7),
        "title": pa.array(["untitled"] * illustrations),
        "tag_indices": lists(random.integers(0, tags, (illustrations, 3)), pa.int32())})])
    commit(store, "users", [pa.table({"user_index": pa.array(np.arange(users), pa.int32()),
                                      "username": [f"user {user}" for user in range(users)]})])
    commit(store, "tags", [pa.table({"tag_index": pa.array(np.arange(tags), pa.int32()),
                                     "tag": [f"tag {tag}" for tag in range(tags)]})])


def _window(random: np.random.Generator, score_UI: np.ndarray, rows: int, tags: int, history: int) -> pa.Table:
    users, illustrations = score_UI.shape
    user, illust = random.integers(0, users, rows), random.integers(0, illustrations, rows)
    label = random.random(rows) < 1 / (1 + np.exp(-score_UI[user, illust]))
    best = np.argsort(score_UI, 1)
    liked = np.stack([random.permuted(best[:, -illustrations // 4:], axis=1)[user, place] for place in range(history)], 1)
    passed = np.stack([random.permuted(best[:, :illustrations // 4], axis=1)[user, place] for place in range(history)], 1)
    interest = random.integers(-1, tags, (2, rows, 5))
    columns = {"user_index": user, "illust_index": illust, "label": label.astype(int), "user_views": random.integers(0, 99, rows),
               "user_bookmarks": random.integers(0, 50, rows), "illust_views": random.integers(0, 9_999, rows),
               "illust_bookmarks": random.integers(0, 999, rows)}
    return pa.table({**{name: pa.array(column, pa.int32()) for name, column in columns.items()},
                     "long_tags": lists(interest[0], pa.int32()), "long_weights": lists(random.random((rows, 5)), pa.float32()),
                     "short_tags": lists(interest[1], pa.int32()), "short_weights": lists(random.random((rows, 5)), pa.float32()),
                     "bookmarked": lists(liked, pa.int32()), "passed": lists(passed, pa.int32())})


def inputs_of(store: Store) -> TrainingInputs:
    tables = [path.name for path in (store.root / "tables").iterdir()]
    return TrainingInputs.of(store, {name: store.snapshot(name).version for name in tables}, IMAGE_ENCODER, TEXT_ENCODER,
                             titles=True)
