"""How good recommendations are, and how they age: docs/evidence/recommendations.md.

    python benchmarks/recommendations.py [--config conf/local.yaml] [--week 2026-W10]

Of a week of a drawn world that was run and recommended (`make demo recommend`). How good: the probability, which the world
knows, that a user who is shown the first illustrations of a list bookmarks them. How they age: the ranker scores the test
window's rows as of their own moments, as the evaluation does, and as of the window's start, as a list would that was made
then. Intervals are over resampled users.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import umair  # noqa: F401  # before torch: docs/decisions/017

# isort: split
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy.special import expit

from umair.config import load_config
from umair.evaluation.scoring import plan_for, rows_of
from umair.evidence import ROOT, origin, provenance, write_evidence
from umair.job import Config, Job, require_finished
from umair.metrics import auc_by_user
from umair.recommendations import USER_COLUMNS, USERS, Meeting
from umair.schema import RECOMMENDATIONS
from umair.training.checkpoint import load_ranker
from umair.training.lookup import COLUMNS, Lookup
from umair.training.loop import MAIN
from umair.training.reader import Rows
from umair.weeks import Week
from umair.windows.build import split_bounds
from umair.windows.interactions import DAY_US, microseconds
from umair.windows.moment import candidates_at, users_at
from umair.world.config import WorldConfig
from umair.world.events import _terms, draw_views
from umair.world.factors import draw_illustrations
from umair.world.users import draw_users

PAGE = ROOT / "docs/evidence/recommendations.md"
BATCH, REPLICATES = 2_048, 1_000
DAYS = ((0, 1), (1, 3), (3, 7))  # since the window's start
FIRST = (10, 50)  # places of a list
OWN, START = "as of the row", "as of the start"
LIST, BEST, POPULAR, RANDOM = "recommended", "best possible", "most bookmarked so far", "at random"
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="conf/local.yaml")
    parser.add_argument("--week", default="2026-W10")
    given = parser.parse_args()
    torch.set_num_threads(1)
    job = Job(load_config(given.config, [], Config), Week.parse(given.week))
    require_finished(job, "train_ranker", "recommend_illustrations")
    made = provenance(f"python benchmarks/recommendations.py --config {given.config} --week {given.week}")
    result = {**made, "lists": _lists(job), "aging": _aging(job)}
    shares = {line["first"]: line[LIST]["estimate"] for line in result["lists"]["lines"]}
    write_evidence(PAGE, result, _text(result), {"bookmarked": shares, "lost": result["aging"]["lines"][0]["lost"]["estimate"]})


# ---------------------------------------------------------------- how good
@dataclass(frozen=True)
class World:
    """The drawn world's probability that a view becomes a bookmark, for any pair."""

    config: WorldConfig
    folder: str  # of the truth

    def probability(self, user_id: Ints, illust_id: Ints) -> Floats:
        """[U, I]. Raises AssertionError where it is not what the world's own truth says of the views that there were."""
        illustrations, users = draw_illustrations(self.config), draw_users(self.config)
        views = draw_views(self.config, illustrations, users)
        blocks = [slice(first, first + 2**17) for first in range(0, len(views), 2**17)]
        term_V5 = np.concatenate([_terms(illustrations, users, views.user[block], views.illust[block]) for block in blocks])
        mean_5, spread_5 = term_V5.mean(0), term_V5.std(0)

        def wish(user: Ints, term_N5: Floats) -> Floats:
            weighed: Floats = (users.weight[user] * (term_N5 - mean_5) / spread_5).sum(1)
            return weighed

        wish_V = wish(views.user, term_V5)
        self._check(users.user_id[views.user], illustrations.illust_id[views.illust],
                    expit(users.bias[views.user] + self.config.gain * (wish_V - wish_V.mean()) / wish_V.std()))
        user_U, item_I = (_places(np.sort(known), asked, np.argsort(known)) for known, asked in ((users.user_id, user_id),
                                                                                               (illustrations.illust_id, illust_id)))
        of_user = [wish(pair, _terms(illustrations, users, pair, item_I)) for pair in (np.full(len(item_I), user) for user in user_U)]
        return expit(users.bias[user_U, None] + self.config.gain * (np.stack(of_user) - wish_V.mean()) / wish_V.std())

    def _check(self, user_N: Ints, illust_N: Ints, probability_N: Floats) -> None:
        truth = pq.read_table(Path(self.folder) / "events.parquet").to_pandas()
        order_N, known = np.lexsort((illust_N, user_N)), truth.sort_values(["user_id", "illust_id"])
        np.testing.assert_array_equal(user_N[order_N], known["user_id"])
        np.testing.assert_allclose(probability_N[order_N], known["probability"], atol=1e-9)


