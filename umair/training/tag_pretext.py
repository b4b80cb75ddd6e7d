"""The pretext that trains the image encoder: which tags does an illustration carry? (UMAIR-FPS, the image encoder)

B pictures of a batch, T tags of the vocabulary, A artists told apart.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from umair.model.image_encoder import ImageEncoder
from umair.picture import RGB
from umair.training.tagged_pictures import TaggedConfig

SURE = 1e-6  # of one minus a probability: below it a power less than 1 has no finite slope


class PretextConfig(TaggedConfig):
    """Multi-label tag prediction with a sigmoid for each tag. The paper gives no sizes; these are ours."""

    ranks: int = Field(1, gt=0)  # Horovod processes
    threads: int = Field(1, gt=0)  # of torch, in each rank
    device: Literal["cpu", "cuda"] = "cpu"  # cuda: each rank takes a GPU of its node
    epochs: int = Field(10, ge=0)  # 0: keep the encoder's weights as they are
    batch: int = Field(64, ge=2)  # pictures of a forward pass, in each rank (training.batch is of all ranks together)
    accumulate: int = Field(1, gt=0)  # forward passes whose gradients are added up, in each rank, for one step of Adam
    precision: Literal["float32", "bfloat16"] = "float32"  # of products; sums, losses and weights stay float32
    checkpoint_steps: int = Field(500, gt=0)  # between checkpoints, from which a killed run goes on
    max_reject_share: float = Field(0.2, ge=0, le=1, exclude=True)  # of a rank's pictures that cannot be read; more, and the
    #                               training ends. No part of the step's key
    learning_rate: float = Field(1e-3, gt=0)  # of Adam, at its highest; not scaled by the number of ranks
    warm_up: float = Field(0.05, ge=0, lt=1)  # share of the steps until then; afterwards a cosine down to 0
    loss: Literal["bce", "focal"] = "bce"  # of a tag: binary cross-entropy, or the same with sure ones weighing less
    focal_gamma: float = Field(2.0, ge=0)  # of the focal loss: 0 is bce
    artist_weight: float = Field(0.002, gt=0)  # of the cross-entropy over artists, where `artists` are told apart (009)
    flip: bool = True  # half the pictures, left to right: changes no content, and of style which way hatching leans
    shift: float = Field(0.05, ge=0, lt=0.5)  # of the picture's size, at most, in each direction


class TagModel(nn.Module):
    """The encoder with one logit a tag on the mean of its deepest map; pixels_BCHW -> logit_BT, artist_BA or None.

    Beyond the paper, whose style vector is left to what tags happen to teach the first layers, one logit an artist on the
    style vector: whose hand is it? Tags alone make the first layers forget style (docs/evidence/encoders.md).

    Tags are rare, so the bias starts at each tag's log-odds: training starts from the label-frequency baseline. That is all
    that is done about the imbalance, unless the focal loss is chosen.
    """

    def __init__(self, encoder: ImageEncoder, frequency_T: Tensor, artists: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.deep_width, len(frequency_T))
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.bias.copy_(torch.logit(frequency_T, eps=1e-4))
        width = encoder.style_width
        self.artist_head = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, artists)) if artists else None

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.artist_head is None:
            return self.head(self.encoder.deep(pixels_BCHW)), None
        deep_BS, style_BY = self.encoder.deep_and_style(pixels_BCHW)
        if not self.encoder.config.style_log:
            style_BY = style_BY.sign() * style_BY.abs().log1p()  # products have a long tail
        return self.head(deep_BS), self.artist_head(style_BY)


# ---------------------------------------------------------------- a step
def tag_loss(logit_BT: Tensor, target_BT: Tensor, readable_B: Tensor, config: PretextConfig) -> Tensor:
    """Mean binary cross-entropy over tags and readable pictures; the focal form weighs by (1 - p of the truth) ** gamma.

    Without a readable picture it is 0 and still reaches every weight, so that no rank leaves an allreduce out.
    """
    target_BT, readable_B = target_BT.to(logit_BT.device), readable_B.to(logit_BT.device)
    loss_BT = binary_cross_entropy_with_logits(logit_BT, target_BT, reduction="none")
    if config.loss == "focal":
        loss_BT = loss_BT * (1.0 - torch.exp(-loss_BT)).clamp(min=SURE) ** config.focal_gamma
    return (loss_BT.mean(dim=1) * readable_B).sum() / readable_B.sum().clamp(min=1)


def artist_loss(artist_BA: Tensor, artist_B: Tensor, readable_B: Tensor) -> Tensor:
    """Mean cross-entropy over readable pictures of artists who are told apart (not -1); 0 without any."""
    counts_B = ((artist_B >= 0) & readable_B).to(artist_BA.device)
    loss_B = cross_entropy(artist_BA, artist_B.clamp(min=0).to(artist_BA.device), reduction="none")
    return (loss_B * counts_B).sum() / counts_B.sum().clamp(min=1)


def augment(pictures_BHWC: RGB, config: PretextConfig, chance: np.random.Generator) -> RGB:
    """Mirrors half the pictures and shifts each a little, edges repeated: content does not change by that, and of style
    only which way hatching leans.

    No scaling, no colours, no blur: palette, line weight and texture are what the style vector should know.
    """
    count, size = pictures_BHWC.shape[:2]
    most = round(config.shift * size)
    padded = np.pad(pictures_BHWC, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    moved = np.empty_like(pictures_BHWC)
    for place, (down, right) in enumerate(chance.integers(0, 2 * most + 1, (count, 2))):
        moved[place] = padded[place, down:down + size, right:right + size]
    mirrored_B = chance.random(count) < (0.5 if config.flip else 0.0)
    moved[mirrored_B] = moved[mirrored_B, :, ::-1]
    return moved
