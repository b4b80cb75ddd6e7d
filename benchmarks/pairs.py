"""Every user with every candidate: sides made once over pairs scored row by row, benchmarks/results/pairs.json.

    python benchmarks/pairs.py [--users 256]

The default ranker, untrained, on a numeric world of 5,000 illustrations and 2,000 users, one thread of torch; users as the
test row that knows most of them. "once": users' and candidates' look-ups and sides included, and the sides of
the candidates made for these users alone; without Spark, and without leaving out what was seen. "row by row": the same ranker on random pairs in batches that are held in memory;
"row by row, looked up": with the look-up of each row. All in blocks of 2,048. "window": the rows of the test window, each by the sides of its user's and
its illustration's first row there, look-ups included, over each as its own row, looked up. Medians over rounds in which each has its turn.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import umair  # noqa: F401  # before torch: docs/decisions/017

# isort: split
import numpy as np
import numpy.typing as npt
import torch
from speed_page import write_speed_page

from umair.config import load_config
from umair.evidence import ROOT, provenance
from umair.experiments.config import DEFAULT, ExperimentConfig
from umair.experiments.numeric_world import NumericWorldConfig, draw_numeric_world, numeric_inputs
from umair.model.sides import chosen, joined
from umair.recommendations import ITEM_COLUMNS, USER_COLUMNS, USERS, Candidates, Meeting
from umair.recommendations import PAIRS as AT_ONCE
from umair.training.checkpoint import build_ranker
from umair.training.features import Features
from umair.training.lookup import COLUMNS, Lookup
from umair.training.reader import Rows, read_rows

RESULTS = ROOT / "benchmarks/results/pairs.json"
EXPERIMENT = ROOT / "conf/experiments/numeric.yaml"
ROUNDS, PAIRS, BLOCK = 5, 8_192, AT_ONCE["cpu"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--users", type=int, default=256)
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="umair-bench-"))
    try:
        draw_numeric_world(NumericWorldConfig(rows=200_000, history=200), folder / "world")
        result = {**provenance(f"python benchmarks/pairs.py --users {given.users}"), **_compare(folder / "world", given.users)}
    finally:
        shutil.rmtree(folder)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_speed_page()
    print(json.dumps({"result": str(RESULTS.relative_to(ROOT)), **{name: result[name] for name in ("pairs", "once_over_row_by_row", "window")}}))


def _compare(world: Path, count: int) -> dict[str, Any]:
    """Raises AssertionError where PAIRS random pairs are not scored alike."""
    inputs = numeric_inputs(world)
    features = Features.open(world / "features" / inputs.source.key)
    torch.manual_seed(0)
    ranker = build_ranker(load_config(EXPERIMENT, [], ExperimentConfig).rankers[DEFAULT], features.widths).eval()
    lookup = Lookup(features, ranker)
    users, candidates = _sides(inputs.rows_by_file["test"], features.illustrations, count)
    rows, user, item = _pairs(users, candidates)
    with torch.inference_mode():
        batches = [lookup.batch(part) for part in _parts(rows)]
        logit_N = torch.cat([ranker(batch).logit_B for batch in batches])
        torch.testing.assert_close(Meeting(ranker, lookup, candidates, BLOCK).scores(users)[user, item], logit_N, rtol=1e-3, atol=1e-4)
        pairs = count * len(candidates["illust_index"])
        ways = {"once": (lambda: _recommended(ranker, lookup, users, candidates), pairs),
                "row by row": (lambda: [ranker(batch) for _ in range(4) for batch in batches], 4 * PAIRS),
                "row by row, looked up": (lambda: [ranker(lookup.batch(part)) for _ in range(4) for part in _parts(rows)], 4 * PAIRS)}
        window = _read(inputs.rows_by_file["test"])
        size = len(window["label"])
        _by_sides(ranker, lookup, window, check=True)
        ways |= {"window, once": (lambda: _by_sides(ranker, lookup, window), size),
                 "window, row by row": (lambda: [ranker(lookup.batch(part)).logit_B for part in _parts(window)], size)}
        rounds = [{name: _rate(*way) for name, way in ways.items()} for _ in range(ROUNDS)]
    of_window = [each["window, once"] / each.pop("window, row by row") for each in rounds]
    rates = [round(each.pop("window, once")) for each in rounds]
    ways = {name: way for name, way in ways.items() if not name.startswith("window")}
    ratios = {name: [each["once"] / each[name] for each in rounds] for name in ways if name != "once"}
    listed = {name: round(float((users[name] >= 0).sum(1).mean()), 1) for name in ("bookmarked", "passed")}
    return {"pairs": pairs, "users": count, "illustrations": len(candidates["illust_index"]), "listed": listed, "pairs_per_second": {name: round(statistics.median(each[name] for each in rounds)) for name in ways},
            "once_over_row_by_row": {name: round(statistics.median(each), 2) for name, each in ratios.items()},
            "least_and_most": {name: [round(min(each), 2), round(max(each), 2)] for name, each in ratios.items()},
            "window": {"rows": size, "users": len(np.unique(window["user_index"])), "illustrations": len(np.unique(window["illust_index"])),
                       "rows_per_second": round(statistics.median(rates)), "once_over_row_by_row": round(statistics.median(of_window), 2),
                       "least_and_most": [round(min(of_window), 2), round(max(of_window), 2)]}}


def _by_sides(ranker: Any, lookup: Lookup, window: Rows, *, check: bool = False) -> None:
    """Scores every row by its user's and its illustration's side. Raises AssertionError, if asked to look, where a row whose own
    sides these are is not scored as it is alone."""
    made, places, firsts = {}, {}, {}
    for columns, looked_up, side_of in ((USER_COLUMNS, lookup.users, ranker.user_side), (ITEM_COLUMNS, lookup.items, ranker.item_side)):
        name = columns[0]
        firsts[name], places[name] = _firsts(window[name])
        own = {column: window[column][firsts[name]] for column in columns}
        parts = [side_of(ranker.prepared(looked_up(part))) for part in _parts(own)]
        made[name] = joined(parts)
    index = {name: torch.from_numpy(place) for name, place in places.items()}
    logit_N = torch.cat([ranker.meet(*(chosen(made[name], index[name][first:first + BLOCK]) for name in made)).logit_B
                         for first in range(0, len(window["label"]), BLOCK)])
    if check:
        both = np.intersect1d(*firsts.values())
        assert len(both), "no row is the first of its user and of its illustration"
        alone = ranker(lookup.batch({name: values[both] for name, values in window.items()})).logit_B
        torch.testing.assert_close(logit_N[both], alone, rtol=1e-3, atol=1e-4)


def _firsts(index_N: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of each user or illustration the first row, by index; of each row, which of these is its own."""
    count, first_X = len(index_N), np.full(index_N.max() + 1, -1)
    first_X[index_N[::-1]] = np.arange(count)[::-1]  # what is written last stays
    there_X = first_X >= 0
    return first_X[there_X], (there_X.cumsum() - 1)[index_N]


