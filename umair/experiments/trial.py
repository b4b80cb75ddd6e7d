"""One trial: one ranker trained with one seed on an experiment's rows, and its scores of the test window."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from umair.config import fingerprint
from umair.devices import choose_gpu
from umair.evidence import code_digest, machine_kind
from umair.model.ranker import RankerConfig
from umair.storage import read_facts, write_folder
from umair.training.checkpoint import load_ranker
from umair.training.features import Features
from umair.training.feed import Feed
from umair.training.inputs import TrainingInputs
from umair.training.loop import MAIN, Making, TrainingConfig, scored_at_once, train_rankers
from umair.training.ranks import Ranks
from umair.training.reader import read_rows

CODE = (  # what a trial's scores depend on beside its configuration and rows; not the encoders, whose vectors the rows have,
    # nor presets, which are keys of the configuration
    "experiments/trial.py", "metrics.py", "baselines",
    "model/batch.py", "model/compact.py", "model/contribution.py", "model/cross_network.py", "model/listed.py",
    "model/match.py", "model/new_ids.py", "model/norm.py", "model/profiles.py", "model/projection.py", "model/ranker.py",
    "model/sides.py",
    "training/ahead.py", "training/buckets.py", "training/checkpoint.py", "training/features.py", "training/feed.py",
    "training/inputs.py", "training/lookup.py", "training/loop.py", "training/packing.py", "training/ranks.py",
    "training/reader.py", "training/rest.py", "training/row_adam.py", "training/schedule.py", "training/shares.py",
    "training/trainee.py",
)
Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Trial:
    """What is trained on what. `key` names its folder below the experiment's, so that no trial is made twice: one that a GPU
    made is not made again on CPUs."""

    ranker: RankerConfig
    training: TrainingConfig  # with this trial's seed
    inputs: TrainingInputs  # with the files of all three splits; training alone asks for no test
    root: str  # whose features/ has the pack

    @property
    def key(self) -> str:
        inputs = self.inputs
        return fingerprint([self.ranker, self.training.by_whomever(), inputs.source.key, inputs.rows_by_file,
                            code_digest(*CODE)])

    @property
    def device(self) -> str:
        """cpu, or one of this node's GPUs, the same for a trial that goes on. Raises ClusterError where torch sees none."""
        if self.training.device == "cpu":
            return "cpu"
        return choose_gpu("training.device", (), int(self.key, 16) % max(1, torch.cuda.device_count()))


@dataclass(frozen=True)
class Outcome:
    """What came of a trial: scores of the test rows in the order of their files, and facts."""

    facts: dict[str, Any]
    logit_N: Floats
    contribution_UM: Floats | None  # each test user's mean weight of a modality; users ascend by user_index
    match_UM: Floats | None  # how much a modality's part of the logit varies over the user's rows, as a share of all

    @classmethod
    def of(cls, folder: Path) -> Outcome:
        with np.load(folder / "scores.npz") as scores:
            return cls(read_facts(folder), scores["logit"], scores.get("contribution_user"), scores.get("match_user"))


class _Silent(Ranks):
    """A single rank that says nothing: several trials run at once."""

    def say(self, line: str) -> None:
        """Drops the line."""


def run_trial(trial: Trial, folder: Path, at_once: int = 1) -> Path:
    """Trains and scores into `folder`/key, unless that is there; a trial that was killed goes on from its checkpoint."""
    done = folder / trial.key
    if not (done / "facts.json").is_file():
        trained = train_trial(trial, folder / "rankers", at_once)
        write_folder(done, lambda new: _score(trial, trained, new))
    return done


def train_trial(trial: Trial, folder: Path, at_once: int = 1) -> Path:
    """Trains into `folder`/key, unless that is there. The facts say on which machine, and how many trials, `at_once`, shared
    it: seconds depend on both."""
    trained = folder / trial.key
    torch.set_num_threads(trial.training.threads)
    if not (trained / "facts.json").is_file():
        place = {"machine": machine_kind(), "device": trial.training.device, "at_once": at_once}
        train_rankers(_Silent(device=trial.device), ranker=trial.ranker, config=trial.training, inputs=trial.inputs,
                      root=trial.root, folder=str(trained), making=Making(code_digest(*CODE), place))
    return trained


def _score(trial: Trial, trained: Path, folder: Path) -> dict[str, Any]:
    device = trial.device
    ranker = load_ranker(trained / MAIN).to(device)
    features = Features.open(trial.training.feature_folder(Path(trial.root)) / trial.inputs.source.key)
    rows_by_file = dict(sorted(trial.inputs.rows_by_file["test"].items()))
    rows = sum(rows_by_file.values())
    size = scored_at_once([trial.ranker])
    sizes = [size] * (rows // size) + [rows % size] * (rows % size > 0)
    with torch.inference_mode():
        feed = Feed(features, {MAIN: ranker}, device, resident=trial.training.resident)
        said = [ranker(batch[MAIN]) for batch in feed.batches(rows_by_file, sizes)]
    user_N = np.concatenate([chunk["user_index"] for chunk in read_rows(rows_by_file, ("user_index",))])
    scores = {"logit": _joined([each.logit_B for each in said])}
    for name, parts, by_user in (("contribution_user", [each.contribution_BM for each in said], user_means),
                                 ("match_user", [each.match_BM for each in said], user_shares)):
        known = [part for part in parts if part is not None]
        if known:
            scores[name] = by_user(user_N, _joined(known)).astype(np.float32)
    np.savez(folder / "scores.npz", **scores)
    facts = read_facts(trained)
    return {**{name: facts[name] for name in ("rows", "epochs", "seconds", "rows_per_second", "valid")},
            **facts["rankers"][MAIN], **_place(facts["places"]), "seed": trial.training.seed,
            "modalities": list(ranker.modalities), "matched": list(ranker.matched)}


def _place(places: list[dict[str, Any]]) -> dict[str, Any]:
    """Where a trial was trained; one that went on elsewhere names both."""
    names = {name: " then ".join(dict.fromkeys(place[name] for place in places)) for name in ("machine", "device")}
    return {**names, "at_once": max(place["at_once"] for place in places)}


def _joined(parts: list[Any]) -> Floats:
    values: Floats = torch.cat(parts).float().cpu().numpy()
    return values


def user_means(user_N: Array, value_NM: Array) -> Array:
    """[U, M] in float64: the mean over each user's rows, users ascending."""
    _, place_N, rows_U = np.unique(user_N, return_inverse=True, return_counts=True)
    return np.stack([np.bincount(place_N, value_N) / rows_U for value_N in value_NM.T.astype(np.float64)], 1)


def user_shares(user_N: Array, value_NM: Array) -> Array:
    """[U, M] in float64: standard deviations over each user's rows, as shares of their sum."""
    square_UM = user_means(user_N, value_NM.astype(np.float64)**2)
    spread_UM = np.sqrt(np.maximum(square_UM - user_means(user_N, value_NM)**2, 0))
    share_UM: Array = spread_UM / np.maximum(spread_UM.sum(1, keepdims=True), 1e-12)
    return share_UM
