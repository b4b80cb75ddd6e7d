"""The files of a world: raw tables as a site hands them over (umair.schema), and the truth that only evaluation reads."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from umair.world.config import WorldConfig
from umair.world.damage import BROKEN_TIMES, EVENT_NAMES, FINE, NULL_ID, PICTURE_KINDS, EventRows
from umair.world.events import Truth, Views
from umair.world.factors import TERMS, Illustrations, Ints
from umair.world.gallery import image_path
from umair.world.pictures import ASPECTS, LAYOUTS
from umair.world.scenes import MOTIFS
from umair.world.users import Users
from umair.world.words import FIRST_SCENE, LANGUAGES, term_pairs, title

ROWS_AT_ONCE = 1 << 19  # keeps memory flat
FIRST_ARTIST_ID = 500_000
_NAMES = ("aoi", "mei", "lin", "sora", "nova", "yuki", "kit", "rin", "momo", "leo", "hana", "wei")
_EVENTS = pa.schema([("user_id", pa.int64()), ("illust_id", pa.int64()), ("kind", pa.string()), ("at", pa.string())])


def moment_texts(seconds: Ints) -> list[str]:
    """Seconds since 1970 as 2026-01-05T10:00:00Z."""
    texts: list[str] = np.datetime_as_string(seconds.astype("datetime64[s]"), timezone="UTC").tolist()
    return texts


def catalogue_row(config: WorldConfig, illustrations: Illustrations, index: int) -> dict[str, Any]:
    """One illustration as the catalogue shows it."""
    illust_id = int(illustrations.illust_id[index])
    rng = np.random.default_rng([config.seed, 8, index])
    scale, aspect = int(rng.integers(8, 20)) * 100, ASPECTS[int(illustrations.aspect[index])]
    return {"illust_id": illust_id, "artist_id": FIRST_ARTIST_ID + int(illustrations.artist[index]),
            "title": _title(illustrations, index), "tags": illustrations.tags_of(index),
            "image": image_path(index, illust_id), "created_at": moment_texts(illustrations.created[index:index + 1])[0],
            "width": round(scale * min(1.0, aspect)), "height": round(scale / max(1.0, aspect)),
            "restrict": int(rng.random() < 0.03), "x_restrict": int(rng.random() < 0.02),
            "sanity_level": int(rng.choice([2, 4, 6], p=[0.9, 0.08, 0.02]))}


def _title(illustrations: Illustrations, index: int) -> str:
    second, scene = int(illustrations.second[index]), FIRST_SCENE + int(illustrations.scene[index])
    form = int(illustrations.title_form[index])
    other = second if form == 0 and illustrations.second_count[index] else scene
    return title(LANGUAGES[illustrations.title_language[index]], form, int(illustrations.first[index]), other)


def write_catalogue(config: WorldConfig, folder: Path, illustrations: Illustrations,
                    broken: list[dict[str, Any]]) -> None:
    """catalogue/part-0.jsonl: the clean rows, oldest first, then the broken ones."""
    (folder / "catalogue").mkdir()
    with (folder / "catalogue" / "part-0.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for index in range(len(illustrations)):
            file.write(json.dumps(catalogue_row(config, illustrations, index), ensure_ascii=False) + "\n")
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in broken)


def write_users(config: WorldConfig, folder: Path, users: Users) -> None:
    """users.csv."""
    names = np.random.default_rng([config.seed, 9]).integers(0, len(_NAMES), len(users))
    rows = [(int(user_id), f"{_NAMES[name]}_{user_id % 10_000}") for user_id, name in zip(users.user_id, names, strict=True)]
    _write_csv(folder / "users.csv", ("user_id", "username"), rows)


def write_terms(folder: Path) -> int:
    """terms.csv; returns the number of pairs."""
    rows = list(term_pairs())
    _write_csv(folder / "terms.csv", ("lang_a", "text_a", "lang_b", "text_b", "kind"), rows)
    return len(rows)


def _write_csv(path: Path, header: tuple[str, ...], rows: list[Any]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def clean_event_rows(illustrations: Illustrations, users: Users, views: Views, truth: Truth) -> EventRows:
    """All views and bookmarks in order of time."""
    marked = np.flatnonzero(truth.bookmarked)
    source = np.concatenate([np.arange(len(views)), marked])
    at = np.concatenate([views.at, truth.bookmarked_at[marked]])
    kinds = np.array([EVENT_NAMES.index("view"), EVENT_NAMES.index("bookmark")], np.int8)
    kind = np.repeat(kinds, [len(views), len(marked)])
    rows = EventRows(users.user_id[views.user[source]], illustrations.illust_id[views.illust[source]], kind, at,
                     np.full(len(at), FINE, np.int8))
    return rows.taken(np.argsort(at, kind="stable"))


def write_events(folder: Path, rows: EventRows) -> None:
    """events/part-0.parquet; `at` is text, so that broken ones can be there."""
    (folder / "events").mkdir()
    with pq.ParquetWriter(folder / "events" / "part-0.parquet", _EVENTS, compression="zstd") as writer:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            writer.write_table(_event_table(rows.taken(np.arange(start, min(len(rows), start + ROWS_AT_ONCE)))))


def _event_table(rows: EventRows) -> pa.Table:
    at = np.array(moment_texts(rows.at), dtype=object)
    bad = rows.broken != FINE
    at[bad] = np.array(BROKEN_TIMES, dtype=object)[rows.broken[bad]]
    user_id, illust_id = (pa.array(ids, mask=ids == NULL_ID) for ids in (rows.user_id, rows.illust_id))
    kind = pa.array(np.array(EVENT_NAMES, dtype=object)[rows.kind])
    return pa.table([user_id, illust_id, kind, pa.array(at)], schema=_EVENTS)


def write_truth(folder: Path, illustrations: Illustrations, users: Users, views: Views, truth: Truth,
                damage: NDArray[np.int8], counts: dict[str, int]) -> None:
    """truth/: what the pipeline has to find out, and may not read."""
    (folder / "truth").mkdir()
    events = {"user_id": users.user_id[views.user], "illust_id": illustrations.illust_id[views.illust],
              "probability": truth.probability}
    pq.write_table(pa.table(events), folder / "truth" / "events.parquet", compression="zstd")
    weights = {f"weight_{term}": users.weight[:, each] for each, term in enumerate(TERMS)}
    pq.write_table(pa.table({
        "user_id": users.user_id, "bias": users.bias, **weights, "style_taste": list(users.style_taste),
        "content_taste": list(users.content_taste), "tag_taste": list(users.tag_taste),
        "favourite_artists": list(FIRST_ARTIST_ID + users.favourites),
    }), folder / "truth" / "users.parquet", compression="zstd")
    table = _illustration_truth(illustrations, damage)
    pq.write_table(table, folder / "truth" / "illustrations.parquet", compression="zstd")
    (folder / "truth" / "damage.json").write_text(json.dumps(counts, indent=1), encoding="utf-8")


def _illustration_truth(illustrations: Illustrations, damage: NDArray[np.int8]) -> pa.Table:
    depicted = [illustrations.depicted(index) for index in range(len(illustrations))]
    broken = np.array([*PICTURE_KINDS, None], dtype=object)[damage]
    return pa.table({
        "illust_id": illustrations.illust_id, "depicted": depicted,
        "concepts": [each[each >= 0] for each in illustrations.concepts],  # that its tags name: tastes are of these
        "first": illustrations.first,
        "first_count": illustrations.first_count, "second": illustrations.second,
        "second_count": illustrations.second_count, "scene": illustrations.scene,
        "layout": np.array(LAYOUTS)[illustrations.layout],
        "motif": np.array(MOTIFS)[illustrations.motif], "tilt": illustrations.tilt,
        "artist_id": FIRST_ARTIST_ID + illustrations.artist,
        "style": list(illustrations.style), "content": list(illustrations.content),
        "popularity": illustrations.popularity, "damage": pa.array(broken, pa.string())})
