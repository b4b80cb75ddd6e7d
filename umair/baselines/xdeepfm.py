"""xDeepFM (Lian et al. 2018): a compressed interaction network beside a deep network.

B rows, F fields, E embedding width, H feature maps of a layer, I of the layer before.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from umair.baselines.rival import Rival
from umair.model.ranker import RankerConfig

MAPS = (64, 64)  # of each layer, in the authors' code
ROWS_AT_ONCE = 16  # whose products of fields stay in a core's cache: three times as fast as all rows at once


class InteractionNetwork(nn.Module):
    """X'[h] = sum over i, j of W[h, i, j] X[i] * X0[j], without activation: fields_BFE -> [B, sum of MAPS].

    Each layer's maps are summed over E. Weights: F F H1 + F H1 H2.
    """

    def __init__(self, fields: int) -> None:
        super().__init__()
        before = (fields, *MAPS[:-1])
        self.weights = nn.ParameterList([torch.randn(maps, wide, fields) * (2 / (wide * fields + maps)) ** 0.5
                                         for wide, maps in zip(before, MAPS, strict=True)])

    def forward(self, fields_BFE: Tensor) -> Tensor:
        if fields_BFE.is_cuda:
            return self._sums(fields_BFE)
        return torch.cat([self._sums(part) for part in torch.split(fields_BFE, ROWS_AT_ONCE)])

    def _sums(self, fields_BFE: Tensor) -> Tensor:
        fields_BEF = fields_BFE.transpose(1, 2)
        maps_BEH, sums = fields_BEF, []
        for weight_HIF in self.weights:
            product_BEX = (maps_BEH[:, :, :, None] * fields_BEF[:, :, None]).flatten(2)  # X = I F
            maps_BEH = product_BEX @ weight_HIF.flatten(1).T
            sums.append(maps_BEH.sum(1))
        return torch.cat(sums, 1)


class XDeepFm(Rival):
    """Interaction network, deep network and linear part, added."""

    def __init__(self, config: RankerConfig, widths: dict[str, int]) -> None:
        super().__init__(config, widths)
        self.interactions = InteractionNetwork(self.fields.count)
        self.out = nn.Linear(sum(MAPS), 1, bias=False)
        self.deep = self.deep_logit(self.width)

    def judge(self, fields_BFE: Tensor) -> Tensor:
        logit_B1: Tensor = self.out(self.interactions(fields_BFE)) + self.deep(fields_BFE.flatten(1))
        return logit_B1[:, 0]
