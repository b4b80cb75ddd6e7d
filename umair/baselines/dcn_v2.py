"""DCN-V2 (Wang et al. 2021) in its parallel form with low-rank experts: ids, tags, metadata and as-of counters alone.

B rows, D input width.
"""

from __future__ import annotations

import torch
from torch import nn

from umair.model.batch import COUNTERS, Batch
from umair.model.profiles import tower
from umair.model.ranker import Ranker, RankerConfig, Scores, cross_network


class DcnV2(Ranker):
    """Cross network and deep network side by side over the embeddings, plus the linear part. batch -> Scores.

    It sees no vector, no interest vector and no history list; `widths` is taken, as by every ranker, and ignored.
    Departures from the UMAIR-FPS authors' DCN-V2, so that it has the embeddings of the ranker that it is compared
    with: no bias and no ReLU on them, interest tags and illustration tags in two tables, no weight penalties.
    """

    def __init__(self, config: RankerConfig, widths: dict[str, int]) -> None:  # noqa: ARG002  every ranker's signature
        super().__init__(config)
        self.user_profile, self.item_profile = config.user_profile(), config.item_profile()
        width = self.user_profile.width + self.item_profile.width + config.counters * len(COUNTERS)
        self.cross = cross_network(config, width)
        self.deep = tower(width, config.deep, config.deep_dropout)
        self.out = nn.Linear(width + config.deep[-1], 1, bias=False)
        self.linear = config.linear_part() if config.linear else None

    def score(self, batch: Batch) -> Scores:
        parts = [self.user_profile(batch.user_fields_BF, batch.user_tags_BT),
                 self.item_profile(batch.item_fields_BF, batch.item_tags_BT)]
        if self.config.counters:
            parts.append(batch.counters_BC)
        x_BD = torch.cat(parts, 1)
        logit_B = self.out(torch.cat([self.cross(x_BD), self.deep(x_BD)], 1))[:, 0]
        if self.linear is not None:
            logit_B = logit_B + self.linear(batch)
        return Scores(logit_B)
