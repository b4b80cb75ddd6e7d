"""How much each modality of an illustration counts for a user (UMAIR-FPS, "user-aware multi-modal contribution").

B rows, M modalities, D shared width, K experts, X modalities or experts.
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
        score_BM = dot_scores(user_BD, modality_BMD, self.scaled)
        weight_BM = masked_softmax(score_BM, known_BM)
        if not self.training or self.dropout == 0:
            return _mix(weight_BM, modality_BMD), weight_BM
        weight_BKM = F.dropout(weight_BM[:, None].expand(-1, self.experts, -1), self.dropout)
        expert_BKD = weight_BKM @ modality_BMD
        gate_BK = softmax(dot_scores(user_BD, expert_BKD, self.scaled))
        return _mix(gate_BK, expert_BKD), weight_BM


class ExpertContribution(nn.Module):
    """A mixture of any experts: the gate is the softmax of the user's dot products with what they found.

    user_BD, modality_BMD float32, known_BM bool -> mixed_BD, weight_BM. The weights are the experts', mixed by the gate.
    `batch_mean` gates by the mean over all users of the batch, as the authors' code does.
    """

    def __init__(self, experts: list[nn.Module], *, scaled: bool, batch_mean: bool) -> None:
        super().__init__()
        self.experts, self.scaled, self.batch_mean = nn.ModuleList(experts), scaled, batch_mean

    def forward(self, user_BD: Tensor, modality_BMD: Tensor, known_BM: Tensor) -> tuple[Tensor, Tensor]:
        found = [expert(user_BD, modality_BMD, known_BM) for expert in self.experts]
        expert_BKD, weight_BKM = (torch.stack(parts, 1) for parts in zip(*found, strict=True))
        every = torch.ones(expert_BKD.shape[:2], dtype=torch.bool, device=expert_BKD.device)
        gate_BK, _ = weights_of(user_BD, expert_BKD, every, scaled=self.scaled, batch_mean=self.batch_mean)
        return _mix(gate_BK, expert_BKD), _mix(gate_BK, weight_BKM)


class AttentionExpert(nn.Module):
    """One attention over the modalities; user_BD, modality_BMD, known_BM -> mixed_BD, weight_BM (free of dropout).

    `projected`: a query and a key map of its own, so that experts can differ; without them all are the same. `hadamard`:
    eq. 7 read with its element-wise product, a softmax over the modalities for each of the D numbers; weight_BM is their
    mean. `batch_mean`: row b's weights are the mean over all users of the batch of their attention to row b's modalities
    (the authors' code, by an accident of broadcasting), so that what a row gets depends on its batch.
    """

    def __init__(self, width: int, dropout: float, *, scaled: bool, projected: bool = False, hadamard: bool = False,
                 batch_mean: bool = False) -> None:
        super().__init__()
        self.dropout, self.scaled, self.hadamard, self.batch_mean = dropout, scaled, hadamard, batch_mean
        self.query, self.key = (nn.Linear(width, width, bias=False) if projected else nn.Identity() for _ in range(2))

    def forward(self, user_BD: Tensor, modality_BMD: Tensor, known_BM: Tensor) -> tuple[Tensor, Tensor]:
        query_BD, key_BMD = self.query(user_BD), self.key(modality_BMD)
        if self.hadamard:
            weight_BMD = masked_softmax(query_BD[:, None] * key_BMD, known_BM[:, :, None], dim=1)
            dropped_BMD = F.dropout(weight_BMD, self.dropout, self.training)
            return (dropped_BMD * modality_BMD).sum(1), weight_BMD.mean(2)
        weight_BM, dropped_BM = weights_of(query_BD, key_BMD, known_BM, scaled=self.scaled, batch_mean=self.batch_mean,
                                           dropout=self.dropout if self.training else 0.0)
        return _mix(dropped_BM, modality_BMD), weight_BM


class SenetExpert(nn.Module):
    """Weights from all modalities' means and the user (the paper's SENet variant); -> mixed_BD, weight_BM.

    w = softmax(W2 relu((W1 s + b1) * user) + b2), s the mean of each modality. The authors average the weighed modalities
    (1 / M), where eq. 6 sums: `summed`. Weights: M D + D + D M + M.
    """

    def __init__(self, modalities: int, width: int, *, summed: bool) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(modalities, width), nn.Linear(width, modalities)
        self.summed = summed

    def forward(self, user_BD: Tensor, modality_BMD: Tensor, known_BM: Tensor) -> tuple[Tensor, Tensor]:
        mean_BM = modality_BMD.mean(2) * known_BM
        weight_BM = masked_softmax(self.excite(F.relu(self.squeeze(mean_BM) * user_BD)), known_BM)
        mixed_BD = _mix(weight_BM, modality_BMD)
        return mixed_BD if self.summed else mixed_BD / modality_BMD.shape[1], weight_BM


class ItemContribution(nn.Module):
    """Plain attention fusion, whoever the user is: weights from the illustration alone; -> mixed_BD, weight_BM.

    w = softmax(q tanh(W m + b)) over the modalities m, with one learnt q. For comparison with user-aware contribution.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.key, self.query = nn.Linear(width, width), nn.Linear(width, 1, bias=False)

    def forward(self, user_BD: Tensor, modality_BMD: Tensor, known_BM: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        weight_BM = masked_softmax(self.query(self.key(modality_BMD).tanh())[:, :, 0], known_BM)
        return _mix(weight_BM, modality_BMD), weight_BM


def weights_of(query_BD: Tensor, value_BXD: Tensor, known_BX: Tensor, *, scaled: bool, batch_mean: bool,
               dropout: float = 0.0) -> tuple[Tensor, Tensor]:
    """[B, X] and the same after dropout: the softmax of each row's query over its values, or the mean of all rows' queries'
    over them, each of which has met a dropout of its own, as in the authors' code."""
    if not batch_mean:
        weight_BX = masked_softmax(dot_scores(query_BD, value_BXD, scaled), known_BX)
        return weight_BX, F.dropout(weight_BX, dropout)
    score_BQX = torch.einsum("qd,bxd->bqx", query_BD, value_BXD) / (query_BD.shape[1] ** 0.5 if scaled else 1.0)
    weight_BQX = masked_softmax(score_BQX, known_BX[:, None])
    return weight_BQX.mean(1), F.dropout(weight_BQX, dropout).mean(1)


def dot_scores(query_BD: Tensor, value_BXD: Tensor, scaled: bool) -> Tensor:
    """[B, X]: dot products, divided by the root of D where `scaled`."""
    score_BX = (value_BXD @ query_BD[:, :, None])[:, :, 0]
    return score_BX / query_BD.shape[1] ** 0.5 if scaled else score_BX


def masked_softmax(score_BM: Tensor, known_BM: Tensor, dim: int = -1) -> Tensor:
    """Softmax over the known entries along `dim`; zero elsewhere, and everywhere where nothing is known."""
    lowest = torch.finfo(score_BM.dtype).min  # not -inf, which would make a row without any known entry NaN
    return softmax(score_BM.masked_fill(~known_BM, lowest), dim) * known_BM


def softmax(score: Tensor, dim: int = -1) -> Tensor:
    """torch's. On a CPU that one is slow over a few numbers that lie side by side: these are moved apart before it, and back
    after it, as dropout would draw other numbers for another layout."""
    if score.is_cuda or dim != -1:
        return score.softmax(dim)
    return score.transpose(0, -1).contiguous().softmax(0).transpose(0, -1).contiguous()


def _mix(weight_BX: Tensor, value_BXD: Tensor) -> Tensor:
    """[B, D]: weight_BX[:, None] @ value_BXD, which on a CPU takes four times as long as a product and a sum for few X."""
    if value_BXD.is_cuda:
        return (weight_BX[:, None] @ value_BXD)[:, 0]
    return (weight_BX[:, :, None] * value_BXD).sum(1)
