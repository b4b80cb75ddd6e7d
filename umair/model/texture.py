"""Fine texture of a picture, straight from its pixels: grain, brush, hatching, how sharp edges are. It has no weights.

B pictures, H x W pixels, K thresholds, X numbers in all.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SCALES = (1, 2, 4)  # pixels averaged along each side before differences are taken
THRESHOLDS = (0.006, 0.016, 0.042, 0.113, 0.3)  # of a difference, of 1: noise that is hardly seen .. outlines
DIFFERENCES = 7
TEXTURE_WIDTH = len(SCALES) * DIFFERENCES * len(THRESHOLDS)  # 105
SMALLEST = 12  # pixels, that the coarsest scale has three


def texture(pixels_BCHW: Tensor) -> Tensor:
    """How strongly neighbouring pixels differ, wherever that is: texture_BX float32 in [0, 1], of pixels in [0, 1].

    Of the mean of the channels, at each scale: differences to the right, below and along both diagonals, second differences
    across, down and both at once (a quarter of that, at most 4 in size); of each difference d and threshold t the mean over
    positions of d^2 / (d^2 + t^2), a smooth count of those above it. The order is scale, difference, threshold.

    Not in the paper, whose style vector sees a picture only after a convolution has halved it (docs/decisions/021). The same
    for a picture turned by half, and a mirror swaps the diagonals, where the sides divide by four; else pooling leaves their
    last rows and columns out. Raises ValueError below SMALLEST pixels a side.
    """
    height, width = pixels_BCHW.shape[2:]
    if min(height, width) < SMALLEST:
        raise ValueError(f"pictures of {height} x {width}; texture needs {SMALLEST} x {SMALLEST}")
    with torch.autocast(pixels_BCHW.device.type, enabled=False):
        grey_BHW = pixels_BCHW.float().mean(1)
        of_scales = [grey_BHW if scale == 1 else F.avg_pool2d(grey_BHW, scale) for scale in SCALES]
        return torch.cat([_counts(part_BHW) for grey in of_scales for part_BHW in _differences(grey)], 1)


def _differences(grey_BHW: Tensor) -> list[Tensor]:
    right, below = grey_BHW.diff(dim=2), grey_BHW.diff(dim=1)
    falling = grey_BHW[:, 1:, 1:] - grey_BHW[:, :-1, :-1]
    rising = grey_BHW[:, :-1, 1:] - grey_BHW[:, 1:, :-1]
    across = right.diff(dim=2)
    return [right, below, falling, rising, across, below.diff(dim=1), across.diff(dim=1).diff(dim=1) / 4]


def _counts(difference_BHW: Tensor) -> Tensor:
    """[B, K], one difference at a time: together they would be seven times as large in memory."""
    square_BN = difference_BHW.flatten(1).square()
    below_BK = torch.stack([(square_BN + threshold**2).reciprocal().mean(1) * threshold**2 for threshold in THRESHOLDS], 1)
    return (1 - below_BK).clamp(min=0)  # d^2 / (d^2 + t^2) is 1 - t^2 / (d^2 + t^2); rounding may pass zero
