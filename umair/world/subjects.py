"""What can be drawn: each subject as a stack of flat parts, back to front (umair.world.shapes)."""

from __future__ import annotations

import numpy as np

from umair.world.shapes import ACCENT, BODY, DARK, LIGHT, SECOND, Part, around, box, half, mirrored, moved, oval, poly, star


def _cat() -> list[Part]:
    return [
        poly(BODY, 0.4, 0.8, 0.75, 0.6, 0.85, 0.1, 0.7, 0.05, 0.62, 0.5, 0.3, 0.6),
        oval(BODY, 0, 0.5, 0.48, 0.47),
        oval(LIGHT, 0, 0.62, 0.25, 0.3),
        *mirrored(
            poly(BODY, -0.48, -0.25, -0.5, -0.95, -0.1, -0.6), poly(ACCENT, -0.42, -0.5, -0.44, -0.8, -0.24, -0.62)
        ),
        oval(BODY, 0, -0.28, 0.52, 0.42),
        *mirrored(oval(DARK, -0.2, -0.3, 0.07, 0.11)),
        poly(ACCENT, -0.07, -0.14, 0.07, -0.14, 0, -0.05),
    ]


def _rabbit() -> list[Part]:
    return [
        *mirrored(oval(BODY, -0.2, -0.72, 0.14, 0.38, -10), oval(ACCENT, -0.2, -0.7, 0.06, 0.27, -10)),
        oval(BODY, 0, 0.52, 0.44, 0.45),
        oval(LIGHT, 0.38, 0.72, 0.16, 0.16),
        oval(BODY, 0, -0.15, 0.42, 0.36),
        *mirrored(oval(DARK, -0.17, -0.18, 0.06, 0.09)),
        oval(ACCENT, 0, -0.03, 0.06, 0.05),
        box(LIGHT, -0.06, 0.03, 0.06, 0.14),
    ]


def _fox() -> list[Part]:
    return [
        poly(BODY, 0.2, 0.7, 0.7, 0.75, 1, 0.3, 0.85, -0.15, 0.6, 0.2, 0.3, 0.4),
        poly(LIGHT, 1, 0.3, 0.85, -0.15, 0.72, 0.05, 0.85, 0.35),
        poly(BODY, -0.4, 0.95, 0.4, 0.95, 0.28, 0.1, -0.28, 0.1),
        poly(LIGHT, -0.16, 0.95, 0.16, 0.95, 0.1, 0.25, -0.1, 0.25),
        *mirrored(poly(BODY, -0.6, -0.9, -0.12, -0.55, -0.5, -0.3), poly(DARK, -0.55, -0.8, -0.36, -0.66, -0.5, -0.58)),
        poly(BODY, -0.62, -0.3, -0.3, -0.62, 0.3, -0.62, 0.62, -0.3, 0, 0.3),
        *mirrored(poly(LIGHT, -0.6, -0.28, -0.2, -0.2, 0, 0.28)),
        *mirrored(oval(DARK, -0.22, -0.32, 0.06, 0.08)),
        oval(DARK, 0, 0.22, 0.1, 0.08),
    ]


def _bird() -> list[Part]:
    return [
        poly(SECOND, 0.5, 0.1, 1, -0.15, 0.95, 0.2),
        oval(BODY, 0, 0.15, 0.62, 0.45),
        oval(LIGHT, -0.15, 0.3, 0.38, 0.26),
        oval(BODY, -0.42, -0.3, 0.34, 0.32),
        poly(ACCENT, -0.7, -0.35, -1, -0.22, -0.7, -0.15),
        oval(DARK, -0.5, -0.36, 0.06, 0.07),
        poly(SECOND, -0.1, -0.05, 0.6, -0.1, 0.3, 0.4, 0, 0.35),
        box(DARK, -0.16, 0.58, -0.1, 0.95),
        box(DARK, 0.14, 0.58, 0.2, 0.95),
    ]


