"""How fast rankers train and score, all compared within one run: benchmarks/results/train.json (make bench-train).

    python benchmarks/train.py [--rows 200000] [--steps 16]

Rows of a numeric world with histories of 200. Steps run on one thread of torch; "fed" reads Parquet through Petastorm, looks
everything up and steps, as training does; "held" makes the same step on batches that are held in memory.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from umair.config import load_config
from umair.evidence import ROOT, provenance
from umair.experiments.config import DEFAULT, ExperimentConfig
from umair.experiments.numeric_world import NumericWorldConfig, draw_numeric_world, numeric_inputs
from umair.job import start_spark
from umair.model.ranker import RankerConfig
from umair.training.features import Features
from umair.training.feed import Feed
from umair.training.inputs import TrainingInputs
from umair.training.loop import MAIN, TrainingConfig, train_rankers
from umair.training.ranks import Ranks, run_ranks
from umair.training.trainee import Trainee

RESULTS = ROOT / "benchmarks/results/train.json"
EXPERIMENT = ROOT / "conf/experiments/numeric.yaml"
BATCHES = (128, 1_024, 8_192)
FORMS = (DEFAULT, "paper", "ids")
REPEATS = 2


def main() -> None:
    given = _arguments()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="umair-bench-"))
    try:
        config = load_config(EXPERIMENT, [], ExperimentConfig)
        draw_numeric_world(NumericWorldConfig(rows=given.rows, history=200), folder / "world")
        inputs = numeric_inputs(folder / "world")
        result = {**provenance(f"python benchmarks/train.py --rows {given.rows} --steps {given.steps}"), "rows": given.rows,
                  "steps": _steps(config, inputs, folder / "world", given.steps),
                  "ranks": _ranks(config.ranker, inputs, folder)}
    finally:
        shutil.rmtree(folder)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"result": str(RESULTS.relative_to(ROOT)), **_headline(result)}))


def _steps(config: ExperimentConfig, inputs: TrainingInputs, world: Path, steps: int) -> dict[str, Any]:
    """Rows a second by form and batch: fed, held, and scored (without gradients)."""
    features, found = Features.open(world / "features" / inputs.source.key), {}
    for name in FORMS:
        for batch in BATCHES:
            count = max(4, min(steps, sum(inputs.rows_by_file["train"].values()) // batch - 2))
            found[f"{name}, batch {batch}"] = _of_form(config.rankers[name], features, inputs, batch, count)
    return found


def _of_form(ranker: RankerConfig, features: Features, inputs: TrainingInputs, batch: int, count: int) -> dict[str, Any]:
    trainee = Trainee.fresh(MAIN, ranker, features, Ranks(), TrainingConfig(batch=batch, ranks=1))
    feed = Feed(features, {MAIN: trainee.ranker}, "cpu")
    order, sizes = {"order": (0, 0, 0), "pool": 65_536}, [batch] * (count + 1)
    held = [each[MAIN] for each, _ in zip(feed.batches(inputs.rows_by_file["train"], sizes, **order), range(3), strict=False)]
    trainee.step(held[0], 0)

    def fed() -> None:
        for number, each in enumerate(feed.batches(inputs.rows_by_file["train"], sizes, **order)):
            if number == 0:
                moments.append(time.perf_counter())  # the first batch fills the shuffle pool
            trainee.step(each[MAIN], number)
            if number == count:
                moments.append(time.perf_counter())  # what follows reads the rest of the files, to count their rows

    moments: list[float] = []
    rates = {"held": _rate(lambda: [trainee.step(held[number % 3], number) for number in range(count)], count * batch),
             "scored": _rate(lambda: [trainee.score(held[number % 3]) for number in range(count)], count * batch)}
    fed()
    rates["fed"] = round((count + 1) * batch / (moments[1] - moments[0]))
    return {**rates, "fed_over_held": round(rates["fed"] / rates["held"], 3)}


def _rate(work: Callable[[], Any], rows: int) -> int:
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return round(rows / statistics.median(seconds))


def _ranks(ranker: RankerConfig, inputs: TrainingInputs, folder: Path) -> dict[str, Any]:
    """Rows a second of one epoch on one Horovod rank and on two, one thread each, the same global batch."""
    spark = start_spark({"spark.master": "local[2]", "spark.ui.enabled": "false"})
    try:
        rates = {}
        for count in (1, 2):
            arguments = {"ranker": ranker, "config": TrainingConfig(batch=1_024, ranks=count), "inputs": inputs,
                         "root": str(folder / "world"), "folder": str(folder / f"ranks-{count}")}
            facts = run_ranks(spark, train_rankers, arguments, count)[0]
            rates[str(count)] = facts["rows"] / (facts["seconds"] - facts["phases"]["validate"])
        return {"rows_per_second": {count: round(rate) for count, rate in rates.items()},
                "two_over_one": round(rates["2"] / rates["1"], 3)}
    finally:
        spark.stop()


def _headline(result: dict[str, Any]) -> dict[str, Any]:
    steps = result["steps"]
    return {"fed_over_held": {name: each["fed_over_held"] for name, each in steps.items() if name.startswith(DEFAULT)},
            "default_over_paper": {str(batch): round(steps[f"{DEFAULT}, batch {batch}"]["fed"] / steps[f"paper, batch {batch}"]["fed"], 3)
                                   for batch in BATCHES},
            "two_ranks_over_one": result["ranks"]["two_over_one"]}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=16)
    return parser.parse_args()


if __name__ == "__main__":
    main()
