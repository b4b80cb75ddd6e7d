"""The weekly run: every step in order; what is finished for this week and configuration is skipped.

    spark-submit jobs/weekly.py --config conf/local.yaml --week 2026-W10 [section.key=value ...]
"""

from __future__ import annotations

import json
import sys

from build_windows import build_windows
from embed_images import embed_images
from embed_texts import embed_texts
from evaluate_ranker import evaluate_ranker
from finetune_text_encoder import finetune_text_encoder
from ingest_tables import ingest_tables
from pretrain_image_encoder import pretrain_image_encoder
from train_ranker import train_ranker

from umair.job import ACCEPTED, Job, guard, log, parse_arguments, run_step
from umair.training.loop import MAIN

STEPS = (ingest_tables, pretrain_image_encoder, finetune_text_encoder, embed_images, embed_texts, build_windows,
         train_ranker, evaluate_ranker)


def weekly() -> int:
    """Runs what is not finished yet and prints the report's figures as one JSON line, last."""
    given = parse_arguments("The weekly run, every step in order")
    job = Job(given.config, given.week)
    open_steps = [step.__name__ for step in STEPS if not job.finished(step.__name__)]
    if given.dry_run:
        sys.stdout.write(json.dumps({"week": str(job.week), "would_run": open_steps}) + "\n")
        return ACCEPTED
    if not open_steps:
        log.info("week %s is finished for this configuration: nothing to do", job.week)
    records = [run_step(job, step) for step in STEPS]
    evaluation = records[-1].outputs
    said = {"week": str(job.week), "steps_run": open_steps, **evaluation["figures"]}
    sys.stdout.write(json.dumps({**said, "ranker_folder": str(job.model_folder("train_ranker") / MAIN)}) + "\n")
    return int(evaluation.get("exit_code", ACCEPTED))


if __name__ == "__main__":
    guard(weekly)
