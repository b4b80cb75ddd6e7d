"""What is evaluated: a week's rankers, the exact table versions they were trained on, and what is said of their making."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from umair.evaluation.figures import LAST_WEEK
from umair.evaluation.scoring import ScoringPlan
from umair.picture import PictureLimits
from umair.schema import ILLUSTRATIONS, IMAGE_REJECTS, INGEST_REJECTS, USERS, window_table
from umair.storage import Snapshot, Store, read_facts
from umair.training.loop import MAIN
from umair.training.packing import FeatureSource
from umair.weeks import Week

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


def rankers_of(folder: Path, last_week: Sequence[Path]) -> dict[str, str]:
    """Name -> folder: the ranker, its rivals, and as last week's ranker the first of `last_week` that is there and reads the
    same vectors."""
    facts = read_facts(folder)
    rankers = {MAIN: str(folder / MAIN), **{name: str(folder / name) for name in facts["rankers"] if name != MAIN}}
    for before in last_week:
        if (before / "facts.json").is_file() and _vectors(read_facts(before)) == _vectors(facts):
            return {**rankers, LAST_WEEK: str(before / MAIN)}
    return rankers


def _vectors(facts: dict[str, Any]) -> list[Any]:
    return [facts["features"][name] for name in ("image_encoder", "text_encoder", "widths")]


def rankers_left_by(store: Store, week: Week, key: str) -> list[Path]:
    """Folders of the rankers that a week's runs left, of whatever configuration: accepted ones first, among them the one of
    `key`, then the newest. So a changed configuration is compared with what came before it, and a rejected ranker with
    nothing while there is another."""
    lines = store.steps_of(str(week))
    accepted = {Path(line.outputs["ranker"]).parent.name for line in lines
                if line.step == "evaluate_ranker" and line.outputs["exit_code"] == 0 and "ranker" in line.outputs}
    trained = sorted((line for line in lines if line.step == "train_ranker"), reverse=True,
                     key=lambda line: (line.key in accepted, line.key == key, line.finished_at))
    return [store.model_folder(f"rankers/{week}", line.key) for line in trained]


def subject_of(store: Store, week: Week, versions: dict[str, int], rankers: dict[str, str], features: Path, batch_rows: int,
               threads: int, **told: Any) -> Subject:
    """The subject of one week. `versions` of tables are those that this week's steps left; `told` goes on to Subject:
    image_root, limits, seconds.

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
