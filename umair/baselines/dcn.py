"""DCN (Wang et al. 2017): crosses by vectors beside a deep network. B rows, D width of the fields side by side, L layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from umair.baselines.rival import CrossRival


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


class Dcn(CrossRival):
    """Its crosses are by vectors."""

    def crosses(self, width: int) -> nn.Module:
        return CrossNet(width, self.config.cross_layers)

    def kernels(self) -> list[Tensor]:
        return [*super().kernels(), self.cross.get_parameter("weight_LD")]
