"""How fast rankers train and score, all compared within one run: benchmarks/results/train.json (make bench-train).

    python benchmarks/train.py [--rows 200000] [--steps 16] [--deepctr FOLDER]

Rows of a numeric world with histories of 200. Steps run on one thread of torch; "fed" reads the training files through
Petastorm from the first row to the last, looks everything up and steps, as training does; "held" makes the same step on
batches that are held in memory, before it and after it. Fed over held, scoring over training, two ranks over one and ours over
deepctr-torch's are medians of rounds' ratios; the default over the paper's form and the catalogue are ratios of medians, matrix
products one run. "scored" is without gradients, on held batches; "scored, fed" on
the same files, read and looked up as evaluation does. Ranks have a core each, for all their threads, so that two
have twice the machine of one; "of each rank": two take twice the rows a step, and half the steps; "unbound": all cores for
all; "matrix products": what two processes that share nothing are to one on this machine.
"catalogue": see catalogue.py. FOLDER: where `pip install --target FOLDER --no-deps deepctr-torch` put that package, for the
comparison with its DCNMix.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import umair  # noqa: F401  # before torch: docs/decisions/017

# isort: split
import torch
from catalogue import compare as compare_catalogues
from speed_page import write_speed_page

from umair.config import load_config
from umair.evidence import ROOT, provenance
from umair.experiments.config import DEFAULT, ExperimentConfig
from umair.experiments.numeric_world import NumericWorldConfig, draw_numeric_world, numeric_inputs
from umair.job import start_spark
from umair.model.batch import ITEM_FIELDS, TAG_BUCKETS, USER_FIELDS, Batch
from umair.model.ranker import RankerConfig
from umair.training.features import Features
from umair.training.feed import Feed
from umair.training.inputs import TrainingInputs
from umair.training.loop import MAIN, TrainingConfig, train_rankers
from umair.training.ranks import Ranks, run_ranks
from umair.training.row_adam import gradient_bytes
from umair.training.shares import plan_epoch
from umair.training.trainee import Trainee

STARTED = time.monotonic()
RESULTS = ROOT / "benchmarks/results/train.json"
EXPERIMENT = ROOT / "conf/experiments/numeric.yaml"
BATCHES = (128, 1_024, 8_192)
FORMS = (DEFAULT, "paper", "ids")
ROUNDS = 3  # in which each of what is compared has its turn: a machine that is shared with others is a tenth slower from one minute to the next
RANKS = {  # rows of a step over all ranks, of one rank and of two; whether each rank has a core of its own
    "batch 1024": ((1_024, 1_024), True), "batch 4096": ((4_096, 4_096), True), "batch 8192": ((8_192, 8_192), True),
    "batch 1024 of each rank": ((1_024, 2_048), True),
    "batch 1024, unbound": ((1_024, 1_024), False)}
LARGE_STEPS = 40  # of a round, each on its own batch; fewer where there are fewer batches
HELD_ROWS = 16_384  # at the least: 16 steps of 128 rows are a third of a second


def main() -> None:
    given = _arguments()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="umair-bench-"))
    try:
        config = load_config(EXPERIMENT, [], ExperimentConfig)
        draw_numeric_world(NumericWorldConfig(rows=given.rows, history=200), folder / "world")
        inputs = numeric_inputs(folder / "world")
        result = {**provenance(_command(given)), "rows": given.rows,
                  "steps": _steps(config, inputs, folder / "world", given.steps),
                  "catalogue": compare_catalogues(config.rankers[DEFAULT], given.steps, partial(_rate, repeats=2)),
                  "large_tables": _large_tables(config.rankers[DEFAULT], inputs, folder / "world"),
                  "ranks": {**_ranks(config.ranker, inputs, folder), "matrix products, nothing shared": _products()}}
        if given.deepctr:
            from deepctr import compare

            def rate(step: Callable[[], None], rows: int) -> int:
                count = max(given.steps, HELD_ROWS // rows)
                return _rate(lambda: [step() for _ in range(count)], count * rows)

            result["dcn_v2"] = compare(given.deepctr, rate)
        result["seconds"] = round(time.monotonic() - STARTED)
    finally:
        shutil.rmtree(folder)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_speed_page()
    print(json.dumps({"result": str(RESULTS.relative_to(ROOT)), **_headline(result)}))


def _steps(config: ExperimentConfig, inputs: TrainingInputs, world: Path, steps: int) -> dict[str, Any]:
    """Rows a second by form and batch: fed, held, and scored (without gradients)."""
    features, found = Features.open(world / "features" / inputs.source.key), {}
    for name in FORMS:
        for batch in BATCHES:
            found[f"{name}, batch {batch}"] = _of_form(config.rankers[name], features, inputs, batch, steps)
    return found


def _of_form(ranker: RankerConfig, features: Features, inputs: TrainingInputs, batch: int, count: int) -> dict[str, Any]:
    trainee = Trainee.fresh(MAIN, ranker, features, Ranks(), TrainingConfig(batch=batch, ranks=1))
    feed = Feed(features, {MAIN: trainee.ranker}, "cpu")
    plan = plan_epoch(inputs.rows_by_file["train"], 1, 0, batch)
    order = {"order": (0, 0, 0), "pool": trainee.settings.shuffle_pool}
    held = [each[MAIN] for each, _ in zip(feed.batches(plan.rows_by_file, plan.sizes, **order), range(3), strict=False)]
    trainee.step(held[0], 0)

    def fed() -> None:
        for number, each in enumerate(feed.batches(plan.rows_by_file, plan.sizes, **order)):
            trainee.step(each[MAIN], number)

    count = max(count, HELD_ROWS // batch)
    hold = (lambda: [trainee.step(held[number % 3], number) for number in range(count)], count * batch)
    ways = {"held": hold, "fed": (fed, plan.rows), "held, after": hold,
            "scored": (lambda: [trainee.score(held[number % 3]) for number in range(count)], count * batch),
            "scored, fed": (lambda: [trainee.score(each[MAIN]) for each in feed.batches(plan.rows_by_file, plan.sizes)], plan.rows)}
    rounds = [{name: _rate(*way) for name, way in ways.items()} for _ in range(ROUNDS)]
    for each in rounds:
        each["held"] = round(statistics.mean([each["held"], each.pop("held, after")]))
    ratios = [each["fed"] / each["held"] for each in rounds]
    return {**{name: round(statistics.median(each[name] for each in rounds)) for name in rounds[0]},
            "fed_over_held": round(statistics.median(ratios), 3), "least_and_most": [round(min(ratios), 3), round(max(ratios), 3)],
            "scoring_over_training": round(statistics.median(each["scored, fed"] / each["fed"] for each in rounds), 3)}


def _large_tables(ranker: RankerConfig, inputs: TrainingInputs, world: Path) -> dict[str, Any]:
    """The default with tables of the paper's sizes, whose gradients are dense, or sparse as by default, by batch of a rank: rows a
    second of steps on batches held in memory, a new one each step, medians of rounds in which both have their turn, and bytes of gradients that each of several ranks sends."""
    large = ranker.model_copy(update={"user_fields": USER_FIELDS, "item_fields": ITEM_FIELDS, "tag_buckets": TAG_BUCKETS})
    features, found = Features.open(world / "features" / inputs.source.key), dict[str, Any]()
    for batch in BATCHES:
        plan = plan_epoch(inputs.rows_by_file["train"], 1, 0, batch)
        trainees = {name: Trainee.fresh(MAIN, large, features, Ranks(), TrainingConfig(batch=batch, ranks=1, sparse_from=numbers))
                    for name, numbers in (("dense", None), ("sparse", TrainingConfig().sparse_from))}
        feed = Feed(features, {MAIN: trainees["dense"].ranker}, "cpu").batches(plan.rows_by_file, plan.sizes, order=(0, 0, 0), pool=65_536)
        held = [each[MAIN] for each, _ in zip(feed, range(LARGE_STEPS), strict=False)]
        rates: dict[str, list[int]] = {name: [] for name in trainees}
        for _ in range(1 + ROUNDS):
            for name, trainee in trainees.items():
                rates[name].append(_rate(partial(_take, trainee, held), len(held) * batch))
        found[f"batch {batch}"] = {  # without the first round, in which no row has rested yet
            name: {"rows_per_second": round(statistics.median(rates[name][1:])), "bytes": gradient_bytes(trainee.ranker)}
            for name, trainee in trainees.items()}
    return found


def _take(trainee: Trainee, held: list[Batch]) -> None:
    for each in held:
        trainee.step(each, 0)


def _rate(work: Callable[[], Any], rows: int, repeats: int = 1) -> int:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return round(rows / statistics.median(seconds))


def _ranks(ranker: RankerConfig, inputs: TrainingInputs, folder: Path) -> dict[str, Any]:
    """Rows a second of two epochs on one Horovod rank and on two, one thread of torch each, from an epoch's first row to its
    last step: medians over rounds in which every run has its turn, and the median of the rounds' ratios. `beside`: the
    seconds of a run beside that, which a longer training has once (set-up) or once an epoch (validation, checkpoint)."""
    spark = start_spark({"spark.master": "local[2]", "spark.ui.enabled": "false"})
    runs = dict.fromkeys((count, batch, bound) for batches, bound in RANKS.values() for count, batch in enumerate(batches, start=1))
    facts: dict[Any, list[dict[str, Any]]] = {run: [] for run in runs}
    try:
        for number in range(ROUNDS):
            for count, batch, bound in runs:
                made = folder / f"ranks, round {number}, {count}, {batch}, {bound}"
                config = TrainingConfig(batch=batch, ranks=count, epochs=2)
                facts[count, batch, bound].append(_trained(spark, ranker, inputs, made, config, bound))
    finally:
        spark.stop()
    return {name: _two_over_one([facts[count, batch, bound] for count, batch in enumerate(batches, start=1)])
            for name, (batches, bound) in RANKS.items()}


def _two_over_one(facts: list[list[dict[str, Any]]]) -> dict[str, Any]:
    rates = [[each["rows"] * each["epochs"] / each["phases"]["train"] for each in rounds] for rounds in facts]
    one, two = map(statistics.median, rates)
    ratios = [after / before for before, after in zip(*rates, strict=True)]
    return {"rows_per_second": {"1": round(one), "2": round(two)},
            "all_rounds": {str(count): [round(rate) for rate in each] for count, each in enumerate(rates, start=1)},
            "beside": {str(count): round(statistics.median(each["seconds"] - each["phases"]["train"] for each in rounds), 2)
                       for count, rounds in enumerate(facts, start=1)},
            "bytes_sent_per_step": facts[1][0]["bytes_sent_per_step"], "two_over_one": round(statistics.median(ratios), 3),
            "least_and_most": [round(min(ratios), 3), round(max(ratios), 3)]}


def _trained(spark: Any, ranker: RankerConfig, inputs: TrainingInputs, made: Path, config: TrainingConfig, bound: bool
             ) -> dict[str, Any]:
    arguments = {"bound": bound, "ranker": ranker, "config": config, "inputs": inputs, "root": str(made.parent / "world"),
                 "folder": str(made)}
    facts: dict[str, Any] = run_ranks(spark, _train, arguments, config.ranks)[0]
    return facts


def _products() -> dict[str, Any]:
    """What two processes with a core each can be to one at most on this machine: products a second, float32, 1,024 squared."""
    context = multiprocessing.get_context("spawn")
    rates = {}
    for count in (1, 2):
        with ProcessPoolExecutor(count, mp_context=context) as pool:
            list(pool.map(_multiply, range(count), [4.0] * count))  # both have started, and torch is imported
            rates[count] = sum(pool.map(_multiply, range(count), [3.0] * count))
    return {"products_per_second": {str(count): round(rate, 1) for count, rate in rates.items()},
            "two_over_one": round(rates[2] / rates[1], 3)}


def _multiply(core: int, seconds: float) -> float:
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    matrix_XX, count, started = torch.ones(1_024, 1_024), 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        torch.mm(matrix_XX, matrix_XX)
        count += 1
    return count / (time.perf_counter() - started)


def _train(ranks: Ranks, *, bound: bool, **arguments: Any) -> dict[str, Any]:
    if bound:
        for thread in os.listdir("/proc/self/task"):  # Horovod's too, which is there already; later ones inherit it
            os.sched_setaffinity(int(thread), {ranks.index})
    return train_rankers(ranks, **arguments)


def _command(given: argparse.Namespace) -> str:
    beside = " --deepctr FOLDER" if given.deepctr else ""
    return f"python benchmarks/train.py --rows {given.rows} --steps {given.steps}{beside}"


def _headline(result: dict[str, Any]) -> dict[str, Any]:
    steps = result["steps"]
    return {"fed_over_held": {name: each["fed_over_held"] for name, each in steps.items() if name.startswith(DEFAULT)},
            "default_over_paper": {str(batch): round(steps[f"{DEFAULT}, batch {batch}"]["fed"] / steps[f"paper, batch {batch}"]["fed"], 3)
                                   for batch in BATCHES},
            "scoring_over_training": {name: each["scoring_over_training"] for name, each in steps.items() if name.startswith(DEFAULT)},
            "catalogue": {size: {name: each[name] for name in ("step", "once_over_row_by_row")}
                          for size, each in result["catalogue"].items()},
            "two_ranks_over_one": {name: each["two_over_one"] for name, each in result["ranks"].items()},
            **({"dcn_v2_over_deepctr": {batch: each["ours_over_theirs"] for batch, each in result["dcn_v2"].items()},
                "where_both_use_a_fused_adam": {batch: each["ours_over_theirs_fused"] for batch, each in result["dcn_v2"].items()}}
               if "dcn_v2" in result else {})}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--deepctr", type=Path, help="folder with deepctr-torch, which nothing else here needs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
