"""DIFM (Lu et al. 2020): a factorization machine whose fields are weighed by the row that they stand in.

B rows, F fields, E embedding width, H heads, A width of a head.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from umair.baselines.rival import Rival
from umair.model.profiles import tower
from umair.model.ranker import RankerConfig, factorization, factors

HEADS, HEAD_WIDTH = 8, 8  # of the authors' code


class SelfAttention(nn.Module):
    """Scaled attention of the fields to each other, with a linear residual and a ReLU: fields_BFE -> [B, F, H * A]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.residual = (nn.Linear(width, HEADS * HEAD_WIDTH, bias=False)
                                                           for _ in range(4))

    def forward(self, fields_BFE: Tensor) -> Tensor:
        query_BHFA, key_BHFA, value_BHFA = (layer(fields_BFE).unflatten(2, (HEADS, HEAD_WIDTH)).transpose(1, 2)
                                            for layer in (self.query, self.key, self.value))
        seen_BHFA = F.scaled_dot_product_attention(query_BHFA, key_BHFA, value_BHFA)
        return F.relu(seen_BHFA.transpose(1, 2).flatten(2) + self.residual(fields_BFE))


class Difm(Rival):
    """Field weights from attention (vector by vector) and from a deep network (bit by bit), added; then the machine."""

    def __init__(self, config: RankerConfig, widths: dict[str, int]) -> None:
        super().__init__(config, widths)
        fields = self.fields.count
        self.attention = SelfAttention(config.embedding_width)
        self.by_vector = nn.Linear(fields * HEADS * HEAD_WIDTH, fields, bias=False)
        self.deep = tower(self.width, config.deep, config.deep_dropout)
        self.by_bit = nn.Linear(config.deep[-1], fields, bias=False)

    def judge(self, fields_BFE: Tensor) -> Tensor:
        by_vector_BF = self.by_vector(self.attention(fields_BFE).flatten(1))
        by_bit_BF = self.by_bit(self.deep(fields_BFE.flatten(1)))
        return factorization(factors(fields_BFE * (by_vector_BF + by_bit_BF)[:, :, None]))
