"""What is evaluated: a week's rankers, the exact table versions they were trained on, and what is said of their making."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from umair.errors import UmairError
from umair.evaluation.figures import LAST_WEEK
from umair.evaluation.scoring import ScoringPlan
from umair.picture import PictureLimits
from umair.schema import ILLUSTRATIONS, IMAGE_REJECTS, INGEST_REJECTS, USERS, window_table
from umair.storage import Snapshot, Store, read_facts
from umair.training.checkpoint import load_ranker
from umair.training.loop import MAIN
from umair.training.packing import FeatureSource
from umair.weeks import Week

log = logging.getLogger("umair.evaluation")
_COUNTED = ("events", INGEST_REJECTS, IMAGE_REJECTS)  # tables beside those that rankers are trained on


@dataclass(frozen=True)
class Subject:
    """Everything that `evaluate` reads. `training` is facts.json of the rankers' folder."""

    week: str
    plan: ScoringPlan
    files: Mapping[str, Sequence[str]]  # of the tables window_train, window_test, illustrations, users
    training: dict[str, Any]
    image_root: str
    limits: PictureLimits = field(default_factory=PictureLimits)  # of thumbnails
    rows: dict[str, int] = field(default_factory=dict)  # by table
    versions: dict[str, int] = field(default_factory=dict)  # by table
    seconds: dict[str, float] = field(default_factory=dict)  # by finished step
    commit: str = "unknown"  # of umair

    @property
    def ranker_before(self) -> str | None:
        """Week and key of the ranker before it, `2026-W10/0123456789ab`; None where none is compared."""
        folder = self.plan.rankers.get(LAST_WEEK)
        return None if folder is None else "/".join(Path(folder).parts[-3:-1])


def rankers_of(folder: Path, earlier: Sequence[Path]) -> dict[str, str]:
    """Name -> folder: the ranker, its rivals, and as the one before it the first of `earlier` that can be compared: that
    is there, reads the same vectors and can be loaded. A warning says, once a reason, why those before it cannot, and where
    none can that the verdict is without a comparison."""
    facts = read_facts(folder)
    rankers = {MAIN: str(folder / MAIN), **{name: str(folder / name) for name in facts["rankers"] if name != MAIN}}
    told = set[str]()
    for before in earlier:
        hindrance = _hindrance(before, facts)
        if hindrance is None:
            return {**rankers, LAST_WEEK: str(before / MAIN)}
        if hindrance not in told:
            log.warning("the ranker in %s is not compared: %s", before, hindrance)
        told.add(hindrance)
    if earlier:
        log.warning("no ranker of an earlier week can be compared: the verdict does not ask whether this one is worse")
    return rankers


def _hindrance(before: Path, facts: dict[str, Any]) -> str | None:
    """Why the ranker in `before` cannot score what those of `facts` score."""
    if not (before / "facts.json").is_file():
        return "it is not there any more"
    known, own = read_facts(before)["features"], facts["features"]
    differs = [name for name in ("image_encoder", "text_encoder", "widths", "titles") if known.get(name) != own[name]]
    if differs:
        return f"it reads other vectors ({', '.join(differs)})"
    try:
        load_ranker(before / MAIN)
    except UmairError as error:  # of another version of this package
        return f"found {error.found}"
    return None


def rankers_before(store: Store, week: Week, key: str, windows: str) -> list[Path]:
    """Folders of the rankers that weeks before this one left on windows of such a configuration (`windows`: its
    fingerprint), since others may reach into the rows that are now a test, or have other labels. Accepted ones come first,
    of the latest week first, in a week the one of `key`, then the newest: so a changed ranker is compared with what came
    before it, and a rejected one, or one that nobody judged, only where there is no accepted one."""
    lines = [line for earlier in store.weeks() if earlier < str(week) for line in store.steps_of(earlier)]
    accepted = {(line.week, Path(line.outputs["ranker"]).parent.name) for line in lines if line.step == "evaluate_ranker"
                and "ranker" in line.outputs and line.outputs.get("exit_code") == 0}
    trained = [line for line in lines if line.step == "train_ranker"
               and (line.key == key or line.outputs.get("windows") == windows)]
    trained.sort(key=lambda line: ((line.week, line.key) in accepted, line.week, line.key == key, line.finished_at),
                 reverse=True)
    return [store.model_folder(f"rankers/{line.week}", line.key) for line in trained]


def subject_of(store: Store, week: Week, versions: dict[str, int], rankers: dict[str, str], features: Path, batch_rows: int,
               threads: int, **told: Any) -> Subject:
    """The subject of one week. `versions` of tables are those that this week's steps left; `told` goes on to Subject:
    image_root, limits, seconds, commit.

    Raises StorageError for a missing table or ranker.
    """
    training = read_facts(Path(rankers[MAIN]).parent)
    snapshots = {name: store.snapshot(name, version) for name, version in training["versions"].items()}
    test = window_table("test")
    snapshots |= {name: store.snapshot(name, versions[name]) for name in (test, *_COUNTED) if name in versions}
    plan = ScoringPlan(str(store.root), FeatureSource(**training["features"]), str(features), rankers, batch_rows, threads)
    files = {name: snapshots[name].files for name in (window_table("train"), test, ILLUSTRATIONS.name, USERS.name)}
    return Subject(str(week), plan, files, training, rows=_rows(snapshots),
                   versions={name: snapshot.version for name, snapshot in snapshots.items()}, **told)


def _rows(snapshots: dict[str, Snapshot]) -> dict[str, int]:
    return {name.removeprefix("window_"): snapshot.rows for name, snapshot in snapshots.items()}
