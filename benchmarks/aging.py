"""How recommendations age: docs/evidence/recommendations.md.

    python benchmarks/aging.py [--config conf/local.yaml] [--week 2026-W10]

Of a week that was run, for example by `make demo`: the ranker scores the test window's rows as of their own moments, as the
evaluation does, and as of the window's start, as a list would that was made then; users and illustrations that nobody knew at
the start are left out. Intervals are over resampled users.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import umair  # noqa: F401  # before torch: docs/decisions/017

# isort: split
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from umair.config import load_config
from umair.evaluation.comparison import Interval, resample_users
from umair.evaluation.scoring import plan_for, rows_of
from umair.evidence import ROOT, origin, provenance, write_evidence
from umair.job import Config, Job, require_finished
from umair.recommendations import USERS, Meeting
from umair.training.checkpoint import load_ranker
from umair.training.lookup import COLUMNS, Lookup
from umair.training.loop import MAIN
from umair.training.reader import Rows
from umair.weeks import Week
from umair.windows.build import split_bounds
from umair.windows.interactions import DAY_US, microseconds
from umair.windows.moment import candidates_at, users_at

PAGE = ROOT / "docs/evidence/recommendations.md"
BATCH = 2_048
DAYS = ((0, 1), (1, 3), (3, 7))  # since the window's start
OWN, START = "as of the row", "as of the start"
Floats = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="conf/local.yaml")
    parser.add_argument("--week", default="2026-W10")
    given = parser.parse_args()
    torch.set_num_threads(1)
    job = Job(load_config(given.config, [], Config), Week.parse(given.week))
    require_finished(job, "train_ranker")
    result = {**provenance(f"python benchmarks/aging.py --config {given.config} --week {given.week}"), **_measure(job)}
    write_evidence(PAGE, result, _text(result), {"lines": [[line["days"], line["lost"]["estimate"]] for line in result["lines"]]})


def _measure(job: Job) -> dict[str, Any]:
    start = split_bounds(job.week, job.config.windows)["test"][0]
    events, illustrations = job.read("events"), job.read("illustrations")
    users = _columns(users_at(events, illustrations, start, job.config.windows.lengths()).drop("seen").toArrow(), "user_index")
    candidates = _columns(candidates_at(events, illustrations, start).toArrow(), "illust_index")
    table = pq.read_table(list(job.snapshot("window_test").files), columns=[*COLUMNS, "at"])
    user_N, item_N = (_places(known, table[name]) for known, name in ((users["user_index"], "user_index"),
                                                                      (candidates["illust_index"], "illust_index")))
    known_N = (user_N >= 0) & (item_N >= 0)
    rows = table.filter(pa.array(known_N))
    folder = job.model_folder("train_ranker") / MAIN
    ranker = load_ranker(folder).eval()
    lookup = Lookup(plan_for(job.store.root, folder, job.config.training.features).open_features(), ranker)
    with torch.inference_mode():
        own = torch.cat([ranker(lookup.batch(part)).logit_B for part in _batches(rows.select(list(COLUMNS)))]).double().numpy()
        meeting = Meeting(ranker, lookup, candidates, BATCH)
        parts = [{name: column[first:first + USERS] for name, column in users.items()} for first in range(0, len(users["user_index"]), USERS)]
        of_start = torch.cat([meeting.scores(part) for part in parts])[user_N[known_N], item_N[known_N]].double().numpy()
    day_N = (rows["at"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy() - microseconds(start)) / DAY_US
    last = float(day_N.max()) + 1
    spans = {"all": (0.0, last), **{f"{first} to {end}": (float(first), float(end)) for first, end in DAYS if first < last}}
    lines = [_line(name, (day_N >= first) & (day_N < end), rows, {OWN: own, START: of_start}) for name, (first, end) in spans.items()]
    return {"start": start.isoformat(), "window": len(known_N), "rows": int(known_N.sum()), "lines": lines}


def _line(days: str, mask_N: npt.NDArray[np.bool_], rows: pa.Table, scores: dict[str, Floats]) -> dict[str, Any]:
    columns = (rows[name].to_numpy()[mask_N] for name in ("user_index", "label"))
    aucs = resample_users(*columns, {name: score_N[mask_N] for name, score_N in scores.items()}, replicates=500, confidence=0.95, seed=0)
    return {"days": days, "rows": int(mask_N.sum()), **{name: _figures(aucs.auc(name)) for name in scores},
            "lost": _figures(aucs.difference(OWN, START))}


def _figures(interval: Interval) -> dict[str, float]:
    return {name: round(value, 4) for name, value in vars(interval).items()}


def _columns(table: pa.Table, key: str) -> Rows:
    (batch,) = table.sort_by(key).combine_chunks().to_batches()
    return rows_of(batch)


def _places(known: npt.NDArray[Any], column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Where each value stands among the sorted known ones; -1 where it does not."""
    value_N = column.to_numpy()
    place_N = np.searchsorted(known, value_N).clip(max=len(known) - 1)
    return np.where(known[place_N] == value_N, place_N, -1)


def _batches(table: pa.Table) -> Iterator[Rows]:
    for batch in table.combine_chunks().to_batches(max_chunksize=BATCH):
        yield rows_of(batch)


def _text(result: dict[str, Any]) -> str:
    said = [f"| {line['days']} | {line['rows']:,} | {line[OWN]['estimate']:.3f} | {line[START]['estimate']:.3f} | "
            f"{line['lost']['estimate']:+.3f} ({line['lost']['low']:+.3f} to {line['lost']['high']:+.3f}) |" for line in result["lines"]]
    return "\n".join([
        "# How recommendations age", "", origin(result), "",
        "A recommendation knows a user and an illustration as they were when the list was made. Here the week's ranker scores the rows of its test window twice: as of",
        f"each row's own moment, as reports do, and as of the window's start ({result['start'][:10]}), as a list made then would. {result['rows']:,} of the window's {result['window']:,} rows are of users",
        "with an event, and of illustrations that existed, before the start; the others no list could have.", "",
        "| days since the start | rows | AUC as of the row | AUC as of the start | lost (95 % interval over users) |", "| --- | --- | --- | --- | --- |", *said, ""])


if __name__ == "__main__":
    main()
