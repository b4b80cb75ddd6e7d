"""How a picture is painted: from a style vector to palette, line, shading, hatching and texture.

The style never looks at what is drawn but through the roles of its parts (a map of tones) and the outlines (a mask of ink).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

STYLE = ("palette_x", "palette_y", "key", "line", "hatch", "grain", "soft", "brush")  # axes of a style vector
SHARPER = 2  # pictures are painted at this many times their size, then reduced
FIRST, SECOND_SUBJECT, MOTIF_TONE = 5, 10, 15
_SHADOW = np.array([.12, .3, .45, .6, 0, .45, .8, .3, 1, .05, .6, .35, .5, 1, .05, .1], np.float32)  # [tone] to hatch
_HATCH_ANGLE = np.radians(38)

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
StyleVector = NDArray[np.float32]  # [8] by STYLE


@dataclass(frozen=True)
class Look:
    """What a style vector means."""

    hue: float  # radians
    chroma: float  # OKLCh
    key: float  # 0 light ground, dark figures .. 1 dark ground, light figures
    line: float  # pixels
    hatch: float  # 0 smooth shading .. 1 dense hatching
    grain: float  # standard deviation of paper grain, of 1
    soft: float  # pixels of blur below the ink
    brush: float  # standard deviation of brush streaks, of 1


def look_of(style: NDArray[np.float32]) -> Look:
    """The look of a style vector [8] whose axes are about standard normal."""
    share = (1 / (1 + np.exp(-1.7 * style.astype(float)))).tolist()  # [8] about the normal's cumulative distribution
    radius = float(np.hypot(style[0], style[1]))
    return Look(hue=float(np.arctan2(style[1], style[0])), chroma=0.035 + 0.14 * (1 - float(np.exp(-radius ** 2 / 2))),
                key=share[2], line=max(0.0, 2.9 * share[3] - 0.4), hatch=float(np.clip(1.4 * share[4] - 0.3, 0, 1)),
                grain=0.11 * share[5] ** 1.2, soft=1.8 * share[6] ** 1.2, brush=0.11 * share[7] ** 1.2)


def palette(look: Look) -> Floats:
    """The colours of all tones, [16, 3] sRGB in 0..1."""
    dark = 1 / (1 + np.exp(-9 * (look.key - 0.5)))  # few grounds are middling: figures must stand out
    ground = 0.95 - 0.62 * dark
    away = 0.34 if dark > 0.5 else -0.3  # from the ground toward the figures
    near = 1 if dark > 0.5 else -1
    scene = [(ground, .5, 0), (ground + .07 * near, .7, .3), (ground + .13 * near, .8, -.4), (ground + .19 * near, .9, -.2),
             (min(.99, ground + .3) if dark > 0.5 else .995, .3, .8)]
    figure = [(ground + away, 1.2, 0.0), (ground + 1.25 * away, 1.0, .6), (ground + .9 * away, 1.5, 2.7), (.24, .5, 0.0),
              (.97, .25, 1.0)]
    other = [(ground + 1.1 * away, 1.2, -1.5), *figure[1:]]
    motif = (ground + 1.2 * away, 1.4, 2.3)
    tones = np.array([*scene, *figure, *other, motif])  # [16, 3] lightness, share of the chroma, hue offset
    return _oklch_to_srgb(tones[:, 0], tones[:, 1] * look.chroma, tones[:, 2] + look.hue)


def _oklch_to_srgb(light: NDArray[np.float64], chroma: NDArray[np.float64], hue: NDArray[np.float64]) -> Floats:
    """Bjoern Ottosson's OKLab (2020), clipped to what a screen shows."""
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    long = (light + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (light - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (light - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack([4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
                       -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
                       -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short], -1).clip(0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return srgb.astype(np.float32)


def paint(tones: Image.Image, ink: Image.Image, look: Look, rng: np.random.Generator) -> Pixels:
    """Tone map and ink mask (mode L, SHARPER times the size) -> [height, width, 3] sRGB pixels."""
    tone_HW = np.asarray(tones)
    colours = palette(look)
    flat_HWC = colours[tone_HW] * _bevel(tone_HW, look)[..., None]
    flat = Image.fromarray((flat_HWC.clip(0, 1) * 255).astype(np.uint8))
    soft_HWC = np.asarray(flat.filter(ImageFilter.GaussianBlur(look.soft * SHARPER)), np.float32) / 255
    dark_HW = 1 - (1 - np.asarray(ink, np.float32) / 255) * (1 - _hatching(tone_HW, look, rng))
    pen = colours[FIRST + 3] if look.key < 0.5 else colours[FIRST + 3] * 0.6
    inked_HWC = soft_HWC + dark_HW[..., None] * (pen - soft_HWC)
    small_HWC = _reduced(inked_HWC) + _texture(tone_HW.shape, look, rng)[..., None]
    return (small_HWC.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _bevel(tone_HW: Pixels, look: Look) -> Floats:
    """Light from the upper left on everything in front, [H, W] around 1; hatching takes its place."""
    figure = Image.fromarray(((tone_HW >= FIRST) * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(5))
    round_HW = np.asarray(figure, np.float32) / 255
    slope_HW = round_HW - np.roll(round_HW, (5, 5), (0, 1))
    light_HW: Floats = 1 + np.float32(0.9 * (1 - look.hatch)) * slope_HW * (tone_HW >= FIRST)
    return light_HW


def _hatching(tone_HW: Pixels, look: Look, rng: np.random.Generator) -> Floats:
    """Opacity of hatching lines, [H, W]: wider where the tone is darker."""
    height, width = tone_HW.shape
    angle, period = _HATCH_ANGLE + rng.normal(0, 0.05), SHARPER * (5.5 - 1.5 * look.hatch)
    y, x = np.ogrid[:height, :width]
    wave_HW = np.cos((2 * np.pi / period) * (np.cos(angle) * x + np.sin(angle) * y)).astype(np.float32)
    wide = _SHADOW[tone_HW] * np.float32(look.hatch)  # [H, W] share of each period that is inked
    opacity: Floats = np.float32(0.75 * min(1, 2 * look.hatch)) * ((wave_HW + 1) / 2 > 1 - 0.7 * wide)
    return opacity


def _texture(shape: tuple[int, ...], look: Look, rng: np.random.Generator) -> Floats:
    """Paper grain and horizontal brush streaks, added to all channels, [H / SHARPER, W / SHARPER]."""
    height, width = shape[0] // SHARPER, shape[1] // SHARPER
    grain = rng.standard_normal((height, width), np.float32) * np.float32(look.grain)
    strokes = rng.standard_normal((height, max(2, width // 10)), np.float32)
    streaks = np.asarray(Image.fromarray(strokes).resize((width, height), Image.Resampling.BICUBIC))
    return grain + streaks * np.float32(look.brush)


def _reduced(pixels_HWC: Floats) -> Floats:
    """The mean of each SHARPER x SHARPER block."""
    blocks = [pixels_HWC[row::SHARPER, column::SHARPER] for row in range(SHARPER) for column in range(SHARPER)]
    total: Floats = sum(blocks[1:], blocks[0]) * np.float32(1 / len(blocks))
    return total
