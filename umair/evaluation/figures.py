"""report.json: the measures as plain values, and the verdict on them. JSON knows no NaN: what is not defined is null."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from umair.config import Section
from umair.evaluation.comparison import Interval, PairedAucs
from umair.evaluation.content import NO_CONTENT
from umair.evaluation.references import BOOKMARK_RATE, CEILING, CONSTANT, POPULARITY
from umair.evaluation.slices import ALL, COLD, Figures
from umair.metrics import Calibration, way
from umair.training.loop import MAIN

ID_ONLY, LAST_WEEK = "id_only", "last_week"  # rankers with a part of their own, beside MAIN
ACCEPT, REJECT = "accept", "reject"
NAMES = {MAIN: "the ranker", ID_ONLY: "ids and tags only", "id_counters": "ids, tags and counters",
         NO_CONTENT: "itself without pictures and texts", LAST_WEEK: "the ranker before it", BOOKMARK_RATE: "bookmark rate"}
Line = dict[str, Any]
Measures = dict[tuple[str, str], Line]  # by slice and ranker


class VerdictConfig(Section):
    """When a week's ranker is turned down (exit code 3)."""

    reject_below_popularity: bool = True  # reject where its AUC is below the better popularity baseline's
    reject_below_last_week: bool = True  # reject where its difference to the ranker before it has an interval below zero
    minimum_auc: float | None = Field(None, ge=0, le=1)  # reject where its AUC is below this; null: no bound


def measure_lines(figures: list[Figures], paired: dict[str, PairedAucs]) -> list[Line]:
    """One line a slice and ranker: counts, measures, intervals. `paired` holds the resamplings by slice."""
    ceilings = {one.slice: one.auc for one in figures if one.ranker == CEILING}
    return [_measure_line(one, ceilings.get(one.slice), paired.get(one.slice)) for one in figures]


def _measure_line(one: Figures, ceiling: float | None, paired: PairedAucs | None) -> Line:
    auc = interval_values(paired.auc(one.ranker)) if paired else {}
    ways = interval_values(paired.way(one.ranker, CEILING)) if paired and ceiling is not None else {}
    return {
        "slice": one.slice, "ranker": one.ranker, "rows": one.rows, "positives": one.positives,
        "base_rate": finite(one.base_rate),
        "auc": finite(one.auc), "auc_low": auc.get("low"), "auc_high": auc.get("high"),
        "way": None if ceiling is None else finite(way(one.auc, ceiling)),
        "way_low": ways.get("low"), "way_high": ways.get("high"),
        "log_loss": None if one.log_loss is None else finite(one.log_loss.mean),
        "gauc": finite(one.gauc.by_rows), "gauc_unweighted": finite(one.gauc.by_users),
        "users_kept": one.gauc.kept_users, "users_dropped": one.gauc.dropped_users,
        "rows_kept": one.gauc.kept_rows, "rows_dropped": one.gauc.dropped_rows}


def differences(paired: dict[str, PairedAucs], against: list[str]) -> list[Line]:
    """AUC of the ranker minus that of each other one, with its interval, on the slices all and cold."""
    return [{"slice": part, "against": name, **interval_values(paired[part].difference(MAIN, name))}
            for part in (ALL, COLD) if part in paired for name in against]


def headline(lines: list[Line]) -> Line:
    """The figures that stand at the top level of report.json; null for what these data or rankers do not have."""
    measures = by_slice_and_ranker(lines)
    main = measures[ALL, MAIN]

    def auc(part: str, ranker: str) -> float | None:
        line = measures.get((part, ranker))
        return None if line is None else line["auc"]

    return {
        "auc": main["auc"], "log_loss": main["log_loss"], "gauc": main["gauc"], "gauc_unweighted": main["gauc_unweighted"],
        "way": main["way"], "ceiling_auc": auc(ALL, CEILING), "popularity_auc": auc(ALL, better_popularity(measures, ALL)),
        "id_only_auc": auc(ALL, ID_ONLY), "cold_auc": auc(COLD, MAIN), "cold_ceiling_auc": auc(COLD, CEILING),
        "cold_popularity_auc": auc(COLD, better_popularity(measures, COLD)), "cold_id_only_auc": auc(COLD, ID_ONLY),
        "ceiling_log_loss": measures.get((ALL, CEILING), {}).get("log_loss"),
        "constant_log_loss": measures[ALL, CONSTANT]["log_loss"]}