def _lists(job: Job) -> dict[str, Any]:
    moment, asked = job.week.end, job.config.recommend
    events, illustrations = job.read("events"), job.read("illustrations")
    users = users_at(events, illustrations, moment, job.config.windows.lengths(), asked.active_days).select("user_index", "seen").toPandas()
    items = candidates_at(events, illustrations, moment, asked.candidate_days).toPandas()
    users, items = (frame.sort_values(key, ignore_index=True) for frame, key in ((users, "user_index"), (items, "illust_index")))
    ids = {name: table.toPandas().set_index(key)[name] for table, name, key in (
        (job.read("users").select("user_index", "user_id"), "user_id", "user_index"),
        (illustrations.select("illust_index", "illust_id"), "illust_id", "illust_index"))}
    assert job.config.evaluation.truth is not None, "a drawn world, whose truth is known"
    world = World(job.config.world, str(job.config.evaluation.truth))
    truth_UI = world.probability(ids["user_id"][users["user_index"]].to_numpy(), ids["illust_id"][items["illust_index"]].to_numpy())
    seen_UI = np.stack([np.isin(items["illust_index"], seen) for seen in users["seen"]])
    lists = pq.read_table(list(job.snapshot(RECOMMENDATIONS.name).files)).to_pandas()
    place_UI = np.full(truth_UI.shape, np.inf)
    user_N, item_N = (np.searchsorted(frame[key], lists[key]) for frame, key in ((users, "user_index"), (items, "illust_index")))
    place_UI[user_N, item_N] = lists["place"]
    orders = {LIST: place_UI, BEST: -truth_UI, POPULAR: np.broadcast_to(-items["illust_bookmarks"].to_numpy(float), truth_UI.shape)}
    ranked = {name: np.where(seen_UI, np.inf, order_UI).argsort(1, kind="stable") for name, order_UI in orders.items()}
    lines = []
    for first in FIRST:
        share = {name: np.take_along_axis(truth_UI, order_UI[:, :first], 1).mean(1) for name, order_UI in ranked.items()}
        share[RANDOM] = np.nanmean(np.where(seen_UI, np.nan, truth_UI), 1)
        lines.append({"first": first, **{name: _mean(share_U) for name, share_U in share.items()},
                      "over_popular": _mean(share[LIST] - share[POPULAR]), "over_random": _mean(share[LIST] - share[RANDOM])})
    return {"moment": moment.isoformat(), "users": len(users), "illustrations": len(items), "seen": round(float(seen_UI.sum(1).mean()), 1),
            "lines": lines}


