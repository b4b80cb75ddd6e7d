"""A dense layer over one modality's vectors that can measure them in standard deviations.

U illustrations, D width of their vectors, O output width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from umair.errors import ContractError

SMALLEST_SCALE = 1e-6  # a number that never moves in training is left as it is, not blown up


class Projection(nn.Linear):
    """W (x - mean) / scale + b. vectors_UD float32 -> [U, O]; mean 0 and scale 1 until `set_scale`.

    The weights take up mean and scale, so that the vectors are read once and never copied; both are saved with the
    weights. The paper feeds vectors as they come, which is this layer without `set_scale`. Raises ContractError for
    vectors of another width.
    """

    mean_D: Tensor
    scale_D: Tensor
    fixed_buffers = ("mean_D", "scale_D")

    def __init__(self, modality: str, width: int, out: int) -> None:
        super().__init__(width, out)
        self.modality = modality
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("scale_D", torch.ones(width))

    def set_scale(self, mean_D: Tensor, scale_D: Tensor) -> None:
        """Takes the mean and the standard deviation of each number of the vectors."""
        self._check(mean_D)
        self._check(scale_D)
        self.mean_D.copy_(mean_D)
        self.scale_D.copy_(torch.where(scale_D > SMALLEST_SCALE, scale_D, 1.0))

    def forward(self, vectors_UD: Tensor) -> Tensor:
        self._check(vectors_UD)
        weight_OD = self.weight / self.scale_D
        return F.linear(vectors_UD, weight_OD, self.bias - weight_OD @ self.mean_D)

    def _check(self, vectors_XD: Tensor) -> None:
        require_width(self.modality, vectors_XD.shape[-1], self.in_features)


def require_width(modality: str, found: int, expected: int) -> None:
    """Raises ContractError for vectors of another width than a ranker was made for."""
    if found != expected:
        raise ContractError(f"{modality} vectors", f"{found} numbers", f"{expected}",
                            "embed with the encoder that the ranker was made for, or train the ranker again")
