"""DCN-V2 (Wang et al. 2021) in its parallel form with low-rank experts. B rows, F fields, E embedding width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from umair.baselines.rival import Rival
from umair.model.profiles import tower
from umair.model.ranker import RankerConfig, cross_network


class DcnV2(Rival):
    """Cross network and deep network side by side over the fields."""

    def __init__(self, config: RankerConfig, widths: dict[str, int]) -> None:
        super().__init__(config, widths)
        self.cross = cross_network(config, self.width)
        self.deep = tower(self.width, config.deep, config.deep_dropout)
        self.out = nn.Linear(self.width + config.deep[-1], 1, bias=False)

    def judge(self, fields_BFE: Tensor) -> Tensor:
        x_BD = fields_BFE.flatten(1)
        logit_B1: Tensor = self.out(torch.cat([self.cross(x_BD), self.deep(x_BD)], 1))
        return logit_B1[:, 0]
