"""Embeds the tags (and titles) that have no vector of the current text encoder yet."""

from __future__ import annotations

from typing import Any

from umair.embedding.texts import embed_texts as embed
from umair.embedding.texts import texts_to_embed
from umair.job import Job, main, require_finished
from umair.schema import ILLUSTRATIONS, TAGS, TEXT_VECTORS
from umair.storage import read_facts


def embed_texts(job: Job) -> dict[str, Any]:
    """tags, illustrations -> text_vectors, appended; a rerun finds nothing new and commits nothing."""
    require_finished(job, "ingest_tables", "finetune_text_encoder")
    folder, config = job.model_folder("finetune_text_encoder"), job.config.embed_texts
    encoder, there = read_facts(folder)["fingerprint"], job.read_newest(TEXT_VECTORS.name)
    before = job.store.snapshot(TEXT_VECTORS.name).rows if there is not None else 0
    new = texts_to_embed(job.read(TAGS.name), job.read(ILLUSTRATIONS.name), there, encoder, config)
    if there is None or not new.isEmpty():
        job.commit(TEXT_VECTORS.name, embed(new, folder, config), append=True, encoder=encoder)
    vectors = job.store.snapshot(TEXT_VECTORS.name)
    return {"embedded": vectors.rows - before, "encoder": encoder, "versions": {vectors.name: vectors.version}}


if __name__ == "__main__":
    main(embed_texts)
