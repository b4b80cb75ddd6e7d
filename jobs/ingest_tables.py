"""Brings a site's raw catalogue, users, events and terms to trusted tables and rejects, as of the week's end.

spark-submit jobs/ingest_tables.py --config conf/local.yaml --week 2026-W10 [section.key=value ...]
"""

from typing import Any

from umair.job import Job, main
from umair.tables.ingest import ingest


def ingest_tables(job: Job) -> dict[str, Any]:
    """Judges all raw tables, then commits what was kept and what was set aside."""
    with job.phase("judge raw tables"):
        ingested = ingest(job.spark, job.config.raw, job.week, job.store)
    with ingested.cache:
        snapshots = [job.commit(name, frame, **ingested.facts.get(name, {})) for name, frame in ingested.frames.items()]
    return {"versions": {snapshot.name: snapshot.version for snapshot in snapshots},
            "rows": {snapshot.name: snapshot.rows for snapshot in snapshots},
            "raw": {name: counted.as_facts() for name, counted in ingested.tallies.items()}}


if __name__ == "__main__":
    main(ingest_tables)
