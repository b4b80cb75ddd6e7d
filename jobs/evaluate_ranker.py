"""Evaluates the week's ranker on the test window, beside its rivals, popularity and the ceiling: report and verdict.

spark-submit jobs/evaluate_ranker.py --config conf/local.yaml --week 2026-W10 [section.key=value ...]
"""

from typing import Any

from umair.config import fingerprint
from umair.evaluation.report import evaluate, write_report
from umair.evaluation.subject import rankers_before, rankers_of, subject_of
from umair.job import ACCEPTED, PLAN, REJECTED, Job, log, main, require_finished
from umair.training.loop import MAIN


def evaluate_ranker(job: Job) -> dict[str, Any]:
    """Writes report.json and index.html; a rejected ranker ends the job with its own exit code."""
    require_finished(job, "train_ranker")
    config, folder = job.config.evaluation, job.model_folder("train_ranker")
    windows = fingerprint(job.config.windows)
    rankers = rankers_of(folder, rankers_before(job.store, job.week, job.key("train_ranker"), windows))
    seconds = {step: done.seconds for step in PLAN if (done := job.finished(step))}
    subject = subject_of(job.store, job.week, job.versions, rankers,
                         job.config.training.feature_folder(job.store.root), config.batch_rows, config.threads,
                         image_root=job.config.raw.image_root, limits=job.config.embed_images.limits, seconds=seconds,
                         commit=job.made_by)
    with job.phase("evaluate"):
        report, page = evaluate(job.spark, subject, config)
    with job.phase("write"):
        path = write_report(job.store.root, str(job.week), report, page)
    log.info("%s: %s Report: %s, ranker: %s", report["verdict"], " ".join(report["reasons"]), path, rankers[MAIN])
    lists = ("slices", "calibration", "intervals")
    return {"exit_code": ACCEPTED if report["verdict"] == "accept" else REJECTED, "report": str(path),
            "ranker": rankers[MAIN],
            "figures": {name: value for name, value in report.items() if name not in lists}}


if __name__ == "__main__":
    main(evaluate_ranker)
