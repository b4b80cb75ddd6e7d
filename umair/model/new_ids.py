"""Users, illustrations and artists that training never met, made one state that the ranker has learnt.

B rows, F fields, N buckets.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from umair.model.batch import ITEM_FIELDS, USER_FIELDS, Batch

UNKNOWN = 0  # bucket
# fields that name one thing are drawn together: a user whose name stays is no new user
USER_IDS = [list(USER_FIELDS).index(name) for name in ("user_id", "username")]
ILLUSTRATION_ID, ARTIST_ID = (list(ITEM_FIELDS).index(name) for name in ("illust_id", "artist_id"))


class NewIds(nn.Module):
    """Puts ids that are new into bucket 0. batch -> the same batch with other buckets.

    In training a random `share` of rows meets its user as new, another its illustration, another its artist, so that the
    row of bucket 0 learns what to expect of one; met buckets are remembered. Afterwards a bucket that was never met goes
    to bucket 0. Beyond the paper, whose unseen ids keep embeddings that nothing ever trained: on a site where most rows
    of next week are of users or illustrations that came after training, these are noise.
    """

    def __init__(self, share: float, user_sizes: list[int], item_sizes: list[int]) -> None:
        super().__init__()
        self.share = share
        self.columns = [("user", column) for column in USER_IDS] + [("item", ILLUSTRATION_ID), ("item", ARTIST_ID)]
        sizes = {"user": user_sizes, "item": item_sizes}
        for kind, column in self.columns:  # floats, so that ranks share them as they share batch-norm statistics
            self.register_buffer(_name(kind, column), torch.zeros(sizes[kind][column]))

    def forward(self, batch: Batch) -> Batch:
        fields = {"user": batch.user_fields_BF.clone(), "item": batch.item_fields_BF.clone()}
        if self.training:
            self._meet(fields)
            for group in (self.columns[:len(USER_IDS)], *([column] for column in self.columns[len(USER_IDS):])):
                new_B = torch.rand(len(batch), device=batch.item_B.device) < self.share
                for kind, column in group:
                    fields[kind][:, column] *= ~new_B  # UNKNOWN is 0; a mask as an index would make a GPU wait
        else:
            for kind, column in self.columns:
                bucket_B = fields[kind][:, column]
                fields[kind][:, column] = torch.where(self._met(kind, column)[bucket_B] > 0, bucket_B, UNKNOWN)
        return replace(batch, user_fields_BF=fields["user"], item_fields_BF=fields["item"])

    def _meet(self, fields: dict[str, Tensor]) -> None:
        for kind, column in self.columns:
            self._met(kind, column).index_fill_(0, fields[kind][:, column], 1)  # an index would copy the 1 from the CPU

    def _met(self, kind: str, column: int) -> Tensor:
        met_N: Tensor = self.get_buffer(_name(kind, column))
        return met_N


def _name(kind: str, column: int) -> str:
    return f"met_{kind}_{column}_N"
