"""The report's plots as inline SVG: text stays text, in the page's own font, and nothing is fetched."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from umair.metrics import Calibration

matplotlib.use("svg")
INK, SOFT, GRID, ACCENT, OTHER = "#1c1f24", "#6b7280", "#e7e9ee", "#2a6fdb", "#b3bac6"
OTHERS = ("#8a93a3", "#c08a4e", "#7d9c86", "#a78fb5")  # of the rivals, in turns
LABEL_GAP = 0.055  # of the plot's height between two labels
_DROPPED = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)  # a style element would reach the page
_STYLE = {"svg.fonttype": "none", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
          "axes.edgecolor": GRID, "axes.labelcolor": SOFT, "xtick.color": SOFT, "ytick.color": SOFT, "text.color": INK,
          "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.8, "axes.axisbelow": True, "xtick.major.size": 0,
          "ytick.major.size": 0}


def training_curve(lines: Mapping[str, Sequence[tuple[float, float]]], validation: dict[str, float]) -> str:
    """Training loss of each ranker against rows seen, each line a list of (rows, nats); dashes mark validation loss."""
    with _plot("training", "Training loss against rows seen") as (axes, done):
        ends: dict[str, tuple[float, float, str]] = {}
        for place, (name, points) in enumerate(lines.items()):
            colour, width = (ACCENT, 2.0) if place == 0 else (OTHERS[(place - 1) % len(OTHERS)], 1.6)
            rows, loss = np.array(points, dtype=float).reshape(-1, 2).T
            axes.plot(rows, loss, color=colour, linewidth=width, zorder=3 - place / 10)
            if len(rows):
                ends[name] = rows[-1], loss[-1], colour
            if name in validation:
                axes.axhline(validation[name], color=colour, linewidth=1, linestyle=(0, (4, 3)))
        _label_ends(axes, ends)
        axes.set_xlabel("rows seen")
        axes.set_ylabel("log loss (nats)")
        axes.xaxis.set_major_formatter(lambda value, _: _short(value))
        axes.margins(x=0.02)
    return done[0]


def _label_ends(axes: Axes, ends: dict[str, tuple[float, float, str]]) -> None:
    """Writes each line's name beside its end, pushed apart where two would print over each other."""
    low, high = axes.get_ylim()
    free = low
    for name, (x, y, colour) in sorted(ends.items(), key=lambda end: end[1][1]):
        free = max(y, free)
        axes.annotate(name, (x, free), (6, 0), textcoords="offset points", color=colour, va="center")
        free += LABEL_GAP * (high - low)
    axes.set_ylim(low, max(high, free))


def calibration_plot(calibration: Calibration) -> str:
    """Said probability against the share that happened; a dot's area grows with its rows, the line is perfection."""
    with _plot("calibration", "Said probability against the share that happened") as (axes, done):
        full_C = calibration.rows_C > 0
        rows_C = calibration.rows_C[full_C]
        axes.plot([0, 1], [0, 1], color=OTHER, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.scatter(calibration.said_C[full_C] / rows_C, calibration.positives_C[full_C] / rows_C,
                     s=12 + 240 * rows_C / max(1.0, rows_C.max()), color=ACCENT, alpha=0.85, linewidth=1,
                     edgecolor="white", zorder=3)
        axes.set_xlabel("said: mean probability in the bin")
        axes.set_ylabel("happened: share bookmarked")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
    return done[0]


@contextmanager
def _plot(name: str, title: str) -> Iterator[tuple[Axes, list[str]]]:
    """Gives axes to draw on; afterwards the list holds the SVG element. `name` keeps ids of two plots apart."""
    done: list[str] = []
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(5.4, 3.4), layout="constrained")
        yield figure.subplots(), done
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    done.append(_inline(file.getvalue(), name, title))


def _inline(svg: str, name: str, title: str) -> str:
    """The element of an SVG file, ids made its own, size left to the page, font that of the page."""
    opening, rest = svg[svg.index("<svg"):].split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening).replace("<svg", f'<svg role="img" aria-label="{title}"')
    rest = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", _DROPPED.sub("", rest))
    return opening + ">" + re.sub(r"font-family: [^;\"]*", "font-family: inherit", rest)


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
