"""Fine-tunes the text encoder on the site's text pairs, on Horovod ranks. Rare: one encoder serves many weeks."""

from __future__ import annotations

from typing import Any

from umair.job import Job, main, require_finished
from umair.schema import TERMS
from umair.storage import read_facts
from umair.training.ranks import run_ranks
from umair.training.text_pairs import require_trainable, train_text_encoder


def finetune_text_encoder(job: Job) -> dict[str, Any]:
    """terms -> encoders/text/<key>: weights, tokenizer, facts.json."""
    folder = job.model_folder("finetune_text_encoder")
    if (folder / "facts.json").is_file():  # written whole by a run that was killed before the ledger knew
        return read_facts(folder)
    require_finished(job, "ingest_tables")
    encoder, pairs, terms = job.config.text_encoder, job.config.text_pairs, job.snapshot(TERMS.name)
    require_trainable(encoder, pairs, terms.rows)
    arguments = {"files": list(terms.files), "encoder": encoder.model_dump(), "pairs": pairs.model_dump(),
                 "folder": str(folder), "lineage": {"terms_version": terms.version}}
    run_ranks(job.spark, train_text_encoder, arguments, pairs.ranks, threads=pairs.threads, device=pairs.device)
    return read_facts(folder)


if __name__ == "__main__":
    main(finetune_text_encoder)