def _owl() -> list[Part]:
    return [
        oval(BODY, 0, 0.15, 0.6, 0.78),
        *mirrored(poly(BODY, -0.58, -0.3, -0.6, -0.95, -0.15, -0.6)),
        *mirrored(oval(SECOND, -0.52, 0.25, 0.18, 0.48, 8)),
        oval(LIGHT, 0, 0.4, 0.34, 0.42),
        *mirrored(oval(LIGHT, -0.25, -0.25, 0.26, 0.26), oval(DARK, -0.25, -0.25, 0.12, 0.14)),
        poly(ACCENT, -0.1, -0.12, 0.1, -0.12, 0, 0.12),
        *mirrored(oval(ACCENT, -0.22, 0.92, 0.14, 0.08)),
    ]


def _fish() -> list[Part]:
    return [
        poly(SECOND, 0.45, 0, 1, -0.5, 0.85, 0, 1, 0.5),
        poly(SECOND, -0.2, -0.35, 0.2, -0.8, 0.4, -0.3),
        oval(BODY, -0.1, 0, 0.72, 0.46),
        oval(LIGHT, -0.1, 0.2, 0.5, 0.2),
        *[oval(ACCENT, x, -0.02, 0.07, 0.36) for x in (-0.15, 0.12, 0.36)],
        oval(LIGHT, -0.5, -0.12, 0.13, 0.13),
        oval(DARK, -0.52, -0.12, 0.07, 0.07),
        poly(SECOND, -0.1, 0.3, 0.2, 0.7, 0.25, 0.3),
    ]


def _whale() -> list[Part]:
    return [
        poly(BODY, 0.55, 0.1, 0.75, -0.55, 0.55, -0.85, 0.85, -0.72, 1, -0.9, 0.98, -0.55, 0.9, 0.3),
        half(BODY, -0.1, 0.5, 0.9, 0.85),
        poly(LIGHT, -0.98, 0.45, 0.6, 0.45, 0.3, 0.75, -0.6, 0.78),
        oval(DARK, -0.6, 0.2, 0.06, 0.08),
        poly(SECOND, -0.2, 0.5, 0.15, 0.5, 0.2, 0.85),
        poly(LIGHT, -0.3, -0.4, -0.36, -0.8, -0.62, -0.95, -0.3, -0.9, 0, -0.95, -0.24, -0.8),
    ]


def _jelly() -> list[Part]:
    return [
        *[
            poly(
                SECOND, x, 0.05, x + 0.1, 0.05, x + 0.22 * side, 0.5, x + 0.1, 0.98, x, 0.98, x + 0.22 * side - 0.1, 0.5
            )
            for x, side in ((-0.5, -1), (-0.2, 1), (0.1, -1), (0.38, 1))
        ],
        half(BODY, 0, 0.12, 0.72, 0.85),
        *[half(ACCENT, x, 0.22, 0.18, 0.2) for x in (-0.54, -0.18, 0.18, 0.54)],
        oval(LIGHT, -0.25, -0.35, 0.16, 0.1, -30),
        oval(LIGHT, 0.05, -0.5, 0.08, 0.05),
    ]


def _butterfly() -> list[Part]:
    return [
        *mirrored(
            oval(BODY, -0.52, -0.4, 0.5, 0.36, 35),
            oval(SECOND, -0.42, 0.42, 0.38, 0.32, -35),
            oval(ACCENT, -0.58, -0.45, 0.22, 0.16, 35),
            oval(LIGHT, -0.46, 0.45, 0.15, 0.13),
            poly(DARK, -0.02, -0.6, -0.28, -0.95, -0.33, -0.9, -0.06, -0.55),
        ),
        oval(DARK, 0, 0, 0.1, 0.68),
    ]


def _turtle() -> list[Part]:
    return [
        *mirrored(oval(SECOND, -0.62, -0.45, 0.32, 0.18, 35), oval(SECOND, -0.58, 0.5, 0.28, 0.16, -40)),
        oval(SECOND, 0, -0.78, 0.22, 0.26),
        oval(BODY, 0, 0.05, 0.66, 0.7),
        poly(ACCENT, 0, -0.3, 0.28, -0.1, 0.28, 0.25, 0, 0.45, -0.28, 0.25, -0.28, -0.1),
        *mirrored(
            poly(LIGHT, -0.36, -0.4, -0.14, -0.46, -0.3, -0.18),
            poly(LIGHT, -0.36, 0.5, -0.14, 0.58, -0.3, 0.34),
            oval(DARK, -0.09, -0.86, 0.04, 0.05),
        ),
    ]


