"""Turns events into labelled rows that know nothing of their future: window_train, window_valid, window_test."""

from __future__ import annotations

from typing import Any

from umair.job import Job, main, require_finished
from umair.schema import window_table
from umair.windows import build


def build_windows(job: Job) -> dict[str, Any]:
    """Builds and commits the three splits; returns their facts and versions."""
    require_finished(job, "ingest_tables")
    config = job.config.windows
    bounds = build.split_bounds(job.week, config)
    with job.phase("build"):
        windows = build.build_windows(job.read("events"), job.read("illustrations"), config, job.week)
        facts = build.describe_windows(windows)
        build.require_both_classes(facts)
    outputs: dict[str, Any] = {"versions": {}}
    for split, rows in windows.items():
        start, end = bounds[split]
        told = {**facts[split], "start": start.isoformat(), "end": end.isoformat()}
        outputs["versions"][window_table(split)] = job.commit(window_table(split), rows, **told).version
        outputs[split] = told
    job.spark.catalog.clearCache()  # the rows that the three splits shared
    return outputs


if __name__ == "__main__":
    main(build_windows)
