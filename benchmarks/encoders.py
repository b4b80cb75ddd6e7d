"""What style and semantic vectors find, trained and random: docs/evidence/encoders.md (make evidence-encoders).

    python benchmarks/encoders.py [--seeds 0 1 2] [--styles 64] [--contents 64] [--page]

Trains encoders on a drawn world by the real jobs, one for each seed, then embeds a grid of pictures, every content in every
style, none of which was trained on, and counts what the ten nearest share.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import umair  # noqa: F401  # before torch: docs/decisions/017

# isort: split
import numpy as np
import torch
from safetensors.torch import load_file

from umair.config import load_config
from umair.evaluation.retrieval import Precision, precision_among_others, standardised
from umair.evidence import ROOT, mean_interval, origin, provenance, spread, write_evidence
from umair.job import Config, Job
from umair.model.image_encoder import ImageEncoder, build_image_encoder, take_weights, to_pixels
from umair.model.painting_style import StylePool
from umair.neighbours import EXACT_MOST, approximate_recall
from umair.picture import decode_picture
from umair.weeks import Week
from umair.world.gallery import jpeg
from umair.world.grid import draw_grid

STARTED = time.monotonic()
CONFIG, WEEK = "conf/experiments/encoders.yaml", "2026-W11"
PAGE = ROOT / "docs/evidence/encoders.md"
NEAR = 10
JITTERED = 64  # copies of each vector, so that 4,096 become more than are searched exactly
STANDARDISED = "standardised"
FORMS: dict[str, dict[str, Any]] = {  # name -> what differs from the configuration's encoder
    "gram_max (the paper's)": {"style": "gram_max", "style_log": False},
    "gram_max, log": {"style": "gram_max", "style_log": True},
    "gram_sketch": {"style": "gram_sketch", "style_log": False},
    "gram_sketch, log": {"style": "gram_sketch", "style_log": True},
    "gram_sketch of stages 1 and 2, log": {"style": "gram_sketch", "style_stages": 2, "style_log": True},
    "moments": {"style": "moments", "style_log": False},
    "moments of stages 1 and 2": {"style": "moments", "style_log": False, "style_stages": 2},
    "moments of stages 1 to 3": {"style": "moments", "style_log": False, "style_stages": 3},
}


TRAINED: dict[str, tuple[str, ...]] = {  # weights -> what differs from the configuration
    "tags and artists": (),
    "tags alone (the paper's)": ("pretext.artists=0",),
    "tags and artists through gram_sketch, log": ("image_encoder.style=gram_sketch", "image_encoder.style_log=true"),
    "tags and artists through moments": ("image_encoder.style=moments", "image_encoder.style_log=false"),
    "tags and artists through moments of stages 1 and 2": (
        "image_encoder.style=moments", "image_encoder.style_log=false", "image_encoder.style_stages=2"),
    "tags and artists through gram_sketch of stages 1 and 2, log": (
        "image_encoder.style=gram_sketch", "image_encoder.style_log=true", "image_encoder.style_stages=2"),
}
PAPER = next(iter(FORMS))
THROUGH_ITSELF = {  # form -> the weights whose artists were told apart through it; the head takes logarithms in any case
    "gram_sketch": "tags and artists through gram_sketch, log", "gram_sketch, log": "tags and artists through gram_sketch, log",
    "gram_max, log": "tags and artists", PAPER: "tags and artists",
    "moments": "tags and artists through moments",
    "moments of stages 1 and 2": "tags and artists through moments of stages 1 and 2",
    "gram_sketch of stages 1 and 2, log": "tags and artists through gram_sketch of stages 1 and 2, log"}
DEFAULT = next(iter(THROUGH_ITSELF))  # of conf/local.yaml and conf/cluster.yaml
IN_SHORT = {  # name -> weights, form of the style vector
    f"tags and artists through {DEFAULT} (the form of conf/local.yaml)": (THROUGH_ITSELF[DEFAULT], DEFAULT),
    "tags and artists through gram_max, the paper's form": ("tags and artists", PAPER),
    "tags alone, the paper's form, as in the paper": ("tags alone (the paper's)", PAPER), f"tags alone, {DEFAULT}": ("tags alone (the paper's)", DEFAULT),
    "random, the paper's form": ("random", PAPER), f"random, {DEFAULT}": ("random", DEFAULT)}


def main() -> None:
    given = _arguments()
    result = json.loads(PAGE.with_suffix(".json").read_text(encoding="utf-8")) if given.page else _measure(given)
    write_evidence(PAGE, result, _page(result), {name: round(float(np.mean(value_S)), 4) for name, value_S in _summary(result["lines"]).items()})


def _measure(given: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(os.cpu_count() or 1)
    origin_of_figures = provenance(f"make evidence-encoders SEEDS=\"{' '.join(map(str, given.seeds))}\"")
    _run("umair", "world", "--config", CONFIG)
    _submit("ingest_tables")
    grid = _Grid(given.styles, given.contents, load_config(ROOT / CONFIG, [], Config))
    lines, precisions, recalls = [], {}, {}
    for weights, changes in TRAINED.items():
        for seed in given.seeds:
            facts, trained = _train(seed, changes)
            precisions.setdefault(weights, []).append(facts["mean_average_precision"])
            lines += grid.measure(seed, weights, trained)
            recalls = recalls or grid.recalls(trained)
    for seed in given.seeds:
        torch.manual_seed(seed)
        lines += grid.measure(seed, "random", build_image_encoder(grid.config).state_dict())
    return {**origin_of_figures, "styles": given.styles, "contents": given.contents, "seeds": given.seeds,
            "seconds": round(time.monotonic() - STARTED), "illustrations": grid.illustrations,
            "mean_average_precision": precisions, "approximate_recall": recalls, "lines": lines}


def _train(seed: int, changes: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Facts and weights of an encoder that the real job trains, unless it has done so."""
    overrides = [f"pretext.seed={seed}", *changes]
    _submit("pretrain_image_encoder", *overrides)
    folder = Job(load_config(ROOT / CONFIG, overrides, Config), Week.parse(WEEK)).model_folder("pretrain_image_encoder")
    return json.loads((folder / "facts.json").read_text(encoding="utf-8")), load_file(folder / "weights.safetensors")