def _sunflower() -> list[Part]:
    leaf = oval(SECOND, -0.26, 0.62, 0.26, 0.1, 30)
    petals = moved(around(oval(BODY, 0, -0.44, 0.15, 0.26), 10), 0, -0.3)
    return [
        box(SECOND, -0.06, -0.2, 0.06, 1),
        *mirrored(leaf),
        *petals,
        oval(DARK, 0, -0.3, 0.29, 0.29),
        oval(ACCENT, 0, -0.3, 0.17, 0.17),
    ]


def _tulip() -> list[Part]:
    return [
        box(SECOND, -0.06, 0, 0.06, 1),
        *mirrored(poly(SECOND, 0, 0.95, -0.5, 0.1, -0.12, 0.45)),
        poly(
            BODY,
            -0.45,
            -0.7,
            -0.2,
            -0.35,
            0,
            -0.9,
            0.2,
            -0.35,
            0.45,
            -0.7,
            0.42,
            -0.05,
            0.18,
            0.2,
            -0.18,
            0.2,
            -0.42,
            -0.05,
        ),
        poly(ACCENT, 0, -0.85, 0.17, -0.3, 0, 0.18, -0.17, -0.3),
    ]


def _pine() -> list[Part]:
    return [
        box(DARK, -0.12, 0.6, 0.12, 1),
        *[
            poly(role, 0, top, wide, top + 0.72, -wide, top + 0.72)
            for role, top, wide in ((BODY, 0.0, 0.72), (SECOND, -0.48, 0.58), (BODY, -0.96, 0.42))
        ],
        star(ACCENT, 0, -0.92, 0.16),
    ]


def _mushroom() -> list[Part]:
    return [
        poly(LIGHT, -0.22, 0, 0.22, 0, 0.32, 0.95, -0.32, 0.95),
        half(BODY, 0, 0.12, 0.88, 0.95),
        oval(SECOND, 0, 0.12, 0.88, 0.12),
        oval(LIGHT, -0.4, -0.2, 0.17, 0.15),
        oval(LIGHT, 0.12, -0.5, 0.18, 0.14),
        oval(LIGHT, 0.48, -0.12, 0.13, 0.12),
    ]


def _cactus() -> list[Part]:
    return [
        oval(BODY, 0, 0.05, 0.27, 0.85),
        poly(BODY, -0.2, 0.2, -0.75, 0.2, -0.75, -0.4, -0.5, -0.4, -0.5, -0.02, -0.2, -0.02),
        poly(BODY, 0.2, 0.4, 0.75, 0.4, 0.75, -0.15, 0.5, -0.15, 0.5, 0.18, 0.2, 0.18),
        *[box(LIGHT, x, -0.6, x + 0.05, 0.55) for x in (-0.13, 0.08)],
        *moved(around(oval(ACCENT, 0, -0.12, 0.08, 0.13), 5), 0, -0.82),
        poly(SECOND, -0.5, 0.6, 0.5, 0.6, 0.38, 1, -0.38, 1),
    ]


def _house() -> list[Part]:
    return [
        box(SECOND, 0.38, -0.85, 0.6, -0.3),
        box(BODY, -0.7, -0.1, 0.7, 0.9),
        poly(ACCENT, -0.92, -0.08, 0, -0.85, 0.92, -0.08),
        box(DARK, -0.16, 0.35, 0.16, 0.9),
        *mirrored(box(LIGHT, -0.56, 0.12, -0.28, 0.45)),
        oval(LIGHT, 0, -0.35, 0.14, 0.14),
    ]


