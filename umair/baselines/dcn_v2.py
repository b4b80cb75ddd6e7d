"""DCN-V2 (Wang et al. 2021) in its parallel form with low-rank experts."""

from __future__ import annotations

from torch import Tensor, nn

from umair.baselines.rival import CrossRival
from umair.model.cross_network import CrossNetMix
from umair.model.ranker import cross_network


class DcnV2(CrossRival):
    """Its crosses are by gated low-rank matrices."""

    def crosses(self, width: int) -> nn.Module:
        return cross_network(self.config, width)

    def kernels(self) -> list[Tensor]:
        return [*super().kernels(), *(self.cross.kernels() if isinstance(self.cross, CrossNetMix) else ())]
