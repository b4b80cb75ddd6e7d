"""FinalMLP (Mao et al. 2023): two deep networks over gated fields, fused by a bilinear map.

B rows, D width of the fields side by side, F fields, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from umair.baselines.rival import Rival
from umair.model.profiles import tower
from umair.model.ranker import RankerConfig

FIRST, SECOND = (512, 512, 512, 512, 256, 256, 128, 128), (128, 128, 64, 64, 32, 32)  # widths in the authors' code
HEADS = 2


class Gate(nn.Module):
    """2 sigma(W g + b), a weight for each number, from a learnt vector g that is the same for every row: x_BD -> [B, D]."""

    def __init__(self, fields: int, width: int) -> None:
        super().__init__()
        self.context_F = nn.Parameter(torch.ones(fields))
        self.weigh = nn.Linear(fields, width)

    def forward(self, x_BD: Tensor) -> Tensor:
        gated_BD: Tensor = x_BD * 2 * self.weigh(self.context_F).sigmoid()
        return gated_BD


class Fusion(nn.Module):
    """A logit of two vectors, head by head: b + w1 o1 + w2 o2 + o1' W o2, added over the heads."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        wide, narrow = first // HEADS, second // HEADS
        self.first_HX, self.second_HY = (nn.Parameter(torch.randn(HEADS, width) * width ** -0.5) for width in (wide, narrow))
        self.bilinear_HXY = nn.Parameter(torch.randn(HEADS, wide, narrow) * (2 / (wide + narrow)) ** 0.5)
        self.bias_H = nn.Parameter(torch.zeros(HEADS))

    def forward(self, first_BX: Tensor, second_BY: Tensor) -> Tensor:
        one_BHX, other_BHY = (vector_BZ.view(len(vector_BZ), HEADS, -1) for vector_BZ in (first_BX, second_BY))
        linear_B = (one_BHX * self.first_HX).sum((1, 2)) + (other_BHY * self.second_HY).sum((1, 2))
        pairs_B: Tensor = torch.einsum("bhx,hxy,bhy->b", one_BHX, self.bilinear_HXY, other_BHY)
        return linear_B + pairs_B + self.bias_H.sum()


class FinalMlp(Rival):
    """Two gated streams and their fusion, without a linear part.

    Departure from the authors' code: theirs leaves dropout and batch statistics on while scoring.
    """

    linear_beside = False

    def __init__(self, config: RankerConfig, widths: dict[str, int]) -> None:
        super().__init__(config, widths)
        self.gates = nn.ModuleList([Gate(self.fields.count, self.width) for _ in range(2)])
        self.streams = nn.ModuleList([nn.Sequential(*tower(self.width, hidden[:-1], config.deep_dropout),
                                                    nn.Linear(hidden[-2], hidden[-1])) for hidden in (FIRST, SECOND)])
        self.fuse = Fusion(FIRST[-1], SECOND[-1])

    def judge(self, fields_BFE: Tensor) -> Tensor:
        x_BD = fields_BFE.flatten(1)
        fused_B: Tensor = self.fuse(*[stream(gate(x_BD)) for stream, gate in zip(self.streams, self.gates, strict=True)])
        return fused_B
