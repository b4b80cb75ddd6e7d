"""Trains the image encoder to tell tags from pictures, on Horovod ranks; rare, not weekly.

spark-submit jobs/pretrain_image_encoder.py --config conf/local.yaml --week 2026-W10 [section.key=value ...]
"""

from datetime import timedelta
from typing import Any

import umair  # noqa: F401  # before torch: docs/decisions/017

# isort: split
import torch

from umair.job import Job, log, main, require_finished
from umair.model.image_encoder import build_image_encoder
from umair.picture_files import require_root
from umair.schema import ILLUSTRATIONS, TERMS
from umair.storage import read_facts
from umair.training.pretext_loop import remove_checkpoints, save_pretrained, train_pretext
from umair.training.ranks import run_ranks
from umair.training.tagged_pictures import Catalogue


def pretrain_image_encoder(job: Job) -> dict[str, Any]:
    """Writes the encoder's folder, unless a run that was killed later has done so; pretext.epochs=0 trains nothing."""
    folder, pretext = job.model_folder("pretrain_image_encoder"), job.config.pretext
    if (folder / "facts.json").is_file():
        remove_checkpoints(folder)  # of the run that was killed just then
        return read_facts(folder)
    if pretext.epochs == 0:
        torch.manual_seed(pretext.seed)
        log.info("pretext.epochs is 0: the encoder keeps %s", job.config.image_encoder.weights or "its random weights")
        return save_pretrained(build_image_encoder(job.config.image_encoder), folder, {"epochs": 0})
    require_finished(job, "ingest_tables")
    before = job.week.end - timedelta(days=pretext.leave_days) if pretext.leave_days else None
    catalogue = Catalogue(list(job.snapshot(ILLUSTRATIONS.name).files), require_root(job.config.raw.image_root),
                          job.snapshot(TERMS.name).files, before)
    arguments = {"catalogue": catalogue, "encoder": job.config.image_encoder.model_dump(), "pretext": dict(pretext),
                 "folder": str(folder)}
    with job.phase("train"):
        facts: dict[str, Any] = run_ranks(job.spark, train_pretext, arguments, pretext.ranks, threads=pretext.threads,
                                          device=pretext.device)[0]
    return facts


if __name__ == "__main__":
    main(pretrain_image_encoder)
