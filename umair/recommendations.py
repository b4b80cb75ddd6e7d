"""Which illustrations suit each user best at one moment: every user meets every candidate, over Spark.

What the ranker makes of a user alone is made once a user, and what it makes of an illustration alone once an illustration in
each Python worker; a pair costs only their meeting (`umair.model.sides`).
U users, I candidates, B pairs.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pydantic import Field
from pyspark import Broadcast
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame
from torch import Tensor

from umair.config import Section
from umair.devices import tasks_for
from umair.embedding.arrow import in_worker, record_batch, tables_of
from umair.errors import ConfigError, ContractError
from umair.evaluation.scoring import ScoringPlan, open_scorer, rows_of
from umair.model.ranker import Ranker, UmairRanker
from umair.model.sides import ItemSide, UserSide, chosen
from umair.training.lookup import Lookup
from umair.training.loop import MAIN
from umair.training.reader import Rows

log = logging.getLogger("umair.recommendations")
USERS = 32  # that meet the candidates at once
PAIRS = {"cpu": 2**11, "cuda": 2**18}  # scored at once
USERS_A_TASK, TASKS_A_SLOT = 2_000, 4
USER_COLUMNS = ("user_index", "user_views", "user_bookmarks", "long_tags", "long_weights", "short_tags", "short_weights",
                "bookmarked", "passed")  # of a window's row
ITEM_COLUMNS = ("illust_index", "illust_views", "illust_bookmarks")
FOUND = "user_index int, place int, illust_index int, score double"

Candidates = dict[str, npt.NDArray[np.int32]]  # ITEM_COLUMNS: [I] each, by illust_index


class RecommendConfig(Section):
    """Who is recommended what."""

    count: int = Field(50, gt=0)  # illustrations a user, at most
    active_days: int | None = Field(28, gt=0)  # users with an event in so many days before the week's end; null: with any
    candidate_days: int | None = Field(None, gt=0)  # illustrations created in so many days before it; null: all
    candidates: str | None = None  # which of them: a condition in SQL on the table illustrations, such as x_restrict = 0
    seen: bool = False  # whether illustrations that the user has viewed or bookmarked may be among them
    rejected: bool = Field(False, exclude=True)  # whether a ranker that the evaluation rejected may recommend
    batch_rows: int = Field(2_048, gt=0, exclude=True)  # illustrations whose sides are made at once
    threads: int = Field(1, gt=0, exclude=True)  # of torch, in each Spark task


@dataclass(frozen=True)
class RecommendPlan:
    """What a Python worker needs in order to recommend."""

    scoring: ScoringPlan
    count: int
    seen: bool = False


def recommend(users: DataFrame, candidates: DataFrame, plan: RecommendPlan, active: int) -> DataFrame:
    """The `plan.count` candidates with the highest scores for each user, best first: FOUND, `place` from 1 on.

    users and candidates: of `umair.windows.moment`; there are `active` users, and candidates come to the driver, 12 bytes
    each. Raises ContractError where there is no user or no candidate; within Spark's error for scores that are not numbers,
    for indices beyond the packed features, and for a ranker that has no sides (`require_sides`).
    """
    if not active:
        raise ContractError("users", "none with an event", "some, in recommend.active_days before the week's end",
                            "look at the events of the week, widen it, or set it to null for all users")
    table = candidates.toPandas().sort_values("illust_index")
    if table.empty:
        raise ContractError("candidates", "no illustration", "illustrations created in recommend.candidate_days before the "
                            "week's end, to which recommend.candidates applies", "widen it, or set it to null for all")
    columns = {name: table[name].to_numpy(np.int32) for name in ITEM_COLUMNS}
    log.info("%s users meet %s illustrations", f"{active:,}", f"{len(table):,}")
    key = hashlib.sha256(b"".join(column.tobytes() for column in columns.values())).hexdigest()
    shared = users.sparkSession.sparkContext.broadcast(columns)
    work = in_worker(functools.partial(recommend_batches, plan=plan, candidates=shared, key=key))
    # A stage of its own: within one, Spark gives its Python workers this work and that of `add_past` by turns, so that they
    # would open the ranker again and again. By user and not by turns, so that a lost task is made again as it was.
    spread = users.repartition(tasks_for(users.sparkSession, active, USERS_A_TASK, TASKS_A_SLOT), "user_index")
    return spread.mapInArrow(work, FOUND)


def recommend_batches(batches: Iterable[pa.RecordBatch], plan: RecommendPlan, candidates: Broadcast[Candidates], key: str
                      ) -> Iterator[pa.RecordBatch]:
    """What `mapInArrow` calls: rows of `users_at` in, FOUND out. `key` stands for the candidates."""
    for table in tables_of(batches, USERS):
        (users,) = table.combine_chunks().to_batches()
        yield _best(_open_meeting(plan.scoring, candidates, key), users, plan)


def among(illustrations: DataFrame, condition: str | None) -> DataFrame:
    """Those to which the condition applies. Raises ConfigError for one that Spark does not understand."""
    if condition is None:
        return illustrations
    try:
        return illustrations.filter(condition)
    except AnalysisException as error:
        raise ConfigError("recommend.candidates", f"'{condition}' ({str(error).splitlines()[0]})",
                          f"a condition on {', '.join(illustrations.columns)}", "correct it") from error


def require_sides(ranker: Ranker) -> UmairRanker:
    """The same ranker. Raises ContractError for one whose score of a pair is not of two sides: a rival, and `batch_mean`."""
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
        """[U, I]: the logit of every user with every candidate. users: USER_COLUMNS."""
        user = self.ranker.user_side(self.ranker.prepared(self.lookup.users(users).to(self.device)))
        score_UI = torch.empty(len(user.user_BD), len(self.candidates["illust_index"]), device=self.device)
        first = 0
        for part in self.items:
            for start in range(0, len(part.modality_BMD), self.block):
                item = chosen(part, slice(start, start + self.block))
                last = first + len(item.modality_BMD)
                score_UI[:, first:last] = self._meet(user, item)
                first = last
        return score_UI

    def _meet(self, user: UserSide, item: ItemSide) -> Tensor:
        users, items = len(user.user_BD), len(item.modality_BMD)
        user_B = torch.arange(users, device=self.device).repeat_interleave(items)
        item_B = torch.arange(items, device=self.device).repeat(users)
        logit_B: Tensor = self.ranker.meet(chosen(user, user_B), chosen(item, item_B)).logit_B
        return logit_B.view(users, items)

    @torch.inference_mode()
    def _item_sides(self, rows: int) -> list[ItemSide]:
        starts = range(0, len(self.candidates["illust_index"]), rows)
        parts = [{name: column[start:start + rows] for name, column in self.candidates.items()} for start in starts]
        return [self.ranker.item_side(self.ranker.prepared(self.lookup.items(part).to(self.device))) for part in parts]


_OPEN: dict[str, Meeting] = {}  # the one that this Python worker serves


def _open_meeting(plan: ScoringPlan, candidates: Broadcast[Candidates], key: str) -> Meeting:
    key = f"{plan.key} {key}"
    if key not in _OPEN:
        _OPEN.clear()
        scorer = open_scorer(plan)
        _OPEN[key] = Meeting(scorer.rankers[MAIN], scorer.lookups[MAIN], candidates.value, plan.batch_rows)
    return _OPEN[key]


@torch.inference_mode()
def _best(meeting: Meeting, users: pa.RecordBatch, plan: RecommendPlan) -> pa.RecordBatch:
    score_UI = meeting.scores(rows_of(users.select(list(USER_COLUMNS))))
    if not bool(score_UI.isfinite().all()):
        raise ContractError("the ranker", "scores that are not numbers", "finite scores",
                            "train it again with a lower learning rate, and look for broken vectors")
    illust_I = meeting.candidates["illust_index"]
    if not plan.seen:
        score_UI[_pairs_seen(users.column("seen"), illust_I, meeting.device)] = -torch.inf
    best_UK, item_UK = (found.cpu().numpy() for found in score_UI.topk(min(plan.count, len(illust_I))))
    there_UK = np.isfinite(best_UK)
    user_UK = np.broadcast_to(users.column("user_index").to_numpy()[:, None], best_UK.shape)
    place_UK = np.broadcast_to(np.arange(1, best_UK.shape[1] + 1, dtype=np.int32), best_UK.shape)
    score = torch.from_numpy(best_UK[there_UK]).double().sigmoid().numpy()
    return record_batch({"user_index": user_UK[there_UK], "place": place_UK[there_UK],
                         "illust_index": illust_I[item_UK[there_UK]], "score": score})


def _pairs_seen(seen: pa.Array, illust_I: npt.NDArray[np.int32], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns of the candidates that the users have seen; `illust_I` is sorted."""
    user = np.repeat(np.arange(len(seen)), seen.value_lengths().to_numpy())
    illust = seen.flatten().to_numpy()
    item = np.searchsorted(illust_I, illust).clip(max=len(illust_I) - 1)
    there = illust_I[item] == illust
    rows, columns = (torch.from_numpy(index[there]).to(device) for index in (user, item))
    return rows, columns
