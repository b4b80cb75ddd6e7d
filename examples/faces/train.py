"""Trains the image encoder on labelled anime faces and says how well it tags faces that it has not seen.

    python examples/faces/train.py DATA [--config conf/faces.yaml] [--seeds 0]

DATA holds tags.csv (id,tags: "<hair> hair <eyes> eyes") and images/<id>.jpg. Writes docs/evidence/faces.md and faces.json.
"""

from __future__ import annotations

import csv
import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from umair.config import load_config
from umair.errors import ConfigError, ContractError, UmairError
from umair.evidence import ROOT, evidence_parser, mean_interval, origin, provenance, write_evidence
from umair.job import Config, start_logging, start_spark
from umair.training.pretext_loop import train_pretext
from umair.training.ranks import run_ranks
from umair.training.tagged_pictures import Catalogue

PAGE = ROOT / "docs/evidence/faces.md"
LABEL = re.compile(r"^(.+ hair) (.+ eyes)$")
WHAT_TO_DO = "give the folder with tags.csv and images/"


def main() -> None:
    given = evidence_parser(__doc__ or "", ROOT / "conf/faces.yaml").parse_args()
    start_logging()
    origin_of_figures = provenance(f"make faces DATA={given.data.name} SEEDS=\"{' '.join(map(str, given.seeds))}\"")
    config = load_config(given.config, [], Config)
    table = read_faces(given.data)
    folder = Path(config.root)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "illustrations.parquet"
    pq.write_table(table, file)
    spark = start_spark(config.spark)
    runs = [_train(spark, config, Catalogue([str(file)], str(given.data.absolute())), seed) for seed in given.seeds]
    result = {**origin_of_figures, "pictures": len(table), "copies": count_copies(given.data, table), "epochs": config.pretext.epochs, "seeds": given.seeds, "runs": runs}
    measures = ("mean_average_precision", "baseline_mean_average_precision", "seconds")
    write_evidence(PAGE, result, _page(result), {name: round(float(np.mean([run[name] for run in runs])), 4) for name in measures})


def read_faces(data: Path) -> pa.Table:
    """tags, image (below DATA), image_content (null), created_at: what the pretext reads of illustrations.

    Raises ConfigError: a missing folder or file. ContractError: a label of another form.
    """
    file = data / "tags.csv"
    if not file.is_file():
        raise ConfigError(str(file), "no such file", "labels of faces", WHAT_TO_DO)
    tags, images = [], []
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            label = LABEL.match(row["tags"])
            if label is None:
                raise ContractError(str(file), repr(row["tags"]), '"<hair> hair <eyes> eyes"', WHAT_TO_DO)
            tags.append(list(label.groups()))
            images.append(f"images/{row['id']}.jpg")
    return pa.table({"tags": pa.array(tags, pa.list_(pa.string())), "image": images,
                     "image_content": pa.nulls(len(tags), pa.binary()), "created_at": pa.nulls(len(tags), pa.timestamp("us", "UTC"))})


def count_copies(data: Path, table: pa.Table) -> int:
    """Files that are, byte for byte, another one too."""
    digests = [hashlib.sha256((data / image).read_bytes()).digest() for image in table["image"].to_pylist()]
    return len(digests) - len(set(digests))


def _train(spark: Any, config: Config, catalogue: Catalogue, seed: int) -> dict[str, Any]:
    pretext = config.pretext.model_copy(update={"seed": seed})
    arguments = {"catalogue": catalogue, "encoder": config.image_encoder.model_dump(), "pretext": dict(pretext),
                 "folder": str(Path(config.root).absolute() / f"encoder-{seed}")}
    facts: dict[str, Any] = run_ranks(spark, train_pretext, arguments, pretext.ranks, threads=pretext.threads, device=pretext.device)[0]
    return {"seed": seed, **facts}


def _page(result: dict[str, Any]) -> str:
    rows = "\n".join(f"| {run['seed']} | {run['mean_average_precision']:.3f} | {run['baseline_mean_average_precision']:.3f} | "
                     f"{run['held_rows']} | {run['train_rows']} | {run['tags']} | {run['seconds']:.0f} |" for run in result["runs"])
    values = [run["mean_average_precision"] for run in result["runs"]]
    over_seeds = ""
    if len(values) > 1:
        mean, low, high = mean_interval(values)
        over_seeds = (f"Mean over the seeds: {mean:.3f}, 95 % interval {low:.3f} to {min(high, 1.0):.3f} (Student's t). Each seed trains anew "
                      "and holds out other faces.\n")
    return f"""# Hair and eye colours of faces

{origin(result)}

{result['pictures']:,} anime faces of 64 x 64 pixels with machine-made labels, {result['epochs']} epochs of the tag pretext from random weights. Mean average
precision over the tags on faces held out; the baseline ranks faces by the tag's frequency, which is the same for all. {result['copies']} files are
copies of another one and were left in: one side of such a pair may be held out and the other trained on.

| seed | mean average precision | label-frequency baseline | faces held out | trained on | tags | seconds |
|---|---|---|---|---|---|---|
{rows}

{over_seeds}"""


if __name__ == "__main__":
    try:
        main()
    except UmairError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
