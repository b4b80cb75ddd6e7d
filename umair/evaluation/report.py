"""A week's evaluation: scores, measures, intervals and verdict, written as report.json and index.html."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from umair.config import PlainPath
from umair.evaluation import examples, figures, plots
from umair.evaluation.comparison import PairedAucs, resample_users
from umair.evaluation.content import NO_CONTENT, circumstances, content_sentences
from umair.evaluation.contributions import read_true_weights, user_weights
from umair.evaluation.examples import ExamplesConfig
from umair.evaluation.figures import VerdictConfig, name_of
from umair.evaluation.page import Illustrated, render
from umair.evaluation.references import (
    BOOKMARK_RATE,
    POPULARITY,
    RANK_ONLY,
    add_baselines,
    add_ceiling,
    read_truth,
    require_whole_ceiling,
)
from umair.evaluation.scoring import require_numbers, score_window
from umair.evaluation.slices import SLICES, calibration, mark_slices, score_columns, slice_figures
from umair.evaluation.subject import Subject
from umair.metrics import Calibration
from umair.storage import for_spark, write_atomically
from umair.training.checkpoint import load_ranker
from umair.training.loop import MAIN

log = logging.getLogger("umair.evaluation")
PACKAGES = ("pyspark", "torch", "horovod", "petastorm", "sentence-transformers", "transformers", "pillow", "pyarrow",
            "deltalake", "numpy")
_HASHES = 1_000_000  # into which users are hashed for a sample


class EvaluationConfig(VerdictConfig):
    """What a report measures and shows, and when a ranker is turned down."""

    truth: PlainPath | None = None  # folder with a drawn world's truth; only the evaluation reads it
    tail_quantile: float = Field(0.8, gt=0, lt=1)  # of training rows per illustration that has any; above
    #                                             it is the head, below it the tail
    prior_views: float = Field(10.0, gt=0)  # views at the base rate that the bookmark-rate baseline starts with
    calibration_bins: int = Field(20, ge=2)  # of equal width, from probability 0 to 1
    intervals: int = Field(500, ge=20)  # resamplings of the users
    confidence: float = Field(0.95, gt=0.5, lt=1)  # of intervals
    interval_rows: int = Field(300_000, ge=100)  # on the driver; of more test rows, those of a random sample of users
    seed: int = 0  # of resamplings and of the sample of users
    batch_rows: int = Field(2_048, gt=0)  # scored at once; fewer where a ranker's scores depend on it (`batch_mean`)
    threads: int = Field(1, gt=0)  # of torch, in each Spark task
    examples: ExamplesConfig = ExamplesConfig()


def evaluate(spark: SparkSession, subject: Subject, config: EvaluationConfig) -> tuple[dict[str, Any], str]:
    """report.json as a dict, and index.html as a text.

    Raises ContractError: no test row, scores that are not numbers, a truth that does not know every test row.
    """
    started = time.perf_counter()
    rows = _score(spark, subject, config).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        total = require_numbers(rows, list(subject.plan.rankers))
        if config.truth:
            require_whole_ceiling(rows, config.truth)
        scoring = time.perf_counter() - started
        log.info("%s test rows scored by %s in %.1f s", f"{total:,}", ", ".join(subject.plan.rankers), scoring)
        calibrated = calibration(rows, MAIN, config.calibration_bins)
        measures = _measure(rows, total, list(subject.plan.rankers), config)
        content = _weigh_content(spark, subject, measures, config)
        shown, told = _illustrate(spark, rows, subject, calibrated, config)
    finally:
        rows.unpersist()
    report = {"week": subject.week, **measures, "content": content,
              "calibration": figures.calibration_values(calibrated), **told, "rankers": list(subject.plan.rankers),
              "ranker_before": subject.ranker_before,
              "rows": {**subject.rows, "test": total}, "ranks": subject.training["ranks"],
              "ranker": _ranker_facts(subject.training, total / scoring),
              "versions": {"packages": _packages(subject.commit), "tables": subject.versions},
              "seconds": {**subject.seconds, "evaluate_ranker": round(time.perf_counter() - started, 3)}}
    return report, render(report, shown)


def write_report(root: Path, week: str, report: dict[str, Any], page: str) -> Path:
    """Writes both files to `<root>/report/<week>/` and, as the newest report, to `<root>/report/`; returns the page."""
    text = json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False)
    for folder in (root / "report" / week, root / "report"):
        write_atomically(folder / "report.json", text)
        write_atomically(folder / "index.html", page)
    return root / "report" / week / "index.html"


def _score(spark: SparkSession, subject: Subject, config: EvaluationConfig) -> DataFrame:
    """Test rows with the scores of rankers and references, and their slices."""
    training = spark.read.parquet(*for_spark(*subject.files["window_train"])).select("illust_index", "label")
    base_rate = training.agg(F.avg("label")).collect()[0][0] or 0.0
    rows = add_baselines(score_window(spark, subject.files["window_test"], subject.plan), base_rate, config.prior_views)
    rows = mark_slices(rows.drop("illust_views", "illust_bookmarks"), training, config.tail_quantile)
    if not config.truth:
        return rows
    users, illustrations = (spark.read.parquet(*for_spark(*subject.files[name])) for name in ("users", "illustrations"))
    return add_ceiling(rows, read_truth(spark, config.truth, users, illustrations))


def _measure(rows: DataFrame, total: int, rankers: list[str], config: EvaluationConfig) -> dict[str, Any]:
    found = slice_figures(rows, RANK_ONLY)
    sample, paired = _resample(rows, total, config)
    lines = figures.measure_lines(found, paired)
    against = [name for name in rankers if name != MAIN] + [POPULARITY, BOOKMARK_RATE]
    gaps = figures.differences(paired, against)
    verdict, reasons = figures.judge(lines, gaps, config)
    return {**figures.headline(lines), "verdict": verdict, "reasons": reasons, "slices": lines,
            "tail_quantile": config.tail_quantile,
            "intervals": {"confidence": config.confidence, "replicates": config.intervals,
                          "rows": sample, "sampled": sample < total, "differences": gaps}}


def _weigh_content(spark: SparkSession, subject: Subject, measures: dict[str, Any], config: EvaluationConfig) -> list[str]:
    """What pictures and texts are worth, in sentences; none without a rival that does without them."""
    if NO_CONTENT not in subject.plan.rankers:
        return []
    test, training = (spark.read.parquet(*for_spark(*subject.files[f"window_{split}"])) for split in ("test", "train"))
    return content_sentences(measures["slices"], measures["intervals"]["differences"], circumstances(test, training),
                             config.confidence)


def _resample(rows: DataFrame, total: int, config: EvaluationConfig) -> tuple[int, dict[str, PairedAucs]]:
    """The number of rows that intervals come from, and the resampled AUCs by slice."""
    share = min(1.0, config.interval_rows / total)
    names = score_columns(rows)
    place = F.pmod(F.xxhash64("user_index", F.lit(config.seed)), F.lit(_HASHES))
    sample = (rows.filter(place < F.lit(int(share * _HASHES)))  # whole users, since intervals resample users
              .select("user_index", "label", *[f"score_{name}" for name in names],
                      *[F.array_contains("slices", part).alias(part) for part in SLICES]).toPandas())
    paired = {}
    for part in SLICES:
        mine = sample[sample[part]]
        if len(mine):
            paired[part] = resample_users(
                mine["user_index"].to_numpy(), mine["label"].to_numpy(),
                {name: mine[f"score_{name}"].to_numpy(np.float64) for name in names},
                replicates=config.intervals, confidence=config.confidence, seed=config.seed)
    return len(sample), paired


def _illustrate(spark: SparkSession, rows: DataFrame, subject: Subject, calibrated: Calibration, config: EvaluationConfig
                ) -> tuple[Illustrated, dict[str, Any]]:
    """What the page shows beyond the measures, and what report.json says of it."""
    users, illustrations = (spark.read.parquet(*for_spark(*subject.files[name])) for name in ("users", "illustrations"))
    main = load_ranker(Path(subject.plan.rankers[MAIN]))
    modalities = main.modalities if main.config.contribution == "attention" else ()
    true = read_true_weights(spark, config.truth, users) if config.truth else None
    people, columns, weights = examples.weight_examples(user_weights(rows, modalities, main.matched), true, config.examples)
    features = subject.plan.open_features()
    pool = examples.choose_pool(features, config.examples)
    near = examples.neighbour_facts(features, pool, config.examples)
    pictures = examples.neighbour_examples(features, pool, illustrations, subject.image_root, subject.limits,
                                           config.examples)
    shown = Illustrated(training=_training_plot(subject.training), users=people, weight_columns=columns, examples=pictures,
                        calibration=plots.calibration_plot(calibrated))
    return shown, {"contribution": weights, "neighbours": near}


def _training_plot(training: dict[str, Any]) -> str:
    """Each ranker's loss along the rows seen over all epochs, and its validation loss after the epoch that was kept."""
    names = sorted(training["rankers"], key=lambda name: name != MAIN)  # the ranker itself first
    lines = {name_of(name): [(point["epoch"] * training["rows"] + point["rows"], point["loss"][name])
                             for point in training["curve"]] for name in names}
    kept = {name_of(name): line["rankers"][name]["log_loss"] for line in training["valid"] for name in names
            if line["epoch"] == training["rankers"][name]["kept_epoch"]}
    return plots.training_curve(lines, kept)


def _ranker_facts(training: dict[str, Any], scored_per_second: float) -> dict[str, Any]:
    """Rates count a row once, however many rankers read it; a gradient's bytes are those of all of them."""
    own = training["rankers"][MAIN]
    return {"weights": own["trainable"], "trained_rows_per_second": round(training["rows_per_second"]),
            "scored_rows_per_second": round(scored_per_second), "bytes_sent_per_step": training["bytes_sent_per_step"],
            "shared_buckets": own["shared_buckets"]}


def _packages(commit: str) -> dict[str, str]:
    found = {"umair": commit, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