class _Grid:
    """The pictures of the grid as an encoder reads them, and what a set of weights makes of them."""

    def __init__(self, styles: int, contents: int, config: Config) -> None:
        self.config, self.illustrations = config.image_encoder, config.world.illustrations
        pictures = list(draw_grid(styles, contents, config.world.picture_size, seed=0))
        self.style_N, self.content_N = (np.array([getattr(each, name) for each in pictures]) for name in ("style", "content"))
        files = (jpeg(each.pixels, config.world.jpeg_quality) for each in pictures)
        self.pixels_NHWC = np.stack([decode_picture(file, self.config.picture_size, config.embed_images.limits)
                                     for file in files])

    def measure(self, seed: int, weights: str, state: dict[str, torch.Tensor]) -> Iterator[dict[str, Any]]:
        for (name, form), vector_ND in self.vectors(state).items():
            for scaling, prepare in (("as they are", np.asarray), (STANDARDISED, standardised)):
                scaled_ND = prepare(vector_ND)
                yield {"seed": seed, "weights": weights, "vector": name, "form": form, "scaling": scaling,
                       "width": scaled_ND.shape[1],
                       "finds_style": asdict(self._precision(scaled_ND, self.style_N, self.content_N)),
                       "finds_content": asdict(self._precision(scaled_ND, self.content_N, self.style_N))}

    def recalls(self, state: dict[str, torch.Tensor]) -> dict[str, float]:
        """Of the exact nearest, what the approximate index finds that large catalogues are searched with: among so many
        vectors that it is taken, each of the grid's JITTERED times, moved by a third of a deviation."""
        chance, found = np.random.default_rng(0), {}
        for (name, form), vector_ND in self.vectors(state).items():
            if form in ("", "gram_max, log"):
                many_ND = np.repeat(vector_ND, JITTERED, axis=0)
                many_ND += chance.standard_normal(many_ND.shape, np.float32) * vector_ND.std(0) / 3
                found[name] = round(approximate_recall(many_ND, NEAR), 4)
        return found

    def _precision(self, vector_ND: np.ndarray, wanted_N: np.ndarray, other_N: np.ndarray) -> Precision:
        return precision_among_others(vector_ND, wanted_N, other_N, NEAR)

    @torch.inference_mode()
    def vectors(self, state: dict[str, torch.Tensor]) -> dict[tuple[str, str], np.ndarray]:
        """By name and form: the style vectors of every form, and the semantic ones, from one pass over the pictures."""
        stages = max(changes.get("style_stages", 1) for changes in FORMS.values())
        encoder = ImageEncoder(self.config.model_copy(update={"style": "moments", "style_stages": stages}))
        take_weights(encoder, state)
        channels, blocks, encoder = encoder.maps.style_channels, self.config.style_blocks, encoder.eval()
        pools = {form: StylePool(changes["style"], channels[:blocks + changes.get("style_stages", 1) - 1], channels[0],
                                 log=changes["style_log"]) for form, changes in FORMS.items()}
        parts: dict[tuple[str, str], list[torch.Tensor]] = {}
        for start in range(0, len(self.pixels_NHWC), 128):
            maps = encoder.maps(encoder.scaled(to_pixels(self.pixels_NHWC[start:start + 128])), to_last=False)
            for form, pool in pools.items():
                layers = maps.style[:blocks + FORMS[form].get("style_stages", 1) - 1]
                parts.setdefault(("style", form), []).append(pool(layers))
            parts.setdefault(("semantic", ""), []).append(maps.semantic.mean((2, 3)))
        return {key: torch.cat(vectors).numpy() for key, vectors in parts.items()}


