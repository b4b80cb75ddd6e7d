"""Rows of a table that no gradient names for a while.

N rows of a table of width E, X some of them; S steps that a row may have left; W steps in which a first moment fades.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

FADED = 1e-12  # what is left of a first moment when it pulls no more
CHUNK = 65_536  # rows that are brought up to date together
ROOM = 1_024  # steps by which the sums grow


class Rest:
    """One table's rows: how long each has rested, and what Adam would have done to it meanwhile.

    A row left step s with moments m and v. Step i > s, without a gradient, finds the moments m b^(i-s) and v c^(i-s), betas
    b and c. It multiplies the row by 1 - lr_i decay, and takes from it

        lr_i / (1 - b^i) m b^(i-s) / (sqrt(v) / u_i + eps), where u_i = sqrt(1 - c^i) c^(-(i-s)/2).

    But for eps the row's own m and v are factors of that, and the rest depends on s alone: it is summed up for each s as
    steps go by, without the factor u (pull) and with it (swift), so that swift / pull is the mean of u. With eps a row has
    drifted by

        m swift / (sqrt(v) + eps swift / pull),

    exactly where one of sqrt(v) and eps is small beside the other. Where they are alike that is off by at most 1.5e-5 of the
    drift for s of a thousand or more, by 5e-4 at a hundred, by a few hundredths in the first ten steps, as u_i rises.
    Each operation is one of IEEE's, and none is fused, so that a row drifts the same to the bit beside whichever others.
    """

    def __init__(self, table_NE: Tensor, state: dict[str, Tensor], first: float, second: float, eps: float) -> None:
        self.table_NE, self.state, self.first, self.second, self.eps = table_NE, state, first, second, eps
        self.now = int(state["step"])  # steps taken
        self.start = self.now  # those that all rows had at the last `settle`
        self.left_N = torch.full((len(table_NE),), self.start, dtype=torch.int32, device=table_NE.device)  # each row's s
        gap_W = torch.arange(math.ceil(math.log(FADED, first)), 0, -1, dtype=torch.float64)  # i - s, the longest first
        self.power_W, self.swiftness_W = (first ** gap_W).to(table_NE.device), (second ** (-gap_W / 2)).to(table_NE.device)
        self.missed_5S = self._empty_sums()
        self.shown: tuple[Tensor, Tensor] | None = None  # rows that only look up to date, and what they are

    def _empty_sums(self) -> Tensor:
        """pull, swift, and what is left of weight, first and second moment: of rows that missed nothing, ROOM steps s."""
        with torch.inference_mode(False):  # even if scoring asks: later steps write to it
            missed_5S = torch.zeros(5, ROOM, dtype=torch.float64, device=self.table_NE.device)
            missed_5S[2:] = 1.0
        return missed_5S

    # ------------------------------------------------------------ steps
    def step(self, gradient: Tensor, rate: float, decay: float) -> None:
        """The rows of a coalesced gradient take a step, the others rest."""
        self._put_back()
        row_X, value_XE = gradient.indices()[0], gradient.values()
        self._catch_up(row_X)
        self.now += 1
        self.state["step"] += 1
        moment_NE, square_NE = self.state["exp_avg"], self.state["exp_avg_sq"]
        moment_XE = moment_NE.index_select(0, row_X).lerp_(value_XE, 1 - self.first)
        square_XE = square_NE.index_select(0, row_X).mul_(self.second).addcmul_(value_XE, value_XE, value=1 - self.second)
        moment_NE[row_X], square_NE[row_X] = moment_XE, square_XE
        deviation_XE = (square_XE / (1 - self.second ** self.now)).sqrt_().add_(self.eps)
        step_XE = (moment_XE / deviation_XE).mul_(-rate / (1 - self.first ** self.now))
        self.table_NE[row_X] = self.table_NE.index_select(0, row_X).mul_(1 - rate * decay).add_(step_XE)
        self.left_N[row_X] = self.now
        self._add_step(rate, 1 - rate * decay)

    def _add_step(self, rate: float, kept: float) -> None:
        """Adds the step just taken to what rows have missed that left any step before it."""
        count = self.now - self.start
        if count > self.missed_5S.shape[1]:
            self.missed_5S = torch.cat([self.missed_5S, self._empty_sums()], 1)
        # pull, swift, what is left of weight, first and second moment
        for place, factor in enumerate((kept, kept, kept, self.first, self.second)):
            self.missed_5S[place, :count] *= factor
        width = min(count, len(self.power_W))
        pull_W = self.power_W[-width:] * (rate / (1 - self.first ** self.now))
        self.missed_5S[0, count - width:count] += pull_W
        self.missed_5S[1, count - width:count] += pull_W * self.swiftness_W[-width:] * math.sqrt(1 - self.second ** self.now)

    # ------------------------------------------------------------ rows that rested
    def before_reading(self, row: Tensor, padding: int | None, *, learning: bool) -> None:
        """Brings rows, of any shape and in any number, up to date; but for `padding`, which is never read.

        Where no gradient comes back (lists, validation) they only look so, until the next step, look-up or settling: what
        the other ranks do not read must leave no trace, as a row that drifts in two parts comes out another by rounding.
        """
        if self.now == self.start:
            return
        self._put_back()
        row_X = torch.unique(self._behind(row.flatten().long()))
        row_X = row_X if padding is None else row_X[row_X != padding]
        if learning:
            self._catch_up(row_X)
        elif len(row_X):
            self.shown = row_X, self.table_NE.index_select(0, row_X)
            self.table_NE[row_X] = self._drifted(row_X, self._missed(row_X))

    def _put_back(self) -> None:
        if self.shown is not None:
            row_X, weight_XE = self.shown
            self.table_NE[row_X] = weight_XE
            self.shown = None

    def settle(self) -> None:
        """Brings all rows up to date."""
        if self.now > self.start:
            self._put_back()
            for row_X in torch.split((self.left_N < self.now).nonzero()[:, 0], CHUNK):
                self._catch_up(row_X)
            self.start = self.now
            self.missed_5S = self._empty_sums()

    def _catch_up(self, row_X: Tensor) -> None:
        row_X = self._behind(row_X)
        if len(row_X):
            missed = self._missed(row_X)
            self.table_NE[row_X] = self._drifted(row_X, missed)
            self.state["exp_avg"][row_X] = self.state["exp_avg"].index_select(0, row_X).mul_(missed.first_X1)
            self.state["exp_avg_sq"][row_X] = self.state["exp_avg_sq"].index_select(0, row_X).mul_(missed.second_X1)
            self.left_N[row_X] = self.now

    def _behind(self, row_X: Tensor) -> Tensor:
        return row_X.masked_select(self.left_N.index_select(0, row_X) < self.now)

    def _missed(self, row_X: Tensor) -> _Missed:
        missed_5X = self.missed_5S[:, self.left_N.index_select(0, row_X).long() - self.start]
        blunt_X = self.eps * (missed_5X[1] / missed_5X[0]).nan_to_num(1.0)  # neither pulls at a rate of 0
        return _Missed(*(number_X.to(self.table_NE.dtype)[:, None] for number_X in (*missed_5X[1:], blunt_X)))

    def _drifted(self, row_X: Tensor, missed: _Missed) -> Tensor:
        drift_XE = self.state["exp_avg"].index_select(0, row_X).mul_(missed.swift_X1)
        drift_XE.div_(self.state["exp_avg_sq"].index_select(0, row_X).sqrt_().add_(missed.blunt_X1))
        return self.table_NE.index_select(0, row_X).mul_(missed.kept_X1).sub_(drift_XE)


class _Missed(NamedTuple):
    """What rows have missed, in the table's dtype."""

    swift_X1: Tensor
    kept_X1: Tensor  # what is left of the weight
    first_X1: Tensor  # of the first moment
    second_X1: Tensor  # of the second
    blunt_X1: Tensor  # eps times the mean of u
