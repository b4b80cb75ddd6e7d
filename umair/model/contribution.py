"""How much each modality of an illustration counts for a user (UMAIR-FPS, "user-aware multi-modal contribution").

B rows, M modalities, D shared width, K experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AttentionContribution(nn.Module):
    """Attention of the user over the modalities of one illustration, by K experts and a gate (eq. 6 and 7).

    user_BD, modality_BMD float32, known_BM bool -> mixed_BD, weight_BM. Weights of a row sum to one; a modality that
    is not known has weight zero exactly; a row without any known modality has no weights and mixes to zero.

    The experts have no parameters: they differ by their dropout masks while training and are one expert afterwards,
    which is then computed once. `weight_BM` is free of dropout. Departure from the authors' code, following the paper:
    every row's query meets that row's modalities alone, where the code averages over all users of the batch.
    """

    def __init__(self, experts: int, dropout: float, scaled: bool) -> None:
        super().__init__()
        self.experts, self.dropout, self.scaled = experts, dropout, scaled

    def forward(self, user_BD: Tensor, modality_BMD: Tensor, known_BM: Tensor) -> tuple[Tensor, Tensor]:
        score_BM = self._score(user_BD, modality_BMD)
        weight_BM = masked_softmax(score_BM, known_BM)
        if not self.training or self.dropout == 0:
            return _mix(weight_BM[:, None], modality_BMD)[:, 0], weight_BM
        weight_BKM = F.dropout(weight_BM[:, None].expand(-1, self.experts, -1), self.dropout)
        expert_BKD = _mix(weight_BKM, modality_BMD)
        gate_BK = self._score(user_BD, expert_BKD).softmax(-1)
        return _mix(gate_BK[:, None], expert_BKD)[:, 0], weight_BM

    def _score(self, user_BD: Tensor, value_BXD: Tensor) -> Tensor:
        score_BX = (value_BXD @ user_BD[:, :, None])[:, :, 0]
        return score_BX / user_BD.shape[1] ** 0.5 if self.scaled else score_BX


def masked_softmax(score_BM: Tensor, known_BM: Tensor) -> Tensor:
    """Softmax over the known entries of each row; zero elsewhere, and everywhere where nothing is known."""
    lowest = torch.finfo(score_BM.dtype).min  # not -inf, which would make a row without any known entry NaN
    return score_BM.masked_fill(~known_BM, lowest).softmax(-1) * known_BM


def _mix(weight_BXM: Tensor, value_BMD: Tensor) -> Tensor:
    return weight_BXM @ value_BMD