def _castle() -> list[Part]:
    return [
        *mirrored(
            box(BODY, -0.9, -0.4, -0.45, 0.9),
            poly(ACCENT, -1, -0.4, -0.67, -0.98, -0.35, -0.4),
            box(DARK, -0.74, -0.2, -0.62, 0.05),
        ),
        poly(
            SECOND,
            -0.46,
            0.9,
            -0.46,
            0,
            -0.3,
            0,
            -0.3,
            0.14,
            -0.1,
            0.14,
            -0.1,
            0,
            0.1,
            0,
            0.1,
            0.14,
            0.3,
            0.14,
            0.3,
            0,
            0.46,
            0,
            0.46,
            0.9,
        ),
        half(DARK, 0, 0.7, 0.2, 0.36),
        box(DARK, -0.2, 0.68, 0.2, 0.9),
        box(DARK, -0.02, -0.65, 0.02, 0),
        poly(ACCENT, 0.02, -0.65, 0.4, -0.5, 0.02, -0.35),
    ]


def _lighthouse() -> list[Part]:
    return [
        poly(LIGHT, 0.1, -0.62, 1, -0.95, 1, -0.35),
        poly(BODY, -0.22, -0.45, 0.22, -0.45, 0.42, 0.85, -0.42, 0.85),
        poly(ACCENT, -0.26, -0.15, 0.26, -0.15, 0.31, 0.15, -0.31, 0.15),
        poly(ACCENT, -0.36, 0.45, 0.36, 0.45, 0.41, 0.75, -0.41, 0.75),
        box(LIGHT, -0.2, -0.75, 0.2, -0.45),
        half(SECOND, 0, -0.75, 0.26, 0.24),
        box(DARK, -0.34, -0.5, 0.34, -0.42),
        poly(DARK, -0.7, 0.98, -0.5, 0.82, 0.5, 0.82, 0.7, 0.98),
    ]


def _torii() -> list[Part]:
    return [
        *mirrored(poly(BODY, -0.6, -0.7, -0.42, -0.7, -0.5, 0.95, -0.72, 0.95), box(DARK, -0.78, 0.84, -0.44, 0.98)),
        box(BODY, -0.8, -0.35, 0.8, -0.2),
        poly(ACCENT, -1, -0.95, -0.5, -0.82, 0.5, -0.82, 1, -0.95, 0.92, -0.62, -0.92, -0.62),
        box(LIGHT, -0.12, -0.64, 0.12, -0.2),
    ]


def _car() -> list[Part]:
    return [
        poly(SECOND, -0.5, -0.05, -0.3, -0.5, 0.35, -0.5, 0.62, -0.05),
        poly(LIGHT, -0.36, -0.08, -0.22, -0.4, 0, -0.4, 0, -0.08),
        poly(LIGHT, 0.07, -0.08, 0.07, -0.4, 0.3, -0.4, 0.46, -0.08),
        poly(BODY, -0.98, 0.4, -0.95, 0, 0.9, -0.06, 0.98, 0.1, 0.98, 0.4),
        box(ACCENT, -0.98, 0.12, -0.85, 0.26),
        box(ACCENT, 0.86, 0.1, 0.98, 0.22),
        *mirrored(oval(DARK, -0.52, 0.42, 0.25, 0.25), oval(LIGHT, -0.52, 0.42, 0.11, 0.11)),
    ]


def _sailboat() -> list[Part]:
    return [
        box(DARK, -0.04, -0.95, 0.04, 0.4),
        poly(LIGHT, 0.06, -0.9, 0.75, 0.3, 0.06, 0.3),
        poly(ACCENT, -0.06, -0.7, -0.6, 0.3, -0.06, 0.3),
        poly(BODY, -0.9, 0.42, 0.95, 0.42, 0.6, 0.9, -0.6, 0.9),
        poly(SECOND, -0.85, 0.5, 0.9, 0.5, 0.84, 0.62, -0.76, 0.62),
    ]


def _rocket() -> list[Part]:
    return [
        *mirrored(poly(ACCENT, -0.3, 0.2, -0.68, 0.75, -0.25, 0.6)),
        poly(LIGHT, -0.2, 0.6, 0, 1, 0.2, 0.6),
        oval(BODY, 0, -0.1, 0.36, 0.86),
        poly(SECOND, -0.26, -0.68, 0, -0.98, 0.26, -0.68, 0.31, -0.5, -0.31, -0.5),
        oval(DARK, 0, -0.2, 0.19, 0.19),
        oval(LIGHT, 0, -0.2, 0.12, 0.12),
        box(SECOND, -0.24, 0.5, 0.24, 0.64),
    ]


