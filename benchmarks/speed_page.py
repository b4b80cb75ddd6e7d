"""docs/evidence/speed.md from what lies in benchmarks/results/: python benchmarks/speed_page.py; benchmarks call it themselves."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from umair.evidence import ROOT

RESULTS, PAGE = ROOT / "benchmarks/results", ROOT / "docs/evidence/speed.md"
Result = dict[str, Any]


def write_speed_page() -> None:
    """Writes the page anew from the results that there are."""
    parts = ["# Speed\n\nWritten from [benchmarks/results](../../benchmarks/results) by the benchmarks. Do not edit. Ratios are within one run, "
             "medians over its repeats.\n"]
    for name, text_of in PARTS.items():
        file = RESULTS / f"{name}.json"
        if file.is_file():
            result = json.loads(file.read_text(encoding="utf-8"))
            parts.append(f"{text_of(result)}\n`{result['command']}` on {result['date']}, {result['machine']}, commit {result['commit']}.\n")
    PAGE.write_text("\n".join(parts), encoding="utf-8")


def _embed(result: Result) -> str:
    images = [(name, f"{case['slots']} x {case['threads']}", case["pictures"], *(_middle(case["pictures_per_second"], way) for way in (
        "bare loop", "spark", "whole job")), case["spark_over_bare"], case.get("spark_over_processes", ""), case.get("prefetching_gains", ""))
        for name, case in result["images"].items()]
    texts = [(name, f"{case['slots']} x {case['threads']}", case["texts"], *(_middle(case["texts_per_second"], way) for way in (
        "SentenceTransformer.encode", "spark")), case["spark_over_bare"], case.get("spark_over_processes", "")) for name, case in result["texts"].items()]
    growth = [(each["pictures"], each["pictures_per_second"], each["new_in_a_second_week"], each["seconds_of_a_second_week"],
               round(each["driver_mib"] / 1024, 2), each.get("heap_mib", "")) for each in result["growth"].values()]
    once = [(f"{name}, commit {each['commit']}" if "commit" in each else name, each["uses"], each["texts"], each["gain"]) for name, each in result["once_per_text"].items()]
    return "\n".join([
        "## Embedding (make bench-embed)\n\nThrough Spark (decoding, encoding, writing) over a bare loop with the same encoder, pictures and "
        "number of threads, in one process, which writes nothing, and over as many such processes of one thread as there are slots. Threads: Spark tasks at once x threads of each. A whole job also looks at every file and commits. Prefetching: the rate through Spark with over without.\n",
        _table(("pictures", "threads", "how many", "bare, per second", "through Spark", "whole job", "Spark over bare", "over a process for each slot", "prefetching"), images), "",
        _table(("texts", "threads", "how many", "SentenceTransformer.encode, per second", "through Spark", "Spark over encode", "over a process for each slot"), texts),
        "\nThe whole job as the catalogue grows: its rate in a first week, its seconds in a second week that brings a few new pictures, and "
        "the most memory that the driver (Python and JVM, whose heap is taken whole at the start) took, and of the heap what is held after a collection:\n",
        _table(("pictures", "per second", "new in a second week", "seconds of it", "driver, GiB", "heap held, MiB"), growth),
        "\nBytes that vectors of different pictures take in a table (fp16 values as array<float>, zstd), over those of float32: "
        + ", ".join(f"{name} {share}" for name, share in result.get("stored_over_float32", {}).items()) + ".",
        "\nEach text embedded once instead of at each use:\n",
        _table(("tags", "uses", "texts", "times as fast"), once), ""])


def _train(result: Result) -> str:
    steps = [(name, *(each[way] for way in ("held", "fed", "fed_over_held")), " to ".join(map(str, each["least_and_most"])),
              *(each[way] for way in ("scored", "scored, fed", "scoring_over_training"))) for name, each in result["steps"].items()]
    over_paper = [(batch, *(round(each[way] / result["steps"][f"paper, {batch}"][way], 3) for way in ("held", "fed", "scored")))
                  for name, each in result["steps"].items() for ranker, batch in [name.split(", ")] if ranker == "umair"]
    ranks = [(name, *next(value for key, value in each.items() if key.endswith("_per_second")).values(), each["two_over_one"], " to ".join(map(str, each.get("least_and_most", []))),
              " and ".join(map(str, each.get("beside", {}).values())), each.get("bytes_sent_per_step", ""))
             for name, each in result["ranks"].items()]
    catalogue = [(name, *(each[way] for way in ("step", "scored", "once_over_row_by_row"))) for name, each in result["catalogue"].items()]
    large = [(batch, *(each[way][what] for what in ("rows_per_second", "bytes") for way in ("dense", "sparse")))
             for batch, each in result.get("large_tables", {}).items()]
    rivals = [(batch, *(each[way] for way in ("ours", "theirs, fused Adam", "theirs", "ours_over_theirs_fused")),
               " to ".join(map(str, each["least_and_most_fused"])), *(each[way] for way in ("ours_over_theirs", "ours, dense")))
              for batch, each in result.get("dcn_v2", {}).items()]
    return "\n".join([
        "## Training (make bench-train)\n\nRows a second: a step on batches held in memory, a whole epoch fed by Petastorm, and scoring, both "
        f"ways; medians of three rounds.{f' It took {seconds / 60:.0f} minutes.' if (seconds := result.get('seconds')) else ''}\n",
        _table(("ranker", "held", "fed", "fed over held", "least and most", "scored", "scored, fed", "over training, fed"), steps),
        "\nThe default over the paper's form, which reads no history:\n",
        _table(("", "held", "fed", "scored"), over_paper),
        "\nA catalogue of so many illustrations: a step, scoring, and scoring over another way to score the same: bringing every listed "
        "illustration of every row to the match's width one by one, where ours sums lists first:\n",
        _table(("", "step", "scored", "sums first over one by one"), catalogue),
        "\nTwo Horovod ranks of one thread over one, rows a second from an epoch's first row to its last step, reading included, each rank with a core for itself: medians of three rounds, and the median, least and most of the rounds' ratios. "
        "Set-up, validation and checkpoints are not counted: they are the seconds beside. The same batch over all ranks, or "
        "as many rows of each rank, so that two take half the steps; unbound: all threads on all cores, so that one rank has two cores as well. Matrix products: what two processes can be to one on this machine at all:\n",
        _table(("rows a step", "one", "two", "two over one", "least and most", "seconds beside, one and two", "bytes a rank sends a step"), ranks),
        *(["\nThe default with tables of the paper's sizes, by the rows that a rank has in a step: rows a second of steps on batches that are "
           "held in memory, and bytes of gradients that a rank sends a step. Dense: all rows of all tables (`training.sparse_from: null`); sparse, as "
           "by default: of large tables the rows that the step read; medians of three rounds. Both learn as by Adam (docs/decisions/022):\n",
           _table(("rows of a rank", "dense, rows a second", "sparse, rows a second", "dense, bytes", "sparse, bytes"), large)] if large else []),
        *(["\nDCN-V2 against deepctr-torch's DCNMix, with a fused Adam and as its compile(\"adam\") makes it, which is not fused. Ours moves the "
           "rows of large tables that a step read and learns as by Adam (docs/decisions/022); dense: by the fused Adam itself. Medians of five rounds; least and most are of ours over the fused:\n",
           _table(("batch", "ours", "theirs with a fused Adam", "theirs", "ours over the fused", "least and most", "ours over theirs", "ours, dense"), rivals)] if rivals else []), ""])


def _pairs(result: Result) -> str:
    rates, ratios = result["pairs_per_second"], result["once_over_row_by_row"]
    rows = [("users and illustrations made once, look-ups included", round(rates["once"]), "", "")]
    rows += [(f"{name}, {what}", round(rates[name]), ratios[name], " to ".join(map(str, result["least_and_most"][name])))
             for name, what in (("row by row", "held in memory"), ("row by row, looked up", "each row from the pack"))]
    window = result["window"]
    listed = " and ".join(f"{length:g} {name}" for name, length in result["listed"].items())
    return (f"## Every user with every candidate (make bench-pairs)\n\n{result['users']:,} users, whose lists name {listed} illustrations on average, and {result['illustrations']:,} "
            "illustrations; the default, untrained, on one thread. What the ranker makes of a user alone and of an illustration alone, made once each (for these users) and met in every pair, as "
            "`jobs/recommend_illustrations.py` does, over scoring each pair as a row of its own. Without Spark, and without leaving out what was seen. Medians of five rounds.\n\n"
            + _table(("", "pairs a second", "once over this", "least and most"), rows)
            + (f"\n\nThe {window['rows']:,} rows of the test window, each by the sides of its user's and its illustration's first row there ({window['users']:,} and {window['illustrations']:,}), which knows nothing of what came after: "
               f"{window['rows_per_second']:,} rows a second, look-ups included, {window['once_over_row_by_row']} ({window['least_and_most'][0]} to {window['least_and_most'][1]}) times as fast as each as its own row.\n"))


def _gpu_encoders(result: Result) -> str:
    def way(case: Result) -> str:
        return ", ".join([case["precision"], "channels last" if case["channels_last"] else "usual layout",
                          *(word for word, there in (("compiled", case["compiled"]), ("with style", case["style"]),
                                                     ("decoded from JPEG", case["decoding"]), ("not ahead", not case.get("ahead", True))) if there)])

    rows = [(case["size"], way(case), case["pictures_per_second"], case["over_bare"]) for case in result["cases"]]
    return (f"## ResNet-101 on a GPU (python benchmarks/gpu_encoders.py)\n\n{result['device']}, batches of {result['batch']}, torch {result['torch']}.\n\n"
            + _table(("pixels", "", "pictures per second", "over bare"), rows) + "\n")


def _gpu_ranker(result: Result) -> str:
    rows = [(case["batch"], case["form"], case["precision"], case["rows_per_second"], case["seconds_for_24.2M_rows"]) for case in result["cases"]]
    return (f"## A training step of the ranker on a GPU (python benchmarks/gpu_ranker.py)\n\n{result['device']}, torch {result['torch']}, "
            f"{result['illustrations']:,} illustrations; batches lie on the GPU, all tables are dense (`training.sparse_from: null`).{f' {note}' if (note := result.get('note')) else ''}\n\n"
            + _table(("batch", "", "precision", "rows per second", "seconds for 24.2 million rows"), rows) + "\n")


def _gpu_feeding(result: Result) -> str:
    rows = [(case["size"], case["processes"], case["threads"] if case["decoding"] else "", case["pictures_per_second"], case["over_bare"])
            for case in result["cases"]]
    return (f"## Decoding for ResNet-101 on a GPU (python benchmarks/gpu_feeding.py)\n\n{result['device']}, batches of {result['batch']}, torch "
            f"{result['torch']}; bfloat16, channels last, with style. Processes share the GPU, each decoding JPEGs in threads of its own; without "
            "threads the pictures lie on the GPU.\n\n"
            + _table(("pixels", "processes", "threads each", "pictures per second", "over bare"), rows) + "\n")


PARTS: dict[str, Callable[[Result], str]] = {"embed": _embed, "train": _train, "pairs": _pairs, "gpu_encoders": _gpu_encoders, "gpu_feeding": _gpu_feeding,
                                             "gpu_ranker": _gpu_ranker, "gpu_ranker_eager": _gpu_ranker, "gpu_ranker_graph": _gpu_ranker}


def _middle(rates: dict[str, list[float]], way: str) -> float | str:
    return statistics.median(rates[way]) if way in rates else ""


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (cells[0], ["---"] * len(cells[0]), *cells[1:]))


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,}"


if __name__ == "__main__":
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    write_speed_page()
