"""Compact vectors: the principal components of a modality, small enough to read for every illustration of a long history.

D width of vectors, C of compact ones, X illustrations.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

COMPACT = 128  # components: of 1,024 numbers, so a batch of long histories costs an eighth


def compact_width(width: int) -> int:
    """C, for vectors of `width` numbers."""
    return min(width, COMPACT)


class Axes(nn.Module):
    """The C directions in which a modality varies most: vectors_XD -> compact_XC = (x - mean) @ axes.

    Fitted on the week's vectors and saved with the ranker's weights, so that a later week's vectors fall on the same axes.
    Until `set_axes` all axes are zero. The axes of numbers in their standard deviations, scaled so that a component has
    variance 1 on average.
    """

    mean_D: Tensor
    axes_DC: Tensor
    fixed_buffers = ("mean_D", "axes_DC")

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("axes_DC", torch.zeros(width, compact_width(width)))

    def set_axes(self, mean_D: Tensor, axes_DC: Tensor) -> None:
        self.mean_D.copy_(mean_D)
        self.axes_DC.copy_(axes_DC)

    def forward(self, vectors_XD: Tensor) -> Tensor:
        return (vectors_XD - self.mean_D) @ self.axes_DC


def axes_key(axes: nn.Module) -> str:
    """Stands for the axes of a modality, or of several, bit by bit."""
    sha = hashlib.sha256()
    for name, tensor in sorted(axes.state_dict().items()):
        sha.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:12]
