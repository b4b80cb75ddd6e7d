"""Draws a whole world into a folder: raw tables and pictures as a site would hand them over, and the truth beside them.

    catalogue/part-0.jsonl   users.csv   events/part-0.parquet   terms.csv   images/000/100000004.jpg ...
    truth/events.parquet (schema.TRUTH)   truth/users.parquet   truth/illustrations.parquet   truth/damage.json
    facts.json               counts, shares, seconds, and the fingerprints of the configuration and of the code that drew it

The folder appears whole or not at all. The same configuration gives the same bytes, whatever the number of workers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from umair.config import fingerprint
from umair.errors import ConfigError, StorageError
from umair.evidence import code_digest
from umair.metrics import auc
from umair.storage import read_facts, write_folder
from umair.world.config import DamageConfig, WorldConfig
from umair.world.damage import PICTURE_KINDS, broken_catalogue_rows, choose_pictures, damage_counts, with_broken_events
from umair.world.events import Truth, Views, draw_truth, draw_views
from umair.world.factors import Illustrations, draw_illustrations
from umair.world.files import (
    catalogue_row,
    clean_event_rows,
    write_catalogue,
    write_events,
    write_terms,
    write_truth,
    write_users,
)
from umair.world.gallery import write_pictures
from umair.world.users import Users, draw_users

__all__ = ["DamageConfig", "WorldConfig", "draw_world"]
log = logging.getLogger("umair.world")
CODE = "world"  # the folder of the package whose code says what is drawn


def draw_world(config: WorldConfig, out: Path, workers: int = 1) -> dict[str, Any]:
    """Draws the world into `out` with that many processes for the pictures, and returns its facts.

    A world of the same configuration that is already there is kept (`kept` is true in what is returned), with a warning
    where other code drew it: weeks may already be built on it.
    Raises ConfigError when `out` holds anything else, StorageError when it cannot be written.
    """
    facts = _kept(config, out)
    if facts:
        log.info("%s: this world is already drawn, nothing to do", out)
        return {**facts, "kept": True}
    try:
        return {**write_folder(out, lambda folder: _draw(config, folder, workers)), "kept": False}
    except OSError as error:
        raise StorageError(str(out), f"a write that failed ({error})", "a writable folder with free space",
                           "free some space or choose another folder, then run again") from error


def _kept(config: WorldConfig, out: Path) -> dict[str, Any] | None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / "facts.json").is_file() or "fingerprint" not in read_facts(out):
        raise ConfigError(str(out), "a file or folder that is no drawn world", "a new or empty folder",
                          "choose another folder; nothing was touched")
    facts = read_facts(out)
    if facts["fingerprint"] != fingerprint(config):
        raise ConfigError(str(out), f"a world of another configuration ({facts['fingerprint']})",
                          f"a new folder, or the world {fingerprint(config)}", "remove that folder or choose another")
    if facts.get("code") != code_digest(CODE):
        log.warning("%s: this world was drawn by other code than umair's present one, so that figures may differ from its "
                    "documents'; it is kept. Remove the folder to have it drawn again", out)
    return facts


def _draw(config: WorldConfig, folder: Path, workers: int) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    with _timed(seconds, "factors"):
        illustrations, users = draw_illustrations(config), draw_users(config)
    with _timed(seconds, "events"):
        views = draw_views(config, illustrations, users)
        truth = draw_truth(config, illustrations, users, views)
        counts = damage_counts(config, len(views) + int(truth.bookmarked.sum()))
    with _timed(seconds, "tables"):
        tables = _write_tables(config, folder, illustrations, users, views, truth, counts)
    with _timed(seconds, "pictures"):
        write_pictures(config, folder, illustrations, choose_pictures(config, counts), workers)
    return {"fingerprint": fingerprint(config), "code": code_digest(CODE), **tables,
            **_shares(config, illustrations, views, truth), "damage": counts, "seconds": seconds}


def _write_tables(config: WorldConfig, folder: Path, illustrations: Illustrations, users: Users, views: Views,
                  truth: Truth, counts: dict[str, int]) -> dict[str, int]:
    clean = clean_event_rows(illustrations, users, views, truth)
    events = with_broken_events(config, clean, counts)
    first = [catalogue_row(config, illustrations, index) for index in range(min(100, len(illustrations)))]
    broken = broken_catalogue_rows(first, counts)
    write_catalogue(config, folder, illustrations, broken)
    write_users(config, folder, users)
    write_events(folder, events)
    write_truth(folder, illustrations, users, views, truth, choose_pictures(config, counts), counts)
    files = len(illustrations) - counts[PICTURE_KINDS[-1]]
    return {"illustrations": len(illustrations), "picture_files": files, "catalogue_rows": len(illustrations) + len(broken),
            "users": len(users), "artists": config.artists, "views": len(views), "bookmarks": int(truth.bookmarked.sum()),
            "event_rows": len(events), "terms": write_terms(folder)}


def _shares(config: WorldConfig, illustrations: Illustrations, views: Views, truth: Truth) -> dict[str, float]:
    """Over the clean views: share of bookmarks, best possible AUC, and share of views of new illustrations."""
    last_week = views.at >= config.end - 7 * 86_400
    age = views.at[last_week] - illustrations.created[views.illust[last_week]]
    return {"bookmark_share": round(float(truth.bookmarked.mean()), 4),
            "ceiling_auc": round(auc(truth.bookmarked, truth.probability), 4),
            "fresh_share": round(float(np.mean(age < config.fresh_days * 86_400)), 4)}


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - started, 3)
