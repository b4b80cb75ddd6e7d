"""Which illustrations suit each user best at one moment: every user meets every candidate, over Spark.

What the ranker makes of a user alone is made once a user, and what it makes of an illustration alone once an illustration in
each Python worker (2 kB of memory each at the default's sizes); a pair costs only their meeting (`umair.model.sides`).
U users, I candidates, B pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pydantic import Field
from pyspark import Broadcast
from pyspark.sql import DataFrame
from torch import Tensor

from umair.config import Section
from umair.embedding.arrow import in_worker, record_batch, tables_of
from umair.errors import ContractError
from umair.evaluation.scoring import ScoringPlan, open_scorer, rows_of
from umair.model.batch import Batch
from umair.model.ranker import Ranker, UmairRanker
from umair.model.sides import ItemSide, UserSide, chosen, one_below_the_other
from umair.schema import ABSENT
from umair.training.lookup import Lookup
from umair.training.loop import MAIN
from umair.training.reader import Rows

USERS = 32  # that meet the candidates at once
PAIRS = {"cpu": 2**13, "cuda": 2**18}  # scored at once
OF_A_USER = ("long_tags", "long_weights", "short_tags", "short_weights", "bookmarked", "passed")  # a row's lists
FOUND = "user_index int, place int, illust_index int, score double"

Candidates = dict[str, npt.NDArray[np.int32]]  # illust_index, illust_views, illust_bookmarks: [I] each


class RecommendConfig(Section):
    """Who is recommended what."""

    count: int = Field(50, gt=0)  # illustrations a user, at most
    active_days: int | None = Field(28, gt=0)  # users with an event in so many days before the week's end; null: with any
    candidate_days: int | None = Field(None, gt=0)  # illustrations created in so many days before it; null: all
    known: bool = False  # whether illustrations that the user has viewed or bookmarked may be among them
    rejected: bool = False  # whether a ranker that the evaluation rejected may recommend


@dataclass(frozen=True)
class RecommendPlan:
    """What a Python worker needs in order to recommend."""

    scoring: ScoringPlan
    count: int
    known: bool = False


def recommend(users: DataFrame, candidates: DataFrame, plan: RecommendPlan) -> DataFrame:
    """The `plan.count` candidates with the highest scores for each user, best first: FOUND, `place` from 1 on.

    users and candidates: of `umair.windows.moment`; candidates come to the driver, 12 bytes each. Raises ContractError where
    there is no candidate; within Spark's error for scores that are not numbers, for indices beyond the packed features, and
    for a ranker that has no sides (`require_sides`).
    """
    table = candidates.toArrow()
    if not len(table):
        raise ContractError("candidates", "no illustration", "illustrations created in recommend.candidate_days before the "
                            "week's end", "widen it, or set it to null for all")
    columns = {name: table.column(name).to_numpy().astype(np.int32) for name in table.column_names}
    order = np.argsort(columns["illust_index"])
    shared = users.sparkSession.sparkContext.broadcast({name: column[order] for name, column in columns.items()})
    work = in_worker(functools.partial(recommend_batches, plan=plan, candidates=shared))
    return users.mapInArrow(work, FOUND)


def recommend_batches(batches: Iterable[pa.RecordBatch], plan: RecommendPlan, candidates: Broadcast[Candidates]
                      ) -> Iterator[pa.RecordBatch]:
    """What `mapInArrow` calls: rows of `users_at` in, FOUND out."""
    meeting = None
    for table in tables_of(batches, USERS):
        meeting = meeting or _open_meeting(plan.scoring, candidates.value)
        (users,) = table.combine_chunks().to_batches()
        yield _best(meeting, users, plan)


def require_sides(ranker: Ranker) -> UmairRanker:
    """Raises ContractError for a ranker whose score of a pair is not of two sides: a rival, and `batch_mean`."""
    if not isinstance(ranker, UmairRanker) or ranker.config.batch_mean:
        found = "batch_mean" if ranker.config.batch_mean else f"form {ranker.config.form}"
        raise ContractError("the ranker", found, "form umair without batch_mean, which makes each side by itself",
                            "recommend with such a ranker, or score rows of your own (docs/own_data.md)")
    return ranker


class Meeting:
    """One ranker, ready to score, and the sides of the candidates, made in batches of `rows`; ready for users."""

    def __init__(self, ranker: Ranker, lookup: Lookup, candidates: Candidates, rows: int) -> None:
        self.ranker, self.lookup, self.device = require_sides(ranker), lookup, lookup.device
        self.candidates, self.block = candidates, PAIRS[self.device.type] // USERS
        self.items = self._item_sides(rows)

    @torch.inference_mode()
    def scores(self, users: Rows) -> Tensor:
        """[U, I]: the logit of every user with every candidate. users: user_index and PAST_COLUMNS."""
        user = self.ranker.user_side(self._batch(_without_illustration(users)))
        count, found = len(user.user_BD), []
        for start in range(0, len(self.items.fields_BF), self.block):
            found.append(self._meet(user, chosen(self.items, slice(start, start + self.block)), count))
        return torch.cat(found, 1)

    def _meet(self, user: UserSide, item: ItemSide, count: int) -> Tensor:
        width = len(item.fields_BF)
        user_B = torch.arange(count, device=self.device).repeat_interleave(width)
        item_B = torch.arange(width, device=self.device).repeat(count)
        logit_B: Tensor = self.ranker.meet(chosen(user, user_B), chosen(item, item_B)).logit_B
        return logit_B.view(count, width)

    @torch.inference_mode()
    def _item_sides(self, rows: int) -> ItemSide:
        starts = range(0, len(self.candidates["illust_index"]), rows)
        parts = [{name: column[start:start + rows] for name, column in self.candidates.items()} for start in starts]
        return one_below_the_other([self.ranker.item_side(self._batch(_without_user(part))) for part in parts])

    def _batch(self, rows: Rows) -> Batch:
        return self.ranker.prepared(self.lookup.batch(rows).to(self.device))


_OPEN: dict[str, Meeting] = {}  # the one that this Python worker serves


def _open_meeting(plan: ScoringPlan, candidates: Candidates) -> Meeting:
    if plan.key not in _OPEN or _OPEN[plan.key].candidates is not candidates:
        _OPEN.clear()
        scorer = open_scorer(plan)
        _OPEN[plan.key] = Meeting(scorer.rankers[MAIN], scorer.lookups[MAIN], candidates, plan.batch_rows)
    return _OPEN[plan.key]


@torch.inference_mode()
def _best(meeting: Meeting, users: pa.RecordBatch, plan: RecommendPlan) -> pa.RecordBatch:
    score_UI = meeting.scores(rows_of(users.select(["user_index", *OF_A_USER, "user_views", "user_bookmarks"])))
    if bool(score_UI.isnan().any()):
        raise ContractError("the ranker", "scores that are not numbers", "finite scores",
                            "train it again with a lower learning rate, and look for broken vectors")
    illust_I = meeting.candidates["illust_index"]
    if not plan.known:
        score_UI[_met(users.column("met"), illust_I)] = -torch.inf
    best_UK, place_UK = (found.cpu().numpy() for found in score_UI.topk(min(plan.count, len(illust_I))))
    there_UK = np.isfinite(best_UK)
    user_UK = np.broadcast_to(users.column("user_index").to_numpy()[:, None], best_UK.shape)
    rank_UK = np.broadcast_to(np.arange(1, best_UK.shape[1] + 1, dtype=np.int32), best_UK.shape)
    score = torch.from_numpy(best_UK[there_UK]).double().sigmoid().numpy()
    return record_batch({"user_index": user_UK[there_UK], "place": rank_UK[there_UK],
                         "illust_index": illust_I[place_UK[there_UK]], "score": score})


def _met(met: pa.Array, illust_I: npt.NDArray[np.int32]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Rows and columns of the candidates that the users have met; `illust_I` is sorted."""
    user = np.repeat(np.arange(len(met)), met.value_lengths().to_numpy())
    illust = met.flatten().to_numpy()
    place = np.searchsorted(illust_I, illust).clip(max=len(illust_I) - 1)
    among = illust_I[place] == illust
    return user[among], place[among]


def _without_illustration(users: Rows) -> Rows:
    """A row a user of no illustration: the look-up wants one, and the user's side does not read it."""
    nothing = np.zeros(len(users["user_index"]), np.int32)
    return {**users, **dict.fromkeys(("illust_index", "illust_views", "illust_bookmarks", "label"), nothing)}


def _without_user(candidates: Candidates) -> Rows:
    """A row a candidate of no user, likewise."""
    count = len(candidates["illust_index"])
    nothing, none = np.zeros(count, np.int32), np.full((count, 1), ABSENT, np.int32)
    lists = {name: none.astype(np.float32) * 0 if name.endswith("weights") else none for name in OF_A_USER}
    return {**candidates, **lists, **dict.fromkeys(("user_index", "user_views", "user_bookmarks", "label"), nothing)}