def _balloon() -> list[Part]:
    return [
        poly(DARK, -0.34, 0.2, -0.3, 0.2, -0.14, 0.75, -0.18, 0.75),
        poly(DARK, 0.34, 0.2, 0.3, 0.2, 0.14, 0.75, 0.18, 0.75),
        oval(BODY, 0, -0.3, 0.68, 0.68),
        oval(ACCENT, 0, -0.3, 0.42, 0.68),
        oval(LIGHT, 0, -0.3, 0.16, 0.68),
        poly(SECOND, -0.22, 0.7, 0.22, 0.7, 0.17, 0.98, -0.17, 0.98),
    ]


def _train() -> list[Part]:
    return [
        box(BODY, -0.95, -0.15, 0.35, 0.5),
        box(SECOND, 0.3, -0.7, 0.92, 0.5),
        box(LIGHT, 0.42, -0.55, 0.8, -0.15),
        poly(DARK, -0.8, -0.15, -0.75, -0.6, -0.88, -0.7, -0.42, -0.7, -0.55, -0.6, -0.5, -0.15),
        *[oval(LIGHT, x, y, size, size) for x, y, size in ((-0.55, -0.86, 0.13), (-0.3, -0.95, 0.1))],
        box(ACCENT, -0.95, 0.12, 0.35, 0.24),
        poly(DARK, -0.95, 0.5, -1, 0.75, -0.7, 0.5),
        *[oval(DARK, x, 0.62, 0.22, 0.22) for x in (-0.6, -0.05, 0.55)],
        *[oval(ACCENT, x, 0.62, 0.09, 0.09) for x in (-0.6, -0.05, 0.55)],
    ]


def _girl() -> list[Part]:
    return [
        *mirrored(
            poly(SECOND, -0.42, -0.75, -0.66, -0.1, -0.5, 0.2, -0.26, -0.1),
            box(LIGHT, -0.2, 0.7, -0.07, 0.96),
            poly(LIGHT, -0.22, 0, -0.6, 0.32, -0.52, 0.44, -0.16, 0.2),
        ),
        poly(BODY, -0.2, -0.05, 0.2, -0.05, 0.5, 0.75, -0.5, 0.75),
        poly(ACCENT, -0.44, 0.6, 0.44, 0.6, 0.5, 0.75, -0.5, 0.75),
        oval(LIGHT, 0, -0.42, 0.38, 0.38),
        half(SECOND, 0, -0.46, 0.42, 0.46),
        *mirrored(oval(DARK, -0.15, -0.34, 0.05, 0.08)),
        *mirrored(poly(ACCENT, 0, -0.88, -0.24, -1, -0.24, -0.76)),
        oval(ACCENT, 0, -0.2, 0.07, 0.03),
    ]


def _robot() -> list[Part]:
    return [
        box(DARK, -0.03, -0.98, 0.03, -0.7),
        oval(ACCENT, 0, -0.94, 0.09, 0.09),
        box(BODY, -0.45, -0.75, 0.45, -0.12),
        box(LIGHT, -0.35, -0.62, 0.35, -0.3),
        *mirrored(
            oval(DARK, -0.17, -0.46, 0.08, 0.1),
            box(SECOND, -0.8, 0, -0.55, 0.5),
            oval(ACCENT, -0.67, 0.55, 0.14, 0.12),
            box(SECOND, -0.36, 0.62, -0.1, 0.96),
        ),
        box(BODY, -0.55, -0.05, 0.55, 0.64),
        box(ACCENT, -0.3, 0.1, 0.3, 0.42),
        *[box(LIGHT, x, 0.2, x + 0.1, 0.32) for x in (-0.2, -0.05, 0.1)],
    ]