def judge(lines: list[Line], gaps: list[Line], config: VerdictConfig) -> tuple[str, list[str]]:
    """The verdict and the sentences that give its reasons."""
    measures = by_slice_and_ranker(lines)
    auc = measures[ALL, MAIN]["auc"]
    popularity = better_popularity(measures, ALL)
    floor = measures[ALL, popularity]["auc"]
    against = {gap["against"]: gap for gap in gaps if gap["slice"] == ALL}
    if auc is None:
        return REJECT, ["The test rows hold one class only, so that nothing can be said about the order of their scores."]
    faults = []
    if config.reject_below_popularity and auc < floor:
        faults.append(f"AUC {auc:.4f} is below {floor:.4f}, which {name_of(popularity)} alone reaches"
                      f"{_span(against, popularity)}.")
    if config.minimum_auc is not None and auc < config.minimum_auc:
        faults.append(f"AUC {auc:.4f} is below the minimum of {config.minimum_auc:.4f} (evaluation.minimum_auc).")
    last = against.get(LAST_WEEK)
    if config.reject_below_last_week and last and last["high"] is not None and last["high"] < 0:
        faults.append(f"The ranker before it is better by {-last['estimate']:.4f} on the same rows (interval "
                      f"{-last['high']:.4f} to {-last['low']:.4f}).")
    return (REJECT, faults) if faults else (ACCEPT, [_gains(against, popularity)])


def _span(against: dict[str, Line], name: str) -> str:
    gap = against.get(name)
    known = gap is not None and gap["low"] is not None
    return f" (interval of the difference {gap['low']:+.3f} to {gap['high']:+.3f})" if gap and known else ""


def _gains(against: dict[str, Line], popularity: str) -> str:
    known = {name: gap for name, gap in against.items() if gap["estimate"] is not None}
    others = [name for name in known if name not in (POPULARITY, BOOKMARK_RATE)]
    names = [name for name in (popularity, *others) if name in known]
    if not names:
        return ("It cannot be compared: the users drawn for intervals have rows of one class only, or none. "
                "Raise evaluation.interval_rows.")
    parts = []
    for name in names:
        gap = known[name]
        more = "more" if gap["estimate"] >= 0 else "less"
        span = "" if gap["low"] is None else f" (interval {gap['low']:+.3f} to {gap['high']:+.3f})"
        parts.append(f"{abs(gap['estimate']):.3f} {more} than {name_of(name)}{span}")
    return "On the same rows its AUC is " + ", ".join(parts) + "."


def calibration_values(calibration: Calibration) -> Line:
    """error, and bins with their mean said probability, share that happened, and rows; empty bins are left out."""
    full = [place for place, rows in enumerate(calibration.rows_C) if rows]
    return {"error": finite(calibration.error), "bins": [
        {"said": float(calibration.said_C[place] / calibration.rows_C[place]),
         "happened": float(calibration.positives_C[place] / calibration.rows_C[place]),
         "rows": int(calibration.rows_C[place])} for place in full]}


def by_slice_and_ranker(lines: list[Line]) -> Measures:
    return {(line["slice"], line["ranker"]): line for line in lines}


def better_popularity(measures: Measures, part: str) -> str:
    """The popularity baseline with the higher AUC on a slice, so that the bar to clear is the higher one."""
    return max((POPULARITY, BOOKMARK_RATE), key=lambda name: measures.get((part, name), {}).get("auc") or 0.0)


def interval_values(interval: Interval) -> Line:
    return {"estimate": finite(interval.estimate), "low": finite(interval.low), "high": finite(interval.high),
            "excludes_zero": interval.excludes_zero}


def finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def name_of(ranker: str) -> str:
    """What a sentence calls it."""
    return NAMES.get(ranker, ranker.replace("_", " "))
