"""Embeds new and changed pictures: semantic and style vectors, and the pictures that were set aside.

spark-submit jobs/embed_images.py --config conf/local.yaml --week 2026-W10 [section.key=value ...]
"""

import contextlib
from typing import Any

from pyspark.sql import DataFrame

from umair.embedding.drift import MODALITIES, measure_drift, require_coverage
from umair.embedding.images import (
    EmbeddingRun,
    count_pictures,
    count_vectors,
    embedded_pictures,
    pictures_to_embed,
    withdrawn_pictures,
)
from umair.job import Job, log, main, require_finished
from umair.picture_files import require_root
from umair.schema import ILLUSTRATIONS, IMAGE_REJECTS, IMAGE_VECTORS
from umair.storage import read_facts


def embed_images(job: Job) -> dict[str, Any]:
    """Embeds what this encoder has not tried yet; with nothing to embed it commits nothing."""
    require_finished(job, "ingest_tables", "pretrain_image_encoder")
    folder, config = job.model_folder("pretrain_image_encoder"), job.config.embed_images
    root = require_root(job.config.raw.image_root)
    encoder = config.named(read_facts(folder))["fingerprint"]
    illustrations = job.read(ILLUSTRATIONS.name)
    vectors, rejects = job.read_newest(IMAGE_VECTORS.name), job.read_newest(IMAGE_REJECTS)
    todo = pictures_to_embed(illustrations, vectors, rejects, root, encoder, config)
    latest = job.store.latest_week(IMAGE_VECTORS.name)  # later weeks' pictures are no withdrawn ones
    gone = None if latest is None or vectors is None or rejects is None else withdrawn_pictures(
        illustrations, vectors, rejects, absent=latest <= str(job.week))
    counted = count_pictures(illustrations)
    expected = max(0, counted["with_picture"] - count_vectors(vectors, encoder))  # changed ones are few beside the new
    run = EmbeddingRun(folder, root, config, job.store.unfinished("embed_images"), expected)
    with contextlib.ExitStack() as work:
        with job.phase("embed"):
            embedded = work.enter_context(embedded_pictures(todo, vectors, rejects, gone, run))
        with job.phase("write"):
            for name, update in embedded.updates.items():
                job.commit(name, update.frame, append=update.append, encoder=encoder)
    facts = {**embedded.facts, **counted}
    tried = facts["rows"]
    log.info("pictures: %d new, %d changed, %d retried, of which %d set aside and %d taken over from a run that was killed; "
             "%d withdrawn, %d known, %d illustrations without", *tried.values(), sum(facts["rejects"].values()),
             facts["resumed"], facts["withdrawn"] + facts["withdrawn_rejects"],
             facts["with_picture"] - sum(tried.values()), facts["without_picture"])
    before = job.encoder_before("embed_images", encoder)
    if before is not None:
        facts["new_encoder"] = _compare_encoders(job, illustrations, before, encoder)
    made = [job.store.snapshot(name) for name in (IMAGE_VECTORS.name, IMAGE_REJECTS) if job.store.exists(name)]
    return {"encoder": encoder, **facts, "versions": {snapshot.name: snapshot.version for snapshot in made}}


def _compare_encoders(job: Job, illustrations: DataFrame, before: str, after: str) -> dict[str, Any]:
    """What the new encoder changes, for the ledger; stops the week where it knows fewer of its pictures than the old one."""
    vectors = job.read_newest(IMAGE_VECTORS.name)
    coverage = require_coverage(vectors, illustrations, before, after, job.config.embed_images.max_reject_share)
    drift = measure_drift(vectors, before, after)
    log.info("image vectors: a new encoder, %s instead of %s; of an illustration's ten nearest stay: %s", after, before,
             ", ".join(f"{name} {drift[name]['overlap']:.0%}" for name in MODALITIES if name in drift) or "too few to say")
    return {"coverage": coverage, **drift}


if __name__ == "__main__":
    main(embed_images)