def _mean(value_U: Floats) -> dict[str, float]:
    """The mean over users, and its 95 % interval over resampled ones."""
    weight_RU = np.random.default_rng(0).poisson(1.0, (REPLICATES, len(value_U)))
    low, high = np.quantile(weight_RU @ value_U / weight_RU.sum(1), [0.025, 0.975])
    return {"estimate": round(float(value_U.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


# ---------------------------------------------------------------- how they age
def _aging(job: Job) -> dict[str, Any]:
    bounds = split_bounds(job.week, job.config.windows)
    start = bounds["test"][0]
    events, illustrations = job.read("events"), job.read("illustrations")
    known = users_at(events, illustrations, start, job.config.windows.lengths(), job.config.recommend.active_days)
    users = _columns(known.select(*USER_COLUMNS).toArrow(), "user_index")
    candidates = _columns(candidates_at(events, illustrations, start).toArrow(), "illust_index")
    table = pq.read_table(list(job.snapshot("window_test").files), columns=[*COLUMNS, "at"])
    user_N = _places(users["user_index"], table["user_index"].to_numpy())
    item_N = _places(candidates["illust_index"], table["illust_index"].to_numpy())
    there_N = (user_N >= 0) & (item_N >= 0)
    folder = job.model_folder("train_ranker") / MAIN
    ranker = load_ranker(folder).eval()
    lookup = Lookup(plan_for(job.store.root, folder, job.config.training.features).open_features(), ranker)
    rows = table.filter(pa.array(there_N))
    with torch.inference_mode():
        own = torch.cat([ranker(lookup.batch(part)).logit_B for part in _batches(rows.select(list(COLUMNS)))]).double().numpy()
        meeting = Meeting(ranker, lookup, candidates, BATCH)
        parts = [{name: column[first:first + USERS] for name, column in users.items()} for first in range(0, len(users["user_index"]), USERS)]
        of_start = torch.cat([meeting.scores(part) for part in parts])[user_N[there_N], item_N[there_N]].double().numpy()
    day_N = (table["at"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy() - microseconds(start)) / DAY_US
    last = float(np.ceil(day_N.max()))
    spans = {"all": (0.0, last), **{f"{first} to {end}": (float(first), float(end)) for first, end in DAYS if first < last}}
    lines = [_line(name, (day_N >= first) & (day_N < end), there_N, rows, {OWN: own, START: of_start}) for name, (first, end) in spans.items()]
    return {"start": start.isoformat(), "days_since_training": (start - bounds["train"][1]).days, "lines": lines,
            "days_of_a_list": (job.week.end - bounds["train"][1]).days}


def _line(days: str, mask_N: npt.NDArray[np.bool_], there_N: npt.NDArray[np.bool_], rows: pa.Table, scores: dict[str, Floats]
          ) -> dict[str, Any]:
    """GAUC: AUC within each user, weighed by the user's rows; users with rows of one label say nothing."""
    inside_R = mask_N[there_N]
    user_R, label_R = (rows[name].to_numpy()[inside_R] for name in ("user_index", "label"))
    of_users = {name: auc_by_user(user_R, label_R, score_R[inside_R]) for name, score_R in scores.items()}
    rows_U = next(iter(of_users.values()))[0]
    kept_U = ~np.isnan(of_users[OWN][1])
    weight_RU = np.random.default_rng(0).poisson(1.0, (REPLICATES, int(kept_U.sum()))) * rows_U[kept_U]
    aucs = {name: auc_U[kept_U] for name, (_, auc_U) in of_users.items()}
    return {"days": days, "rows": int(inside_R.sum()), "left_out": round(1 - float(inside_R.sum() / mask_N.sum()), 3),
            **{name: _weighed(auc_U, rows_U[kept_U], weight_RU) for name, auc_U in aucs.items()},
            "lost": _weighed(aucs[OWN] - aucs[START], rows_U[kept_U], weight_RU)}


def _weighed(value_U: Floats, rows_U: Floats, weight_RU: Floats) -> dict[str, float]:
    low, high = np.quantile(weight_RU @ value_U / weight_RU.sum(1), [0.025, 0.975])
    return {"estimate": round(float(value_U @ rows_U / rows_U.sum()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def _columns(table: pa.Table, key: str) -> Rows:
    (batch,) = table.sort_by(key).combine_chunks().to_batches()
    return rows_of(batch)


def _places(known_sorted: npt.NDArray[Any], value_N: npt.NDArray[Any], place: Ints | None = None) -> Ints:
    """Where each value stands among the sorted known ones (or its `place`); -1 where it does not."""
    place_N = np.searchsorted(known_sorted, value_N).clip(max=len(known_sorted) - 1)
    found = place_N if place is None else place[place_N]
    return np.where(known_sorted[place_N] == value_N, found, -1)


def _batches(table: pa.Table) -> Iterator[Rows]:
    for batch in table.combine_chunks().to_batches(max_chunksize=BATCH):
        yield rows_of(batch)


# ---------------------------------------------------------------- the page
def _text(result: dict[str, Any]) -> str:
    lists, aging = result["lists"], result["aging"]
    good = [f"| {line['first']} | " + " | ".join(f"{line[name]['estimate']:.3f}" for name in (BEST, LIST, POPULAR, RANDOM))
            + f" | {_said(line['over_popular'])} | {_said(line['over_random'])} |" for line in lists["lines"]]
    aged = [f"| {line['days']} | {line['rows']:,} | {line['left_out']:.0%} | {line[OWN]['estimate']:.3f} | {line[START]['estimate']:.3f} | {_said(line['lost'])} |"
            for line in aging["lines"]]
    return "\n".join([
        "# How good recommendations are, and how they age", "", origin(result), "",
        "One week of one drawn world, one training of the ranker.", "", "## How good", "",
        f"{lists['users']:,} active users, {lists['illustrations']:,} illustrations, {lists['seen']:,} of which a user has seen; as of {lists['moment'][:10]}. Of the first illustrations of each user's list, all unseen, the mean",
        "probability that the user, shown them, bookmarks them: the world knows it of every pair. *Best possible*: a list by those probabilities themselves.", "",
        f"| first | {BEST} | {LIST} | {POPULAR} | {RANDOM} | recommended, more than most bookmarked | more than at random |", "| --- | --- | --- | --- | --- | --- | --- |", *good, "",
        "## How they age", "",
        "A recommendation knows a user and an illustration as they were when the list was made. Here the ranker scores the rows of its test window twice: as of each row's own moment, as",
        f"reports do, and as of the window's start ({aging['start'][:10]}), as a list made then would. GAUC is the AUC within each user, which is all that a list is about. Left out are rows of users who were",
        "not active before the start, and of illustrations that did not exist then.", "",
        "| days since the start | rows | left out | GAUC as of the row | GAUC as of the start | lost (95 % interval over users) |", "| --- | --- | --- | --- | --- | --- |", *aged, "",
        "In this world nobody's taste changes: what is lost is what happened since alone, none of it fashion. And the ranker is fresher than a list's: its training rows end",
        f"{aging['days_since_training']} days before this start, and {aging['days_of_a_list']} before the end of the week, when lists are made.", ""])


def _said(figure: dict[str, float]) -> str:
    return f"{figure['estimate']:+.3f} ({figure['low']:+.3f} to {figure['high']:+.3f})"


if __name__ == "__main__":
    main()
