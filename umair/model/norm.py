"""Batch norm over the known rows of a batch, or of all ranks' batches together. X rows, P numbers of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm1d):
    """torch's, value_XP -> [X, P]. With `add`, which sums a tensor over the ranks and lets gradients through, a training
    step has the moments of every rank's rows: ranks then learn what one of them would from all rows."""

    add: Callable[[Tensor], Tensor] | None = None

    def forward(self, input: Tensor) -> Tensor:
        if self.add is None or not self.training:
            return super().forward(input)
        value_XP = input.float()  # moments in float32 whatever the products'
        scale_P, shift_P = self.scale_and_shift(*self.moments(value_XP, value_XP.new_ones(len(input), 1)))
        return torch.addcmul(shift_P, value_XP, scale_P)

    def scale_and_shift(self, mean_P: Tensor, square_P: Tensor) -> tuple[Tensor, Tensor]:
        """scale_P and shift_P that bring values of this mean and variance to the learnt ones; also of a shape [M, P]."""
        scale_P = self.weight.view_as(mean_P) * (square_P + self.eps).rsqrt()
        return scale_P, self.bias.view_as(mean_P) - mean_P * scale_P

    def settled(self, shape: Sequence[int] = (-1,)) -> tuple[Tensor, Tensor]:
        """The running mean_P and variance_P, or both as [M, P]."""
        return self.get_buffer("running_mean").view(*shape), self.get_buffer("running_var").view(*shape)

    def moments(self, value_XP: Tensor, known_X1: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance over the known ones, which move the running ones as those of batch norm do. Where fewer than two
        are known, the running ones. No shape depends on what is known, so that a GPU is not waited for. Value and known may
        also be [X, M, P] and [X, M, 1]: then M groups of numbers, known apart from each other."""
        (settled_P, spread_P), add, groups = self.settled(value_XP.shape[1:]), self.add or _alone, known_X1[0].numel()
        sums = add(torch.cat([known_X1.sum(0).flatten(), (value_XP * known_X1).sum(0).flatten()]))
        count_1, sum_P = sums[:groups].view(known_X1.shape[1:]), sums[groups:].view_as(settled_P)
        mean_P = sum_P / count_1.clamp(min=1)
        square_P = add(((value_XP - mean_P).square() * known_X1).sum(0)) / count_1.clamp(min=1)
        with torch.no_grad():
            pace_1 = (self.momentum or 0.0) * (count_1 > 1)
            settled_P += pace_1 * (mean_P - settled_P)
            spread_P += pace_1 * (square_P * count_1 / (count_1 - 1).clamp(min=1) - spread_P)
        return torch.where(count_1 > 1, mean_P, settled_P), torch.where(count_1 > 1, square_P, spread_P)


def _alone(sums: Tensor) -> Tensor:
    return sums
