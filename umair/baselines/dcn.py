"""DCN (Wang et al. 2017): crosses by vectors beside a deep network. B rows, D width of the fields side by side, L layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from umair.baselines.rival import Rival
from umair.model.profiles import tower
from umair.model.ranker import RankerConfig


class CrossNet(nn.Module):
    """x' = x0 (x' w) + b + x for each layer: x_BD -> [B, D]. Weights: 2 L D."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.weight_LD = nn.Parameter(torch.randn(layers, width) * (2 / (width + 1)) ** 0.5)
        self.bias_LD = nn.Parameter(torch.zeros(layers, width))

    def forward(self, x0_BD: Tensor) -> Tensor:
        x_BD = x0_BD
        for weight_D, bias_D in zip(self.weight_LD, self.bias_LD, strict=True):
            x_BD = x0_BD * (x_BD @ weight_D)[:, None] + bias_D + x_BD
        return x_BD


class Dcn(Rival):
    """Cross network and deep network side by side over the fields."""

    def __init__(self, config: RankerConfig, widths: dict[str, int]) -> None:
        super().__init__(config, widths)
        self.cross = CrossNet(self.width, config.cross_layers)
        self.deep = tower(self.width, config.deep, config.deep_dropout)
        self.out = nn.Linear(self.width + config.deep[-1], 1, bias=False)

    def judge(self, fields_BFE: Tensor) -> Tensor:
        x_BD = fields_BFE.flatten(1)
        logit_B1: Tensor = self.out(torch.cat([self.cross(x_BD), self.deep(x_BD)], 1))
        return logit_B1[:, 0]