def _summary(lines: list[dict[str, Any]]) -> dict[str, list[float]]:
    """By seed, what IN_SHORT names, standardised, as `umair.neighbours` compares vectors."""
    def of(measure: str, weights: str, form: str) -> list[float]:
        found = {line["seed"]: line[measure]["mean"] for line in lines if line["scaling"] == STANDARDISED and (
            line["weights"], line["form"]) == (weights, form)}
        return [found[seed] for seed in sorted(found)]

    return {f"{name}: {vector} {measure.replace('_', ' ')}": of(measure, weights, form if vector == "style" else "")
            for name, (weights, form) in IN_SHORT.items()
            for vector, measure in (("style", "finds_style"), ("style", "finds_content"),
                                    ("semantic", "finds_content"), ("semantic", "finds_style"))}


def _in_short(summary: dict[str, list[float]]) -> str:
    """One row for each line of IN_SHORT."""
    rows: dict[str, list[str]] = {}
    for name, value_S in summary.items():
        rows.setdefault(name.split(": ")[0], []).append(_with_interval(value_S))
    return "\n".join(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())


def _with_interval(value_S: list[float], sign: str = "") -> str:
    """The mean over seeds and, where there are several, its 95 % interval."""
    mean = f"{np.mean(value_S):{sign}.3f}"
    return mean if len(value_S) < 2 else "{} [{:{sign}.3f}, {:{sign}.3f}]".format(mean, *mean_interval(value_S)[1:], sign=sign)


def _forms(lines: list[dict[str, Any]]) -> str:
    """One row for each form of the style vector, trained through itself, and its difference to the default, paired by seed."""
    def by_seed(form: str, measure: str) -> np.ndarray:
        found = {line["seed"]: line[measure]["mean"] for line in lines if line["vector"] == "style" and (
            line["weights"], line["form"], line["scaling"]) == (THROUGH_ITSELF[form], form, STANDARDISED)}
        return np.array([found[seed] for seed in sorted(found)])

    rows = []
    for form in THROUGH_ITSELF:
        style_S, content_S = (by_seed(form, measure) for measure in ("finds_style", "finds_content"))
        less_S = style_S - by_seed(DEFAULT, "finds_style")
        minus = "the default" if form == DEFAULT else _with_interval(less_S.tolist(), "+")
        rows.append(f"| {form} | {_with_interval(style_S.tolist())} | {_with_interval(content_S.tolist())} | {minus} |")
    return "\n".join(rows)


def _of_texts() -> str:
    """The text encoder's part, from the figures of `make terms`."""
    terms = json.loads((ROOT / "docs/evidence/terms.json").read_text(encoding="utf-8"))
    start = terms["starts"][0]
    rows = [f"| {line['part']} | {line['pairs']:,} | {' | '.join(_cell(line['recall_at_1'][moment]) for moment in ('before', 'after', 'gain'))} |"
            for line in start["lines"] if line["part"].split()[0] in ("all", "multilingual", "relations", "explanations")]
    return (f"## What text vectors find\n\nrecall@1 on pairs of works held out, {start['name']}, seeds {', '.join(map(str, start['seed']))} (`make terms`, commit "
            f"{terms['commit']}; more, and another start, in [terms](terms.md)). Relations and explanations are within one language in these data.\n\n"
            "| pairs | held out | before | after | gain |\n|---|---|---|---|---|\n" + "\n".join(rows))