def _ghost() -> list[Part]:
    wave = [(0.62 - 0.124 * step, 0.95 if step % 2 == 0 else 0.72) for step in range(11)]
    return [
        (BODY, np.concatenate([half(BODY, 0, -0.2, 0.62, 0.72)[1], np.array(wave)])),
        *mirrored(
            oval(BODY, -0.68, 0.1, 0.2, 0.12, 40),
            oval(DARK, -0.2, -0.3, 0.1, 0.16),
            oval(ACCENT, -0.36, -0.06, 0.1, 0.06),
        ),
        oval(DARK, 0, 0.08, 0.1, 0.13),
    ]


def _snowman() -> list[Part]:
    return [
        *mirrored(poly(DARK, -0.35, 0, -0.9, -0.35, -0.86, -0.42, -0.3, -0.08)),
        oval(LIGHT, 0, 0.55, 0.48, 0.43),
        oval(LIGHT, 0, -0.02, 0.36, 0.33),
        oval(LIGHT, 0, -0.48, 0.28, 0.26),
        *mirrored(oval(DARK, -0.1, -0.52, 0.04, 0.05)),
        poly(ACCENT, 0, -0.48, 0.38, -0.4, 0, -0.38),
        box(BODY, -0.34, -0.26, 0.34, -0.14),
        poly(BODY, 0.1, -0.2, 0.26, -0.2, 0.3, 0.2, 0.14, 0.2),
        box(DARK, -0.36, -0.74, 0.36, -0.66),
        box(SECOND, -0.22, -0.99, 0.22, -0.7),
        *[oval(DARK, 0, y, 0.04, 0.04) for y in (0.05, 0.4, 0.6)],
    ]


def _cake() -> list[Part]:
    return [
        oval(LIGHT, 0, 0.8, 0.95, 0.14),
        box(BODY, -0.7, 0.15, 0.7, 0.82),
        *[half(LIGHT, x, 0.3, 0.15, -0.16) for x in (-0.56, -0.28, 0.0, 0.28, 0.56)],
        box(LIGHT, -0.7, 0.15, 0.7, 0.3),
        box(SECOND, -0.45, -0.35, 0.45, 0.15),
        *[half(ACCENT, x, -0.22, 0.11, -0.12) for x in (-0.33, -0.11, 0.11, 0.33)],
        box(ACCENT, -0.45, -0.35, 0.45, -0.22),
        *[box(LIGHT, x - 0.05, -0.72, x + 0.05, -0.35) for x in (-0.28, 0.0, 0.28)],
        *[oval(ACCENT, x, -0.84, 0.06, 0.12) for x in (-0.28, 0.0, 0.28)],
    ]


def _tea() -> list[Part]:
    ring = np.concatenate([oval(BODY, 0.72, 0.15, 0.28, 0.3)[1], oval(BODY, 0.72, 0.15, 0.15, 0.17)[1][::-1]])
    return [
        oval(SECOND, 0, 0.82, 0.92, 0.14),
        (BODY, ring),
        poly(BODY, -0.68, -0.2, 0.68, -0.2, 0.5, 0.55, 0.3, 0.8, -0.3, 0.8, -0.5, 0.55),
        oval(LIGHT, 0, -0.2, 0.68, 0.15),
        oval(DARK, 0, -0.19, 0.56, 0.1),
        star(ACCENT, 0, 0.28, 0.24),
        *[
            poly(LIGHT, x, -0.4, x + 0.1, -0.62, x, -0.95, x + 0.1, -0.95, x + 0.2, -0.62, x + 0.1, -0.4)
            for x in (-0.35, 0.1)
        ],
    ]


_DRAWN = (
    _cat,
    _rabbit,
    _fox,
    _bird,
    _owl,
    _fish,
    _whale,
    _jelly,
    _butterfly,
    _turtle,
    _sunflower,
    _tulip,
    _pine,
    _mushroom,
    _cactus,
    _house,
    _castle,
    _lighthouse,
    _torii,
    _car,
    _sailboat,
    _rocket,
    _balloon,
    _train,
    _girl,
    _robot,
    _ghost,
    _snowman,
    _cake,
    _tea,
)


def subjects() -> list[list[Part]]:
    """The parts of every subject, in the order of words.SUBJECTS."""
    return [draw() for draw in _DRAWN]
