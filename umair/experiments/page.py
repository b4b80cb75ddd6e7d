"""The evidence page of experiments: what their summaries say, as Markdown. Written by a command, never by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from umair.evidence import ROOT, origin, provenance, write_evidence
from umair.experiments.config import DEFAULT

Line = dict[str, Any]
ABOUT = """
Every ranker sees the same training rows; each figure is the mean over training seeds. *Default minus* is the AUC of the
ranker in bold less the other's on the same rows, with a 95 % interval over resampled users (not over illustrations: it holds
for these) and over seeds, by Student's t, which makes that of two seeds very wide; one seed says nothing of others. *Way* is
(AUC - 0.5) / (best AUC - 0.5): to the ceiling, which is the truth, and to what can be learned: a ridge regression for each
user on the world's own factors (of a drawn world also on what its tags name and on its artist, where the validation window
says that they help), from the training rows. For cold rows that is one without popularity, of which training rows say
nothing; the one for all rows and for the tail knows it of cold illustrations too, and is the stricter by that. The reference
stops learning where the training window ends; rankers read counters and the user's history up to the row, so they can pass
it. Cold: no training row is about the illustration.
"""


def write_page(summaries: dict[str, Line], page: Path, command: str) -> None:
    """Writes `page`, which lies in the checkout, and all figures beside it as JSON; prints the headline, last."""
    result = {**provenance(command), "experiments": summaries}
    place = page if page.is_absolute() else ROOT / page
    write_evidence(place, result, page_text(summaries, origin(result)), headline(summaries))


def page_text(summaries: dict[str, Line], first: str) -> str:
    """The whole page, in Markdown; `first` says where it comes from."""
    parts = [experiment_text(*each) for each in summaries.items()]
    return "\n".join([f"# Rankers compared: {', '.join(summaries)}", "", first, ABOUT, *parts]) + "\n"


def headline(summaries: dict[str, Line]) -> Line:
    """By experiment and slice: the default's AUC and its share of the way."""
    return {name: {part: {key: value for key, value in each["rankers"][DEFAULT].items()
                          if key == "auc" or key.startswith("way")} for part, each in summary["slices"].items()}
            for name, summary in summaries.items()}


def experiment_text(name: str, summary: Line) -> str:
    """The part of the page on one experiment."""
    seeds = ", ".join(map(str, summary["seeds"]))
    trained = "; ".join(map(_place, summary["trained"]))
    rows = summary["rows"]
    said = (f"To be shown: {summary['claim']}. {rows['train']:,} rows to train on, {rows['valid']:,} of the validation "
            f"window, {rows['test']:,} of the test window. Seeds {seeds}. Trainings, the time of each added up: {trained}.")
    parts = [f"## {name}", "", said, ""]
    for part, each in summary["slices"].items():
        parts += _slice(part, each, summary["called"])
    parts += _published(summary["published"], summary["slices"]["all"]["rankers"], summary["called"])
    return "\n".join([*parts, *_facts(summary["rankers"], summary["trained"], summary["called"])])


def _place(trained: Line) -> str:
    """Where several trainings shared what made them fast, their seconds are not those of one alone."""
    shared = ""
    if trained["at_once"] > 1:
        shared = f", {trained['at_once']} at once"
        if trained["device"] == "cuda":
            shared += " on one GPU, so that their seconds do not compare rankers"
    return f"{trained['trainings']} in {trained['minutes']} minutes on {trained['machine']}{shared}"


def _slice(name: str, found: Line, called: str) -> list[str]:
    marks = [f"{mark} {value:.3f}" for mark, value in found["marks"].items()]
    said = f" AUC of the references: {', '.join(marks)}." if marks else ""
    ways = [f"way_to_{mark}" for mark in found["marks"]]
    heads = ["ranker", "AUC", "default minus", "GAUC", "default minus in GAUC", "log loss",
             *(way.replace("_", " ") for way in ways)]
    lines = [f"### {name}: {found['rows']:,} rows, {found['positives']:,} bookmarks", "", f"{said}".strip(), "", _row(heads),
             _row(["---"] * len(heads))]
    for ranker, line in sorted(found["rankers"].items(), key=lambda each: -each[1]["auc"]["estimate"]):
        gaps = ["" if ranker == DEFAULT else _interval(line[gap], "+.4f")
                for gap in ("default_minus", "gauc_default_minus")]
        named = f"**{called}**" if ranker == DEFAULT else ranker
        lines.append(_row([named, _interval(line["auc"], ".4f"), gaps[0], _number(line["gauc"], ".4f"), gaps[1],
                           f"{line['log_loss']:.4f}", *(_number(line[way], ".3f") for way in ways)]))
    return [*lines, ""]


