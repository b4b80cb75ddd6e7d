"""Rows a second through one training step of the ranker on one device: benchmarks/results/gpu_ranker.json.

    python benchmarks/gpu_ranker.py [--device cuda] [--batches 128 1024 8192 65536] [--illustrations 1000000] [--seconds 2]

Needs torch, pydantic and PyYAML alone, so that it runs on any GPU machine from a checkout. The tables have the paper's sizes,
vectors are those of conf/cluster.yaml's encoders, histories 200 long, of illustrations from a catalogue whose compact vectors
lie on the device, as in training; batches are drawn and lie there too, so that neither reading nor looking up is timed. A step is forward, loss, backward and Adam. `eager` as training does it with `training.sparse_from: null`; `compiled`
by torch.compile; `graph` the eager step captured as one CUDA graph (on a GPU alone). The file is written after each case.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from clock import WARM_UP, Step, rate
from device_arguments import device_parser, parsed
from torch.nn import functional as F

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from speed_page import write_speed_page  # noqa: E402

from umair.evidence import provenance  # noqa: E402  the checkout's own
from umair.model.batch import COUNTERS, ITEM_TAGS, USER_TAGS, Batch, Catalogue  # noqa: E402
from umair.model.compact import compact_width  # noqa: E402
from umair.model.ranker import RankerConfig, UmairRanker  # noqa: E402

RESULTS = ROOT / "benchmarks/results/gpu_ranker.json"
WIDTHS = {"semantic": 2_048, "style": 256, "text": 512}
FORMS = ("eager", "compiled", "graph")
PRECISIONS = ("float32", "bfloat16")
HISTORY, EPOCH = 200, 24_200_000  # the paper's rows of a training set


def main() -> None:
    given = _arguments()
    device = torch.device(given.device)
    config = RankerConfig.model_validate(yaml.safe_load((ROOT / "conf/cluster.yaml").read_text(encoding="utf-8"))["ranker"])
    catalogue = _catalogue(config, given.illustrations, device)
    forms = [form for form in given.forms if form != "graph" or device.type == "cuda"]
    result: dict[str, Any] = {
        **provenance(shlex.join(["python", "benchmarks/gpu_ranker.py", *sys.argv[1:]])),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU", "torch": torch.__version__,
        "illustrations": given.illustrations, "cases": []}
    given.out.parent.mkdir(exist_ok=True)
    for form, batch, precision in itertools.product(forms, given.batches, given.precisions):
        found = _rate(form, precision, _batch(config, batch, catalogue, device), config, given.seconds)
        line = {"batch": batch, "form": form, "precision": precision, "rows_per_second": round(found),
                "seconds_for_24.2M_rows": round(EPOCH / found, 1)}
        print(json.dumps(line), file=sys.stderr, flush=True)
        result["cases"].append(line)
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if given.out == RESULTS:
        write_speed_page()
    fastest = max(result["cases"], key=lambda line: line["rows_per_second"])
    print(json.dumps({"result": str(given.out), "device": result["device"], "fastest": fastest}))


def _rate(form: str, precision: str, batch: Batch, config: RankerConfig, seconds: float) -> float:
    """Rows a second; capturing is not timed either."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    device = batch.label_B.device
    ranker = UmairRanker(config, WIDTHS).to(device).train()
    optimizer = torch.optim.Adam(ranker.parameters(), fused=True, capturable=device.type == "cuda")
    return rate(_step(ranker, optimizer, batch, form, precision), len(batch), seconds, device)


def _step(ranker: UmairRanker, optimizer: torch.optim.Optimizer, batch: Batch, form: str, precision: str) -> Step:
    def loss_of() -> torch.Tensor:
        with torch.autocast(batch.label_B.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logit_B = ranker(batch).logit_B
        return F.binary_cross_entropy_with_logits(logit_B.float(), batch.label_B)

    run = torch.compile(loss_of) if form == "compiled" else loss_of

    def step() -> None:
        optimizer.zero_grad()
        run().backward()
        optimizer.step()

    return _captured(step) if form == "graph" else step


def _captured(step: Step) -> Step:
    """The step as one CUDA graph, which replays on the same tensors."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _batch(config: RankerConfig, rows: int, catalogue: Catalogue, device: torch.device) -> Batch:
    """Rows whose histories are full, of illustrations drawn at random."""
    draw = torch.Generator().manual_seed(0)
    count = len(catalogue)

    def below(size: int, *shape: int) -> torch.Tensor:
        return torch.randint(size, shape, generator=draw)

    def fields(sizes: dict[str, int], number: int) -> torch.Tensor:
        return torch.stack([below(size, number) for size in sizes.values()], 1)

    return Batch(
        user_fields_BF=fields(config.user_fields, rows), user_tags_BT=below(config.tag_buckets, rows, USER_TAGS),
        item_fields_BF=fields(config.item_fields, rows), item_tags_BT=below(config.tag_buckets, rows, ITEM_TAGS),
        long_interest_BD=torch.randn(rows, WIDTHS["text"], generator=draw),
        short_interest_BD=torch.randn(rows, WIDTHS["text"], generator=draw),
        counters_BC=torch.rand(rows, len(COUNTERS), generator=draw),
        vectors_BD={name: torch.randn(rows, width, generator=draw) for name, width in WIDTHS.items()},
        item_B=below(count, rows), bookmarked_BH=below(count, rows, HISTORY).int(),
        passed_BH=below(count, rows, HISTORY).int(), label_B=below(2, rows).float(), catalogue=catalogue).to(device)


def _catalogue(config: RankerConfig, count: int, device: torch.device) -> Catalogue:
    draw = torch.Generator().manual_seed(1)
    compact_IC = {name: torch.randn(count, compact_width(width), generator=draw).half() for name, width in WIDTHS.items()}
    artist_I = torch.randint(config.item_fields["artist_id"], (count,), generator=draw).int()
    tags_IT = torch.randint(config.tag_buckets, (count, ITEM_TAGS), generator=draw).int()
    return Catalogue(compact_IC, torch.ones(count, len(WIDTHS)), artist_I, tags_IT).to(device)


def _arguments() -> argparse.Namespace:
    parser = device_parser(__doc__, RESULTS, 2.0)
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 1_024, 8_192, 65_536])
    parser.add_argument("--illustrations", type=int, default=1_000_000, help="in the catalogue")
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS, help="graph is left out on a CPU, where compiled takes minutes")
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    return parsed(parser, RESULTS)


if __name__ == "__main__":
    main()
