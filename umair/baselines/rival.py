"""A published ranker over fields, behind the interface of every ranker. B rows, F fields, E embedding width."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from umair.baselines.fields import AuthorsFields, Fields
from umair.model.batch import VECTOR_MODALITIES, Batch
from umair.model.compact import Axes
from umair.model.profiles import tower
from umair.model.ranker import Ranker, RankerConfig, Scores

# On squared weights, as the UMAIR-FPS authors ran the rivals: of embeddings, and by form of the kernels beside. Which
# kernels those are is our reading (linear part, hidden layers, crosses); no figure is known of DIFM and FinalMLP.
TABLE_PENALTY = 1e-2
KERNEL_PENALTIES = {"dcn": 1e-2, "dcn_v2": 5e-2, "xdeepfm": 1e-3, "fibinet": 1e-2}


class Rival(Ranker):
    """What the rivals share: fields, and a linear part beside what `judge` says of them. batch -> Scores.

    `inputs: authors` gives them what the UMAIR-FPS authors gave them, with the published number of weights; `ids` our
    ranker's embeddings (and its counters, if they are on); `all` whatever our ranker reads.
    """

    linear_beside = True

    def __init__(self, config: RankerConfig, widths: dict[str, int]) -> None:
        super().__init__(config)
        if config.inputs == "all":
            self.axes.update({name: Axes(widths[name]) for name in VECTOR_MODALITIES})
        self.fields = AuthorsFields(config) if config.inputs == "authors" else Fields(config, widths)
        self.linear = config.linear_part() if config.linear and self.linear_beside else None

    @abstractmethod
    def judge(self, fields_BFE: Tensor) -> Tensor:
        """[B]: the logit without the linear part."""

    def score(self, batch: Batch) -> Scores:
        logit_B = self.judge(self.fields(batch))
        return Scores(logit_B if self.linear is None else logit_B + self.linear(*batch.buckets))

    def penalty(self) -> Tensor | None:
        """The authors' squared weights: of all embeddings, and of linear part, hidden layers and crosses by form."""
        if not self.config.penalties:
            return None
        tables = [(TABLE_PENALTY, part.weight) for part in self.fields.modules()
                  if isinstance(part, nn.Embedding | nn.EmbeddingBag)]
        factor = KERNEL_PENALTIES.get(self.config.form)
        kernels = [(factor, weight) for weight in self.kernels()] if factor else []
        return torch.stack([each * weight.square().sum() for each, weight in tables + kernels]).sum()

    def kernels(self) -> list[Tensor]:
        """Weights of the linear part and of the deep network's hidden layers, which are those with a bias."""
        linear = [] if self.linear is None else [self.linear.weights.rows.weight]
        layers = [layer for part in self.children() if isinstance(part, nn.Sequential) for layer in part]
        return linear + [layer.weight for layer in layers if isinstance(layer, nn.Linear) and layer.bias is not None]

    @property
    def width(self) -> int:
        """F * E: the fields side by side."""
        return self.fields.count * self.config.embedding_width

    def deep_logit(self, width: int) -> nn.Sequential:
        """The deep network that ends in a logit, without bias: [B, width] -> [B, 1]."""
        hidden = tower(width, self.config.deep, self.config.deep_dropout)
        return nn.Sequential(*hidden, nn.Linear(self.config.deep[-1], 1, bias=False))


class CrossRival(Rival):
    """A cross network and a deep network side by side over the fields."""

    def __init__(self, config: RankerConfig, widths: dict[str, int]) -> None:
        super().__init__(config, widths)
        self.cross = self.crosses(self.width)
        self.deep = tower(self.width, config.deep, config.deep_dropout)
        self.out = nn.Linear(self.width + config.deep[-1], 1, bias=False)

    @abstractmethod
    def crosses(self, width: int) -> nn.Module:
        """The cross network, [B, width] -> [B, width]."""

    def judge(self, fields_BFE: Tensor) -> Tensor:
        x_BD = fields_BFE.flatten(1)
        logit_B1: Tensor = self.out(torch.cat([self.cross(x_BD), self.deep(x_BD)], 1))
        return logit_B1[:, 0]


def pairs_of(fields: int) -> Tensor:
    """[2, F * (F - 1) / 2] int64: first and second field of each pair."""
    return torch.triu_indices(fields, fields, offset=1)
