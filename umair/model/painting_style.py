"""Painting style from feature maps: Gram matrices, pooled over one axis and then over layers (UMAIR-FPS, eq. 4).

B pictures, C channels (J and K both name them in a Gram matrix), H x W positions.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def gram_matrix(maps_BCHW: Tensor) -> Tensor:
    """How strongly channels occur together, wherever that is: gram_BJK float32, summed in float32 and divided by H * W.

    G[j, k] = (1 / HW) * sum over h, w of F[j, h, w] * F[k, h, w]. The paper's equation 4 prints index j on both
    factors, which would leave no second axis; this is what it means. Symmetric and positive semi-definite.
    """
    with torch.autocast(maps_BCHW.device.type, enabled=False):
        maps_BCN = maps_BCHW.flatten(2).float()
        return maps_BCN @ maps_BCN.transpose(1, 2) / maps_BCN.shape[-1]


def style_vector(layers: Iterable[Tensor]) -> Tensor:
    """The paper's style vector of some layers' maps, each [B, C, H, W] with the same C: style_BC float32.

    Each layer's Gram matrix is pooled by maximum over its first channel axis, then the layers by maximum. One Gram matrix
    exists at a time. Not normalised, as in the paper: style(c * F) = c ** 2 * style(F).
    """
    style_BC: Tensor | None = None
    for maps_BCHW in layers:
        pooled_BC = gram_matrix(maps_BCHW).amax(dim=1)
        style_BC = pooled_BC if style_BC is None else torch.maximum(style_BC, pooled_BC)
    if style_BC is None:
        raise ValueError("a style vector needs at least one layer")
    return style_BC
