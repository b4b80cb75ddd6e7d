"""Embeds the tags (and titles) that have no vector of the current text encoder yet."""

from __future__ import annotations

import contextlib
from typing import Any

from umair.embedding.drift import measure_drift, require_coverage
from umair.embedding.texts import embedded_texts, present_texts, texts_to_embed
from umair.job import Job, log, main, require_finished
from umair.schema import ILLUSTRATIONS, TAGS, TEXT_VECTORS
from umair.storage import read_facts


def embed_texts(job: Job) -> dict[str, Any]:
    """tags, illustrations -> text_vectors, appended; a rerun finds nothing new and commits nothing."""
    require_finished(job, "ingest_tables", "finetune_text_encoder")
    folder, config = job.model_folder("finetune_text_encoder"), job.config.embed_texts
    encoder, there = config.named(read_facts(folder))["fingerprint"], job.read_newest(TEXT_VECTORS.name)
    tags, illustrations = job.read(TAGS.name), job.read(ILLUSTRATIONS.name)
    new = texts_to_embed(tags, illustrations, there, encoder, config)
    facts: dict[str, Any] = {"embedded": 0, "resumed": 0, "partitions": []}
    expected = new.count()
    if there is None or expected:
        with contextlib.ExitStack() as work:
            with job.phase("embed"):
                made = work.enter_context(embedded_texts(new, folder, config, job.store.unfinished("embed_texts"), expected))
            with job.phase("write"):
                job.commit(TEXT_VECTORS.name, made.rows, append=True, encoder=encoder)
        facts = made.facts
    vectors = job.store.snapshot(TEXT_VECTORS.name)
    log.info("texts: %d new, %d of them taken over from a run that was killed; %d vectors", facts["embedded"],
             facts["resumed"], vectors.rows)
    replaced = job.encoder_before("embed_texts", encoder)
    if replaced is not None:
        moved, present = job.read_newest(TEXT_VECTORS.name), present_texts(tags, illustrations, config)
        coverage = require_coverage(moved, present, replaced, encoder, 0.0, key="text")  # no text is ever set aside
        drift = measure_drift(moved, replaced, encoder, key="text", kinds=["vector"])
        stay = f"{drift['vector']['overlap']:.0%}" if "vector" in drift else "too few to say"
        log.info("text vectors: a new encoder, %s instead of %s; of a text's ten nearest stay: %s", encoder, replaced, stay)
        facts["new_encoder"] = {"coverage": coverage, **drift}
    return {**facts, "encoder": encoder, "versions": {vectors.name: vectors.version}}


if __name__ == "__main__":
    main(embed_texts)
