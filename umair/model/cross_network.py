"""Explicit feature crosses: DCN-V2's mixture of low-rank experts (Wang et al. 2021, eq. 4 and 5; UMAIR-FPS uses it).

B rows, D width, E experts, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CrossNetMix(nn.Module):
    """Crosses of rising order, each a gated mixture of low-rank maps: x_BD float32 -> [B, D].

    Layer l: x' = x + sum_e p_e(x) * x0 * (U_e tanh(C_e tanh(V_e' x)) + b), p = softmax over the experts of w_e' x.
    The gates w are shared by the layers. Because p sums to one, the bias leaves the sum, and U over all experts is one
    matrix product. Weights: 2 L E D R + L E R R + E D + L D.
    """

    def __init__(self, width: int, layers: int, rank: int, experts: int) -> None:
        super().__init__()
        self.layers, self.rank, self.experts = layers, rank, experts
        self.down_LDER = _glorot(layers, width, experts, rank, fans=width + rank)  # V
        self.core_LERR = _glorot(layers, experts, rank, rank, fans=2 * rank)  # C
        self.up_LERD = _glorot(layers, experts, rank, width, fans=width + rank)  # U
        self.bias_LD = nn.Parameter(torch.zeros(layers, width))
        self.gate = nn.Linear(width, experts, bias=False)

    def kernels(self) -> tuple[Tensor, ...]:
        """The weights whose squares the UMAIR-FPS authors add to the loss: V and C, not U (their library's accident)."""
        return self.down_LDER, self.core_LERR

    def forward(self, x0_BD: Tensor) -> Tensor:
        x_BD = x0_BD
        for layer in range(self.layers):
            x_BD = x_BD + x0_BD * (self._mixture(layer, x_BD) + self.bias_LD[layer])
        return x_BD

    def _mixture(self, layer: int, x_BD: Tensor) -> Tensor:
        gate_EB = (self.gate.weight @ x_BD.T).softmax(0)  # along the rows, as the experts are few: see contribution.softmax
        low_BX = tanh(x_BD @ self.down_LDER[layer].flatten(1))
        low_EBR = low_BX.view(-1, self.experts, self.rank).transpose(0, 1)
        core_EBR = tanh(torch.bmm(low_EBR, self.core_LERR[layer]))
        gated_BX = (core_EBR * gate_EB[:, :, None]).transpose(0, 1).flatten(1)
        return torch.mm(gated_BX, self.up_LERD[layer].flatten(0, 1))


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent. On a CPU in float32 as 2 sigmoid(2 x) - 1, which takes a fifth of the time of torch's own and
    is off by 2e-7 at most: as much as rounding does to numbers near 1, though small ones lose digits by it."""
    if x.is_cuda or x.dtype != torch.float32:
        return torch.tanh(x)
    return torch.rsub(torch.sigmoid(2 * x), -1, alpha=-2)  # -1 + 2 s, in one pass


def _glorot(*shape: int, fans: int) -> nn.Parameter:
    """Normal with the deviation that keeps the size of signals, by the inputs plus outputs of one expert's map."""
    return nn.Parameter(torch.randn(shape) * (2 / fans) ** 0.5)
