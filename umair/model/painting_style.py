"""Painting style from feature maps: what channels occur together, wherever that is (UMAIR-FPS, eq. 4), pooled to a vector.

B pictures, C channels (J and K both name them in a Gram matrix), H x W = N positions, Y width of the style vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

StyleForm = Literal["gram_max", "gram_sketch", "moments"]


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


class StylePool(nn.Module):
    """Maps of some layers -> style_BY float32, in one of several forms.

    gram_max: the paper's (`style_vector`); Y is the layers' common number of channels.
    gram_sketch: entries of each layer's Gram matrix, turned: y_d = u_d' G v_d for fixed random u_d, v_d, which is the mean
    over positions of (F' u_d)(F' v_d), so that no Gram matrix is ever made. All C * C entries count, not each row's largest.
    moments: mean and deviation of each channel, turned by a fixed random matrix where they are more than Y.
    The last two share Y out among the layers. `log` is sign(y) * log(1 + |y|), which tames the long tail of products.
    Raises ValueError for gram_max over layers that differ in channels, or over another width than theirs.
    """

    def __init__(self, form: StyleForm, channels: Sequence[int], width: int | None = None, *, log: bool = False) -> None:
        super().__init__()
        self.form, self.log, self.width = form, log, width or channels[0]
        if form == "gram_max" and {*channels, self.width} != {channels[0]}:
            raise ValueError(f"style gram_max over layers of {list(channels)} channels to a width of {self.width}: "
                             "all must be equal")
        shares = [self.width * (layer + 1) // len(channels) - self.width * layer // len(channels)
                  for layer in range(len(channels))]
        draw = torch.Generator().manual_seed(0)  # fixed: equal configurations give equal vectors
        for layer, (count, share) in enumerate(zip(channels, shares, strict=True)):
            rows = {"gram_max": 0, "gram_sketch": count, "moments": 2 * count}[form]
            if rows:
                matrix = torch.randn(2, rows, share, generator=draw) / rows ** 0.5
                self.register_buffer(f"turn_{layer}", matrix)  # saved: torch may draw other numbers one day

    def forward(self, layers: list[Tensor]) -> Tensor:
        return self.joined([self.pooled(layer, maps_BCHW) for layer, maps_BCHW in enumerate(layers)])

    def pooled(self, layer: int, maps_BCHW: Tensor) -> Tensor:
        """What one layer gives, so that its maps need not outlive it: [B, C] of gram_max, else its share of [B, Y]."""
        if self.form == "gram_max":
            return gram_matrix(maps_BCHW).amax(dim=1)
        one = self._sketch if self.form == "gram_sketch" else self._moments
        with torch.autocast(maps_BCHW.device.type, enabled=False):
            return one(maps_BCHW.flatten(2).float(), self.get_buffer(f"turn_{layer}"))

    def joined(self, pooled: list[Tensor]) -> Tensor:
        """style_BY of what `pooled` gave of each layer, in their order."""
        if self.form == "gram_max":
            style_BY = pooled[0]
            for other_BC in pooled[1:]:
                style_BY = torch.maximum(style_BY, other_BC)
        else:
            style_BY = torch.cat(pooled, 1)
        return style_BY.sign() * style_BY.abs().log1p() if self.log else style_BY

    @staticmethod
    def _sketch(maps_BCN: Tensor, turn_2CY: Tensor) -> Tensor:
        left_BNY, right_BNY = (maps_BCN.transpose(1, 2) @ turn_CY for turn_CY in turn_2CY)
        sketch_BY: Tensor = (left_BNY * right_BNY).mean(1) * maps_BCN.shape[1]  # the size of one Gram entry
        return sketch_BY

    @staticmethod
    def _moments(maps_BCN: Tensor, turn_2XY: Tensor) -> Tensor:
        moments_BX = torch.cat([maps_BCN.mean(2), maps_BCN.std(2, correction=0)], 1)
        return moments_BX if moments_BX.shape[1] == turn_2XY.shape[2] else moments_BX @ turn_2XY[0]
