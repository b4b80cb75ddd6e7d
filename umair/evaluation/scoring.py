"""Rankers over Spark: every test row scored once by every ranker. Nothing of a row's size comes to the driver.

A Python worker opens the rankers and the memory-mapped features at its first batch and keeps them for its life.
B rows of a batch, M modalities.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from umair.config import fingerprint
from umair.embedding.arrow import vector_column
from umair.errors import ContractError
from umair.model.ranker import Ranker, Scores
from umair.storage import Store, for_spark, read_facts
from umair.training.checkpoint import load_ranker
from umair.training.features import Features, FeatureSource, pack_features
from umair.training.lookup import COLUMNS, lookups_of
from umair.training.loop import MAIN, scored_at_once
from umair.training.reader import Rows, numpy_of

_KEPT = pa.schema([("user_index", pa.int32()), ("illust_index", pa.int32()), ("label", pa.int32()),
                   ("illust_views", pa.int32()), ("illust_bookmarks", pa.int32())])
_WEIGHTS = pa.schema([("has_picture", pa.bool_()), ("contribution", pa.list_(pa.float32())),
                      ("match", pa.list_(pa.float32()))])


@dataclass(frozen=True)
class ScoringPlan:
    """What a Python worker needs in order to score rows; every node sees these paths."""

    root: str  # of the store
    source: FeatureSource
    features: str  # folder for packs, on each node
    rankers: dict[str, str]  # name -> folder; "main" is one of them
    batch_rows: int = 2_048
    threads: int = 1  # of torch, in each Spark task

    @property
    def key(self) -> str:
        return fingerprint([self.root, self.source.key, self.features, self.rankers, self.threads])

    def open_features(self) -> Features:
        """This node's pack, made first when the node has none."""
        return pack_features(Store(self.root), self.source, Path(self.features))


def plan_for(root: str | Path, ranker: str | Path, features: str | Path | None = None) -> ScoringPlan:
    """The plan that scores rows by one ranker, as `score_main`, and opens the packed features of its week.

    `ranker` is the folder that the last line of `jobs/weekly.py` names (`ranker_folder`), `root` that of the configuration,
    `features` its `training.features` where it has one. Raises StorageError and ContractError as `load_ranker`.
    """
    ranker, features = Path(ranker).absolute(), Path(features or Path(root) / "features").absolute()
    source = FeatureSource(**read_facts(ranker.parent)["features"])
    load_ranker(ranker)  # here, and not only in Spark's workers, it is said when it cannot be
    return ScoringPlan(str(Path(root).absolute()), source, str(features), {MAIN: str(ranker)})


def score_window(spark: SparkSession, files: Sequence[str], plan: ScoringPlan) -> DataFrame:
    """Rows with every ranker's probability. `files`: Parquet that all nodes see, with the columns of schema.WINDOW but `at`,
    of a test window or one's own, with indices of the plan's week; `label` is handed on, 0 where nobody knows it. Raises
    ContractError, within Spark's error, for an index beyond the packed features and a label other than 0 and 1.

    user_index, illust_index, label, illust_views, illust_bookmarks int; has_picture boolean; contribution and match
    array<float>, the weights of the ranker named main (empty where it has none); score_<name> double.
    """
    schema = ", ".join(["user_index int, illust_index int, label int, illust_views int, illust_bookmarks int",
                        "has_picture boolean, contribution array<float>, match array<float>",
                        *[f"score_{name} double" for name in plan.rankers]])
    window = spark.read.parquet(*for_spark(*files)).select(*COLUMNS)
    return window.mapInArrow(functools.partial(score_batches, plan=plan), schema)


def score_batches(batches: Iterator[pa.RecordBatch], plan: ScoringPlan) -> Iterator[pa.RecordBatch]:
    """What `mapInArrow` calls: window rows in, the columns of `score_window` out."""
    scorer = None
    for batch in batches:
        scorer = scorer or open_scorer(plan)
        size = min(plan.batch_rows, scorer.at_once)
        for start in range(0, batch.num_rows, size):
            yield scorer.score(batch.slice(start, size))


def require_numbers(rows: DataFrame, rankers: Sequence[str]) -> int:
    """The number of scored rows. Raises ContractError when there is none, or a score is not a number."""
    broken = [F.sum(F.isnan(f"score_{name}").cast("long")).alias(name) for name in rankers]
    counts = rows.agg(F.count("*").alias("all_rows"), *broken).collect()[0].asDict()
    if not counts["all_rows"]:
        raise ContractError("window_test", "no row", "at least one interaction in the week",
                            "look at the events of the week, or widen windows.test_days")
    for name in rankers:
        if counts[name]:
            raise ContractError(f"ranker '{name}'", f"{counts[name]} of {counts['all_rows']} scores that are not numbers",
                                "finite scores", "train it again with a lower learning rate, and look for broken vectors")
    return int(counts["all_rows"])


class Scorer:
    """Rankers and features of one Python worker."""

    def __init__(self, plan: ScoringPlan) -> None:
        torch.set_num_threads(plan.threads)
        self.device = _device()
        self.features = plan.open_features()
        self.rankers: dict[str, Ranker] = {name: load_ranker(Path(folder)).to(self.device).eval()
                                           for name, folder in plan.rankers.items()}
        self.lookups = lookups_of(self.features, self.rankers, self.device)
        self.at_once = scored_at_once([ranker.config for ranker in self.rankers.values()])  # as in validation

    @torch.inference_mode()
    def score(self, window: pa.RecordBatch) -> pa.RecordBatch:
        rows = rows_of(window)
        scores = self._scores(rows)
        columns = [window.column(name).cast(_KEPT.field(name).type) for name in _KEPT.names]
        columns.append(pa.array(self.features.known["semantic"][rows["illust_index"]]))
        columns += [_lists(scores[MAIN].contribution_BM, len(window)), _lists(scores[MAIN].match_BM, len(window))]
        columns += [pa.array(one.logit_B.double().sigmoid().cpu().numpy()) for one in scores.values()]
        return pa.RecordBatch.from_arrays(columns, [*_KEPT.names, *_WEIGHTS.names, *[f"score_{name}" for name in scores]])

    def _scores(self, rows: Rows) -> dict[str, Scores]:
        """One batch is made for all rankers that read alike."""
        batches, scores = {}, {}
        for name, ranker in self.rankers.items():
            lookup = self.lookups[name]
            if lookup.key not in batches:
                batches[lookup.key] = lookup.batch(rows).to(self.device)
            scores[name] = ranker(batches[lookup.key])
        return scores


_OPEN: dict[str, Scorer] = {}  # the one plan that this Python worker serves


def open_scorer(plan: ScoringPlan) -> Scorer:
    if plan.key not in _OPEN:
        _OPEN.clear()
        _OPEN[plan.key] = Scorer(plan)
    return _OPEN[plan.key]


def _device() -> torch.device:
    """The GPU that Spark gave this task, or the CPU."""
    context = TaskContext.get()
    gpus = context.resources().get("gpu") if context else None
    if gpus is None or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(gpus.addresses[0]) if torch.cuda.device_count() > 1 else 0)


def rows_of(window: pa.RecordBatch) -> Rows:
    """An Arrow batch of a window as numpy columns; lists, all of one length, as matrices."""
    return {name: numpy_of(window.column(name)) for name in window.schema.names}


def _lists(weight_BM: torch.Tensor | None, rows: int) -> pa.Array:
    if weight_BM is None:
        return pa.array([[]] * rows, pa.list_(pa.float32()))
    return vector_column(weight_BM.float().cpu().numpy())