def _parts(rows: Rows) -> Iterator[Rows]:
    for first in range(0, len(next(iter(rows.values()))), BLOCK):
        yield {name: column[first:first + BLOCK] for name, column in rows.items()}


def _read(files: dict[str, int]) -> Rows:
    chunks = list(read_rows(dict(sorted(files.items())), COLUMNS))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in COLUMNS}


def _recommended(ranker: Any, lookup: Lookup, users: Rows, candidates: Candidates) -> None:
    meeting = Meeting(ranker, lookup, candidates, BLOCK)
    for start in range(0, len(users["user_index"]), USERS):
        meeting.scores({name: column[start:start + USERS] for name, column in users.items()}).topk(50)


def _sides(files: dict[str, int], illustrations: int, count: int) -> tuple[Rows, Candidates]:
    """Of so many users the row that knows most of them, and every illustration with some counts."""
    rows = _read(files)
    order = np.lexsort((-rows["user_views"], rows["user_index"]))
    chosen = order[np.unique(rows["user_index"][order], return_index=True)[1]][:count]
    draw = np.random.default_rng(0)
    counts = (np.arange(illustrations), draw.integers(0, 500, illustrations), draw.integers(0, 100, illustrations))
    return ({name: column[chosen] for name, column in rows.items() if name not in ITEM_COLUMNS},
            {name: column.astype(np.int32) for name, column in zip(ITEM_COLUMNS, counts, strict=True)})


def _pairs(users: Rows, candidates: Candidates) -> tuple[Rows, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """PAIRS random pairs as a window's rows, and which user and which candidate each is of."""
    draw = np.random.default_rng(1)
    user, item = (draw.integers(0, len(side), PAIRS) for side in (users["user_index"], candidates["illust_index"]))
    rows = {**{name: column[user] for name, column in users.items()}, **{name: column[item] for name, column in candidates.items()}}
    return rows, user, item


def _rate(work: Callable[[], Any], pairs: int) -> float:
    started = time.perf_counter()
    work()
    return pairs / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
