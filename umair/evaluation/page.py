"""index.html of a report: what report.json says, laid out for people who would rather look than read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from umair.evaluation.content import NO_CONTENT
from umair.evaluation.figures import Line, better_popularity, by_slice_and_ranker, name_of
from umair.evaluation.references import CEILING
from umair.evaluation.slices import ALL, COLD, SLICES
from umair.metrics import way
from umair.training.loop import MAIN

_LABELS = {MAIN: "ranker", ALL: "all rows", NO_CONTENT: "without pictures and texts"}


@dataclass(frozen=True)
class Illustrated:
    """What the page shows beyond report.json. Plots are SVG, thumbnails data URIs; empty where there is nothing to show."""

    training: str = ""
    calibration: str = ""
    users: list[Line] = field(default_factory=list)  # name, rows, stacks: one list of (modality, share) a column
    weight_columns: list[str] = field(default_factory=list)
    examples: list[Line] = field(default_factory=list)  # title, tags, thumbnail, rows: (name, items)


def render(report: dict[str, Any], shown: Illustrated) -> str:
    """The page as one HTML text that fetches nothing. Texts of the catalogue are escaped."""
    environment = Environment(loader=PackageLoader("umair.evaluation", "."), autoescape=True, undefined=StrictUndefined)
    environment.filters.update(number=_number, percent=_percent, count=_count, label=_label)
    measures = by_slice_and_ranker(report["slices"])
    parts = [part for part in SLICES if (part, MAIN) in measures]
    rivals = [name for name in report["rankers"] if name != MAIN]
    wide = [part for part in (ALL, COLD) if part in parts]
    return environment.get_template("report.html.j2").render(
        report=report, rivals=rivals, shown=shown, main_all=measures[ALL, MAIN],
        plots={"training": Markup(shown.training), "calibration": Markup(shown.calibration)},  # drawn here, hence trusted
        panels=[_panel(report, part, rivals) for part in wide],
        difference_slices=wide, differences=_differences(report, wide),
        slice_lines=[_slice_line(measures, part, rivals) for part in parts], legend=_legend(shown.users),
        neighbour_count=max((len(items) for one in shown.examples for _, items in one["rows"]), default=1),
        longest_step=max([1e-9, *report["seconds"].values()]))


def _panel(report: dict[str, Any], part: str, rivals: list[str]) -> Line:
    """Bars from chance to the ceiling of one slice, or to AUC 1 where the ceiling is not known."""
    measures = by_slice_and_ranker(report["slices"])
    ceiling = measures.get((part, CEILING), {}).get("auc")
    end = ceiling if ceiling is not None else 1.0
    names = [MAIN, *rivals, better_popularity(measures, part)]
    return {"title": _label(part).capitalize(), "rows": measures[part, MAIN]["rows"],
            "end_label": f"best possible {ceiling:.3f}" if ceiling is not None else "AUC 1",
            "bars": [_bar(name, measures[part, name], end, ceiling is not None) for name in names]}


def _bar(name: str, line: Line, end: float, known_end: bool) -> Line:
    def place(auc: float | None) -> float | None:
        return None if auc is None else round(min(100.0, max(0.0, 100 * way(auc, end))), 2)

    low, high = place(line["auc_low"]), place(line["auc_high"])
    return {"label": _label(name), "is_main": name == MAIN, "auc": line["auc"], "width": place(line["auc"]) or 0, "low": low,
            "span": 0 if low is None or high is None else round(high - low, 2), "share": line["way"] if known_end else None}


def _differences(report: dict[str, Any], parts: list[str]) -> list[Line]:
    gaps = {(gap["slice"], gap["against"]): gap for gap in report["intervals"]["differences"]}
    names = list(dict.fromkeys(against for _, against in gaps))
    return [{"against": name, "cells": [_cell(gaps.get((part, name))) for part in parts]} for name in names]


def _cell(gap: Line | None) -> Line | None:
    return gap if gap and gap["estimate"] is not None else None


def _slice_line(measures: dict[tuple[str, str], Line], part: str, rivals: list[str]) -> Line:
    ceiling = measures.get((part, CEILING), {}).get("auc")
    return {"slice": part, "main": measures[part, MAIN], "ceiling_auc": ceiling,
            "rival_aucs": [measures[part, name]["auc"] for name in rivals],
            "popularity_auc": measures[part, better_popularity(measures, part)]["auc"]}


def _legend(users: list[Line]) -> list[str]:
    return list(dict.fromkeys(name for user in users for stack in user["stacks"] for name, _ in stack))


def _number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    if value is None:
        return "–"
    value = round(value, digits) + 0.0  # no minus before a zero
    return (f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}").replace("-", "−")


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{_number(100 * value, digits)} %"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}".replace(",", "\u202f")


def _label(name: str) -> str:
    return _LABELS.get(name) or name_of(name)