def _published(published: dict[str, Line], measured: dict[str, Line], called: str) -> list[str]:
    """What a paper says that each change costs, beside what it cost here; nothing where no figures are given."""
    if not published:
        return []
    heads = ["ranker", "published AUC", "published default minus", "measured default minus", "the paper's claim", "why"]
    lines = ["### What was published, and what was measured", "",
             "Holds: the measured interval lies on the published side of zero; fails: on the other; else these rows",
             "cannot tell, or there is one seed alone, which says nothing of others.",
             "", _row(heads), _row(["---"] * len(heads))]
    for name, each in sorted(published.items(), key=lambda pair: -pair[1]["auc"]):
        if name == DEFAULT:
            lines.append(_row([f"**{called}**", f"{each['auc']:.4f}", "", "", "", each["note"]]))
            continue
        gap, found = published[DEFAULT]["auc"] - each["auc"], measured[name]["default_minus"]
        claim = _claim(gap, found) if len(measured[name]["auc_by_seed"]) > 1 else "one seed"
        lines.append(_row([name, f"{each['auc']:.4f}", f"{gap:+.4f}", _interval(found, "+.4f"), claim, each["note"]]))
    return [*lines, ""]


def _claim(gap: float, found: Line) -> str:
    if found["low"] is None:
        return "cannot tell"
    low, high = sorted((math.copysign(1, gap) * found["low"], math.copysign(1, gap) * found["high"]))
    return "holds" if low > 0 else "fails" if high < 0 else "cannot tell"


def _facts(rankers: dict[str, Line], trained: list[Line], called: str) -> list[str]:
    heads = ["ranker", "weights", "seconds a training", "rows a second", "best epochs", "AUC, log loss in validation",
             "match agrees", "contribution agrees"]
    where = f"\nSeconds and rows a second: of those on {trained[0]['machine']}." if len(trained) > 1 else ""
    lines = ["### What they cost, and whose weights follow the truth", "",
             "Agreement: the correlation over users of what a modality counts (match: how much its part of the logit",
             "varies; contribution: its mean weight) with the weight that the world gave that user. Validation: the window",
             f"by which the best epoch is chosen, and by which rankers should be.{_sharing(rankers)}{where}", "",
             _row(heads), _row(["---"] * len(heads))]
    for name, each in rankers.items():
        timed = [_number(each[key], form) for key, form in (("seconds", ".0f"), ("rows_per_second", ","))]
        lines.append(_row([called if name == DEFAULT else name, f"{each['trainable']:,}", *timed,
                           ", ".join(map(str, each["kept_epochs"])),
                           f"{each['valid_auc']:.4f}, {each['valid_log_loss']:.4f}",
                           _agreement(each.get("match_agreement")), _agreement(each.get("contribution_agreement"))]))
    return [*lines, ""]


def _sharing(rankers: dict[str, Line]) -> str:
    """Which ids of the default share a row of their table, where a summary says it."""
    shares = rankers[DEFAULT].get("shared_buckets")
    if shares is None:
        return ""
    found = ", ".join(f"{share:.1%} of {field}" for field, share in shares.items() if share)
    return f"\nHash collisions of the default: {found or 'none'}."


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, form: str) -> str:
    """Nothing for what is not defined."""
    return "" if value is None else f"{value:{form}}"


def _interval(figure: Line, form: str) -> str:
    if figure["low"] is None:
        return _number(figure["estimate"], form)
    return f"{figure['estimate']:{form}} ({figure['low']:{form}} to {figure['high']:{form}})"


def _agreement(by_modality: dict[str, float | None] | None) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in (by_modality or {}).items() if value is not None)
