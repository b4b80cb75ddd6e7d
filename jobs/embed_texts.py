"""Embeds the tags (and titles) that have no vector of the current text encoder yet."""

from __future__ import annotations

import contextlib
from typing import Any

from pyspark.sql import DataFrame

from umair.embedding.drift import measure_drift, require_coverage
from umair.embedding.texts import embedded_texts, present_texts, still_used, texts_to_embed
from umair.job import Job, log, main, require_finished
from umair.schema import ILLUSTRATIONS, TAGS, TEXT_VECTORS
from umair.storage import read_facts


def embed_texts(job: Job) -> dict[str, Any]:
    """tags, illustrations -> text_vectors, appended; a rerun finds nothing new and commits nothing. Titles that no
    illustration has any more lose their vectors."""
    require_finished(job, "ingest_tables", "finetune_text_encoder")
    folder, config = job.model_folder("finetune_text_encoder"), job.config.embed_texts
    encoder, there = config.named(read_facts(folder))["fingerprint"], job.read_newest(TEXT_VECTORS.name)
    tags, illustrations = job.read(TAGS.name), job.read(ILLUSTRATIONS.name)
    new = texts_to_embed(tags, illustrations, there, encoder, config)
    present = present_texts(tags, illustrations, config)
    facts: dict[str, Any] = {"embedded": 0, "resumed": 0, "partitions": []}
    expected, kept = new.count(), _still_used(job, there, present)
    if there is None or expected or kept is not None:
        with contextlib.ExitStack() as work:
            with job.phase("embed"):
                made = work.enter_context(embedded_texts(new, folder, config, job.store.unfinished("embed_texts"), expected))
            with job.phase("write"):
                rows = made.rows if kept is None else made.rows.unionByName(kept)
                job.commit(TEXT_VECTORS.name, rows, append=kept is None, encoder=encoder)
        facts = made.facts
    vectors = job.store.snapshot(TEXT_VECTORS.name)
    log.info("texts: %d new, %d of them taken over from a run that was killed; %d vectors", facts["embedded"],
             facts["resumed"], vectors.rows)
    replaced = job.encoder_before("embed_texts", encoder)
    if replaced is not None:
        moved = job.read_newest(TEXT_VECTORS.name)
        coverage = require_coverage(moved, present, replaced, encoder, 0.0, key="text")  # no text is ever set aside
        drift = measure_drift(moved, replaced, encoder, key="text", kinds=["vector"])
        stay = f"{drift['vector']['overlap']:.0%}" if "vector" in drift else "too few to say"
        log.info("text vectors: a new encoder, %s instead of %s; of a text's ten nearest stay: %s", encoder, replaced, stay)
        facts["new_encoder"] = {"coverage": coverage, **drift}
    return {**facts, "encoder": encoder, "versions": {vectors.name: vectors.version}}


def _still_used(job: Job, there: DataFrame | None, present: DataFrame) -> DataFrame | None:
    """The vectors that stay, where titles are embedded and one has gone; None where all stay. While an earlier week runs
    again, titles of later ones are absent too, so that all stay then."""
    latest = job.store.latest_week(TEXT_VECTORS.name)
    if there is None or not job.config.embed_texts.include_titles or (latest is not None and latest > str(job.week)):
        return None
    kept = still_used(there, present)
    return kept if kept.count() < there.count() else None


if __name__ == "__main__":
    main(embed_texts)
