"""Trains the week's ranker and its rivals on Horovod ranks: windows and packed features -> ranker folder."""

from __future__ import annotations

from typing import Any

from umair.config import fingerprint
from umair.job import Job, main, require_finished
from umair.storage import read_facts
from umair.training.inputs import TrainingInputs
from umair.training.loop import train_rankers
from umair.training.ranks import run_ranks


def train_ranker(job: Job) -> dict[str, Any]:
    """Writes the rankers' folder, unless a run that was killed later has done so for these very tables."""
    require_finished(job, "build_windows", "embed_images", "embed_texts")
    config, folder = job.config.training, job.model_folder("train_ranker")
    image_encoder = job.config.embed_images.named(read_facts(job.model_folder("pretrain_image_encoder")))
    text_encoder = job.config.embed_texts.named(read_facts(job.model_folder("finetune_text_encoder")))
    inputs = TrainingInputs.of(job.store, job.versions, image_encoder, text_encoder,
                               titles=job.config.embed_texts.include_titles)
    if not inputs.made(folder):
        arguments = {"ranker": job.config.ranker, "config": config, "inputs": inputs, "root": str(job.store.root),
                     "folder": str(folder)}
        with job.phase("train"):
            run_ranks(job.spark, train_rankers, arguments, config.ranks, threads=config.threads, device=config.device)
    return {"folder": str(folder), "windows": fingerprint(job.config.windows), **read_facts(folder)}


if __name__ == "__main__":
    main(train_ranker)