def _cell(estimate: list[float]) -> str:
    return "{:.3f} ({:.3f} to {:.3f})".format(*estimate)


def _page(result: dict[str, Any]) -> str:
    lines, first = result["lines"], result["lines"][0]
    text = [f"""# What image vectors find

{origin(result)} It took {result['seconds'] / 60:.0f} minutes; weights that an earlier run of
the same configuration had trained were taken over, so that some may be of an earlier commit.

A grid of {result['styles']} styles x {result['contents']} contents, each picture painted once and none of them trained on. For each picture,
its {NEAR} nearest by cosine. *Finds style*: among pictures of other contents, the share with the same style (chance
{first['finds_style']['chance']:.3f}). *Finds content*: among pictures of other styles, the share with the same content (chance
{first['finds_content']['chance']:.3f}). Each is the mean over training seeds, with the lowest and the highest seed where there are several
({', '.join(map(str, result['seeds']))}); in brackets the 95 % interval of the first seed over resampled styles or contents.

The encoder is that of conf/local.yaml but for the form of its style vector, trained on {result['illustrations']:,} drawn illustrations
(conf/experiments/encoders.yaml); each set of weights is read out through every form. Trained through a form: the artists were told apart by it; "tags and
artists" through gram_max with its logarithm. Tags alone are what the paper trains on; gram_max is its form.

## In short, standardised

In brackets the 95 % interval of the mean over trainings (Student's t); what is not trained differs by its random weights.

| weights and form | style vector finds style | and content | semantic vector finds content | and style |
|---|---|---|---|---|
{_in_short(_summary(lines))}

Neighbours are searched exactly here, as umair does among up to {EXACT_MOST:,} illustrations. Beyond, it takes an inverted file. Among {result['styles'] * result['contents'] * JITTERED:,}
vectors, {JITTERED} for each of these pictures, moved by a third of a deviation in every number, that finds {result['approximate_recall']['style']:.3f} of the exact {NEAR} nearest by style and
{result['approximate_recall']['semantic']:.3f} by semantics (weights told apart through gram_max, first seed). A picture's own copies are its nearest, which makes it easy.

## Forms of the style vector of one width, each trained through itself and standardised

The artists' head reads the logarithm of a form in any case, so that weights are the same with and without. In brackets 95 %
intervals over trainings (Student's t), of the last column paired by seed.

| form | finds style | finds content | style less the default's |
|---|---|---|---|
{_forms(lines)}

{_of_texts()}
"""]
    for weights in dict.fromkeys(line["weights"] for line in lines):
        found = result["mean_average_precision"].get(weights)
        learnt = f"; mean average precision of tags on held-out illustrations {spread(found)}" if found else ", never trained"
        through = " through gram_max, log" if weights == next(iter(TRAINED)) else ""
        text.append(f"## Weights: {weights}{through}{learnt}\n\n| vector | width | cosine of vectors | finds style | finds content |\n"
                    "|---|---|---|---|---|")
        keys = dict.fromkeys((line["vector"], line["form"], line["scaling"]) for line in lines if line["weights"] == weights)
        for key in keys:
            mine = [line for line in lines if (line["vector"], line["form"], line["scaling"]) == key and line["weights"] == weights]
            cells = [f"{spread([line[name]['mean'] for line in mine])} [{mine[0][name]['low']:.3f}, {mine[0][name]['high']:.3f}]"
                     for name in ("finds_style", "finds_content")]
            text.append(f"| {' '.join(key[:2]).strip()} | {mine[0]['width']} | {key[2]} | {cells[0]} | {cells[1]} |")
        text.append("")
    return "\n".join(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--styles", type=int, default=64)
    parser.add_argument("--contents", type=int, default=64)
    parser.add_argument("--page", action="store_true", help="train nothing, write the page again from its figures")
    return parser.parse_args()


def _submit(job: str, *overrides: str) -> None:
    _run("spark-submit", "--driver-memory", "3g", f"jobs/{job}.py", "--config", CONFIG, "--week", WEEK, *overrides)


def _run(*command: str) -> None:
    print("+", " ".join(command), file=sys.stderr)
    subprocess.run(command, check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
