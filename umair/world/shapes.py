"""Flat parts of a drawing: a role and a closed polygon. Subjects are drawn in a square of -1..1 with y downward.

Roles say which colour of the style's palette a part takes, so no subject has colours of its own: content and style stay
apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BODY, SECOND, ACCENT, DARK, LIGHT = range(5)  # roles

Polygon = NDArray[np.float64]  # [corners, 2] x, y
Part = tuple[int, Polygon]


def oval(role: int, x: float, y: float, wide: float, high: float, turn: float = 0.0) -> Part:
    """An ellipse of half axes `wide` and `high`, turned clockwise by `turn` degrees."""
    angle = np.linspace(0, 2 * np.pi, 22, endpoint=False)
    points = np.stack([wide * np.cos(angle), high * np.sin(angle)], 1)
    return role, points @ turning(turn) + (x, y)


def box(role: int, left: float, top: float, right: float, bottom: float) -> Part:
    """An upright rectangle."""
    return poly(role, left, top, right, top, right, bottom, left, bottom)


def poly(role: int, *coordinates: float) -> Part:
    """A polygon from x, y, x, y ..."""
    return role, np.array(coordinates, float).reshape(-1, 2)


def half(role: int, x: float, y: float, wide: float, high: float) -> Part:
    """The upper half of an ellipse, flat below."""
    angle = np.linspace(np.pi, 2 * np.pi, 16)
    return role, np.stack([x + wide * np.cos(angle), y + high * np.sin(angle)], 1)


def star(role: int, x: float, y: float, radius: float, points: int = 5, inner: float = 0.45) -> Part:
    """A star; `inner` is the share of the radius that its notches reach."""
    angle = np.arange(2 * points) * np.pi / points - np.pi / 2
    reach = np.where(np.arange(2 * points) % 2, radius * inner, radius)
    return role, np.stack([x + reach * np.cos(angle), y + reach * np.sin(angle)], 1)


def mirrored(*parts: Part) -> list[Part]:
    """The parts, and the same with left and right exchanged."""
    return [*parts, *((role, points * (-1, 1)) for role, points in parts)]


def moved(parts: list[Part], x: float, y: float) -> list[Part]:
    """The parts elsewhere."""
    return [(role, points + np.array([x, y])) for role, points in parts]


def turning(degrees: float) -> Polygon:
    """The matrix that turns row vectors clockwise on a canvas whose y runs down."""
    angle = np.radians(degrees)
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def around(part: Part, times: int, offset: float = 0.0) -> list[Part]:
    """The part `times` times, turned about the middle."""
    role, points = part
    return [(role, points @ turning(offset + 360 * each / times)) for each in range(times)]
