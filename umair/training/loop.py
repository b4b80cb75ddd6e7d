"""Training of rankers on Horovod ranks: the ranker itself and its rivals, step by step on the same batches.

A step takes one batch on every rank, and gradients are averaged over the ranks. N rows of the validation window.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field, model_validator

from umair.config import Section, fingerprint
from umair.errors import ClusterError, ContractError
from umair.metrics import LogLoss, auc
from umair.model.ranker import RankerConfig, count_parameters
from umair.storage import Store, write_folder
from umair.training.buckets import shared_buckets
from umair.training.checkpoint import LAYOUT, Checkpoints, Position, build_ranker, load_ranker, save_ranker
from umair.training.features import Features, pack_features
from umair.training.feed import Feed
from umair.training.inputs import TrainingInputs
from umair.training.packing import STATIC_FIELDS
from umair.training.progress import Progress
from umair.training.ranks import Ranks
from umair.training.schedule import pace
from umair.training.shares import plan_epoch
from umair.training.trainee import Trainee

__all__ = ["MAIN", "TrainingConfig", "build_ranker", "load_ranker", "train_rankers"]
MAIN = "main"  # the name of the ranker itself among its rivals
POINTS = 50  # of the training curve, an epoch
ARTIST = STATIC_FIELDS.index("artist_index")
SCORING_BATCH = 4_096  # rows of a rank
AUTHORS_BATCH = 512  # rows that the authors score together (their weights are a mean over the batch: `batch_mean`)
Result = TypeVar("Result")


class TrainingConfig(Section):
    """How rankers are trained. Defaults are the paper's: Adam, one epoch, batches of 128."""

    epochs: int = Field(1, gt=0)  # passes over the training rows
    keep: Literal["best", "last"] = "best"  # epoch of each ranker, by log loss on the validation window
    batch: int = Field(128, gt=1)  # rows of a step over all ranks together, so that their number changes little
    learning_rate: float = Field(1e-3, gt=0)  # of Adam, at its highest; not scaled by the number of ranks
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: the rate falls to zero over all epochs, by half a wave
    patience: int | None = Field(None, gt=0)  # stop after so many epochs in which no ranker got better; null: never
    clip_norm: float | None = Field(None, gt=0)  # largest L2 norm of all gradients together; null: any
    accumulate: int = Field(1, gt=0)  # parts that a rank's batch is computed in, one after the other, to spare memory
    table_decay: float = Field(0.0, ge=0)  # tables shrink by this times the learning rate at every step, as AdamW's weights
    share_moments: bool = False  # batch norm over the rows of all ranks: the weights of one rank, and waiting in every layer
    precision: Literal["float32", "bfloat16"] = "float32"  # of products; weights, sums and losses stay float32
    compiled: bool = False  # torch.compile, meant for GPUs and needing a C++ compiler; all tables are dense then
    sparse_from: int | None = Field(500_000, gt=0)  # tables of at least so many numbers send and move only the rows that a
    #                                                 step read, and learn as by Adam (RowAdam); null: no table
    ranks: int = Field(2, gt=0)  # Horovod processes
    threads: int = Field(1, gt=0)  # torch's, of each rank
    device: Literal["cpu", "cuda"] = "cpu"  # cuda: each rank takes a GPU of its node
    resident: bool = False  # with cuda: all vectors on the GPU, 2 bytes a number, and not the compact ones alone
    seed: int = Field(0, ge=0)  # of weights, dropout and the order of rows
    shuffle_pool: int = Field(65_536, ge=0)  # rows of a rank that are permuted together
    checkpoint_steps: int = Field(1_000, gt=0)  # steps between checkpoints
    features: str | None = None  # folder on each node for packed features; null: below the root, which all nodes share
    rivals: dict[str, RankerConfig] = Field({})  # name -> another ranker, trained beside on the same batches

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        if self.batch < 2 * self.ranks:
            raise ValueError(f"a batch of {self.batch} rows over {self.ranks} ranks; each rank needs 2 for batch norm")
        if self.compiled and self.share_moments:
            raise ValueError("compiled and share_moments: a compiled step cannot wait for other ranks; leave out one")
        for name in self.rivals:
            if name == MAIN or not name.isidentifier():
                raise ValueError(f"rival {name!r}: names are letters, digits and _, and not {MAIN!r}")
        return self

    def feature_folder(self, root: Path) -> Path:
        return Path(self.features) if self.features else root / "features"

    def by_whomever(self) -> TrainingConfig:
        """The same, whoever trains it: without what changes seconds, and weights only by rounding, by a rank's rows, by
        the random numbers that a device draws for dropout, and by what RowAdam neglects."""
        return self.model_copy(update={"ranks": 1, "threads": 1, "device": "cpu", "checkpoint_steps": 1, "features": None,
                                       "resident": False, "sparse_from": None})


@dataclass(frozen=True)
class Making:
    """By which code rankers are made, and where."""

    code: str = ""  # a checkpoint of other code does not count
    place: dict[str, Any] = field(default_factory=dict)  # machine and the like; facts have those of all starts


def train_rankers(ranks: Ranks, *, ranker: RankerConfig, config: TrainingConfig, inputs: TrainingInputs, root: str,
                  folder: str, making: Making | None = None) -> dict[str, Any]:
    """Trains the ranker and its rivals, writes them into `folder`, returns its facts. Every rank runs this.

    `folder` gets main/, a folder for each rival, and facts.json. Killed and run again with the same arguments, training
    goes on from its newest checkpoint and ends with the weights of an uninterrupted run (on another number of ranks the
    epoch that was begun starts over from the checkpoint's weights). Raises ContractError for broken rows and for a loss
    that is not a number (the checkpoint before it is kept), StorageError for lost files and a full disk, ClusterError when
    ranks end with different weights.
    """
    making = making or Making()
    run = _Run(ranks, {MAIN: ranker, **config.rivals}, config, inputs, Path(root), Path(folder), making.code)
    run.resume(making.place)
    while run.position.epoch < config.epochs and not run.stalled:
        run.train_epoch()
    return run.finish()


class _Run:
    """One rank's part in one training run."""

    def __init__(self, ranks: Ranks, rankers: dict[str, RankerConfig], config: TrainingConfig, inputs: TrainingInputs,
                 root: Path, folder: Path, code: str) -> None:
        self.ranks, self.config, self.inputs, self.folder = ranks, config, inputs, folder
        self.started, self.phases = time.monotonic(), dict[str, float]()
        features = self._timed("pack", lambda: pack_features(Store(root), inputs.source, config.feature_folder(root)))
        self.plan = plan_epoch(inputs.rows_by_file["train"], ranks.count, ranks.index, config.batch // ranks.count,
                               "window_train")
        _refuse_small_batches(self.plan.rows_by_rank, self.plan.steps, config.accumulate if config.share_moments else 1)
        self.features = features
        self.shared = {name: _shared_buckets(name, each, features) for name, each in rankers.items()}
        self.trainees = {name: Trainee.fresh(name, each, features, ranks, config) for name, each in rankers.items()}
        self.checkpoints = self._checkpoints(rankers[MAIN], code)
        self.position = Position()
        self.curve: list[dict[str, Any]] = []  # mean losses along the way
        self.valid: list[dict[str, Any]] = []  # measures after each epoch
        self.places: list[dict[str, Any]] = []  # where it was trained, each place once
        self.scored_at_once = scored_at_once(rankers.values())

    # ------------------------------------------------------------ checkpoints
    def _checkpoints(self, ranker: RankerConfig, code: str) -> Checkpoints:
        """Below a folder that stands for what is trained, and there for rows and code; who trains it does not count."""
        run = fingerprint([self.config.by_whomever(), ranker])
        rows = fingerprint([LAYOUT, self.inputs.source.key, self.inputs.rows_by_file, *([code] if code else [])])
        return Checkpoints(self.folder.with_name(f"checkpoints-{run}"), rows)

    def resume(self, place: dict[str, Any]) -> None:
        """Takes up the newest checkpoint of this very run, if there is one."""
        found = self.checkpoints.load(self._parts())
        if found:
            self.position, facts = found
            self._divide_anew(facts["ranks"])
            self.curve, self.valid, self.places = facts["curve"], facts["valid"], facts.get("places", [])
            self.started -= facts["seconds"]
            self.ranks.say(f"train: goes on after step {self.steps_done:,} from {self.checkpoints.newest}")
        if place and place not in self.places:
            self.places.append(place)
        for trainee in self.trainees.values():
            self.ranks.share_weights(trainee.ranker)
            self.ranks.share_optimizer(trainee.optimizer)

    def _divide_anew(self, ranks: int) -> None:
        """Another number of ranks divides the rows otherwise, so that it begins an epoch from its start, with the weights
        that there are: what was read of it is read twice, and nothing is left out."""
        if ranks != self.ranks.count and self.position.step:
            self.position = Position(self.position.epoch, 0)
            epoch = self.position.epoch + 1
            self.ranks.say(f"train: the checkpoint is of {ranks} ranks: epoch {epoch} starts over from its weights")

    @cached_property
    def feed(self) -> Feed:
        """Made after `resume`, when all ranks have the first one's axes."""
        rankers = {name: trainee.ranker for name, trainee in self.trainees.items()}
        return Feed(self.features, rankers, self.ranks.device, resident=self.config.resident)

    @property
    def steps_done(self) -> int:
        return self.position.epoch * self.plan.steps + self.position.step

    @property
    def _kept(self) -> str:
        return str(self.checkpoints.newest or "there is none yet")

    def _parts(self) -> dict[str, tuple[torch.nn.Module, torch.optim.Optimizer]]:
        return {name: (trainee.ranker, trainee.optimizer) for name, trainee in self.trainees.items()}

    def _save(self) -> None:
        """The first rank writes a checkpoint at the present position; the others wait for it. All have the same weights and,
        once settled, the same statistics, and refuse alike those that are not finite."""
        self._settle()
        if self.ranks.index == 0:
            facts = {"curve": self.curve, "valid": self.valid, "seconds": time.monotonic() - self.started,
                     "ranks": self.ranks.count, "places": self.places}
            best = {name: self._best_epoch(name) for name in self.trainees} if self.valid else {}
            self.checkpoints.save(self.steps_done, self.position, facts, self._parts(), best)
        self.ranks.barrier()

    def _settle(self) -> None:
        """Raises ContractError for rankers that are not worth keeping."""
        for trainee in self.trainees.values():
            trainee.settle()
            trainee.require_finite(self.steps_done, self._kept)

    # ------------------------------------------------------------ an epoch
    def train_epoch(self) -> None:
        """Trains from the present position to the end of its epoch, measures on the validation window, saves."""
        epoch = self.position.epoch
        self._timed("train", lambda: self._take_steps(epoch))
        self.position = Position(epoch + 1, 0)
        self._timed("validate", self._validate)
        self._timed("checkpoint", self._save)

    def _take_steps(self, epoch: int) -> None:
        """From the present position to the last step of the epoch."""
        first, plan = self.position.step, self.plan
        progress = Progress(self.ranks.say, f"train, epoch {epoch + 1} of {self.config.epochs}", plan.rows,
                            plan.rows_after(first))
        batches = self.feed.batches(plan.rows_by_file, plan.sizes, order=(self.config.seed, epoch, self.ranks.index),
                                    pool=self.config.shuffle_pool, skip=first)
        for step, batch in enumerate(batches, start=first):
            seed, share, rate = self._seed(epoch, step), plan.share(step), self._rate(epoch, step)
            for name, trainee in self.trainees.items():
                trainee.step(batch[name], seed, share, rate)
            self.position = Position(epoch, step + 1)
            self._after_step(progress)

    def _rate(self, epoch: int, step: int) -> float:
        """The learning rate of a step: a function of its place alone, so that a checkpoint need not keep it."""
        config, steps = self.config, self.plan.steps
        share = pace(epoch * steps + step + 1, config.epochs * steps, 0.0) if config.schedule == "cosine" else 1.0
        return config.learning_rate * share

    @property
    def stalled(self) -> bool:
        """No ranker had its best epoch among the last `patience`."""
        patience = self.config.patience
        if patience is None or not self.valid:
            return False
        return all(self.position.epoch - self._best_epoch(name) >= patience for name in self.trainees)

    def _seed(self, epoch: int, step: int) -> int:
        """Draws dropout masks anew for each step and rank, so that a checkpoint needs no random state."""
        return int(np.random.SeedSequence([self.config.seed, epoch, step, self.ranks.index]).generate_state(1)[0])

    def _after_step(self, progress: Progress) -> None:
        step, steps = self.position.step, self.plan.steps
        save = step % self.config.checkpoint_steps == 0 and step < steps
        if save or step == steps or step % math.ceil(steps / POINTS) == 0:
            progress.show(self.plan.rows_after(step), self._add_point())
        if save:
            self._timed("checkpoint", self._save)

    def _add_point(self) -> dict[str, float]:
        """Adds to the curve each ranker's mean loss over all ranks and the steps since the last point."""
        losses = {name: trainee.take_loss(self.steps_done, self.plan.steps, self._kept)
                  for name, trainee in self.trainees.items()}
        self.curve.append({"epoch": self.position.epoch, "step": self.position.step,
                           "rows": self.plan.rows_after(self.position.step), "loss": losses})
        return losses

    def _validate(self) -> None:
        """Adds each ranker's exact log loss and AUC over the validation rows of all ranks."""
        self._settle()
        plan = plan_epoch(self.inputs.rows_by_file["valid"], self.ranks.count, self.ranks.index,
                          self.scored_at_once, "window_valid")
        scores: dict[str, list[torch.Tensor]] = {name: [] for name in self.trainees}
        labels = []
        for batch in self.feed.batches(plan.rows_by_file, plan.sizes):
            labels.append(batch[MAIN].label_B.cpu())
            for name, trainee in self.trainees.items():
                scores[name].append(trainee.score(batch[name]))
        label_N = self.ranks.gather_rows(torch.cat(labels))
        measures = {name: self._measure(name, label_N, self.ranks.gather_rows(torch.cat(parts)))
                    for name, parts in scores.items()}
        self.valid.append({"epoch": self.position.epoch, "rows": len(label_N), "rankers": measures})
        self._keep_best()
        self.ranks.say("validation: " + "; ".join(f"{name} {_spell(measure)}" for name, measure in measures.items()))

    def _measure(self, name: str, label_N: torch.Tensor, logit_N: torch.Tensor) -> dict[str, float | None]:
        """Pure log loss, and AUC, which is None where one class is missing."""
        if not logit_N.isfinite().all():
            raise ContractError(f"ranker '{name}' on the validation window after epoch {self.position.epoch}",
                                "a score that is not a number", "finite scores",
                                "lower training.learning_rate, or look for vectors that are not finite; "
                                f"the last good checkpoint is kept: {self._kept}")
        area = auc(label_N.numpy(), logit_N.numpy())
        loss = LogLoss.of(label_N.numpy(), logit_N.double().sigmoid().numpy()).mean
        return {"log_loss": loss, "auc": None if math.isnan(area) else area}

    def _keep_best(self) -> None:
        """The first rank keeps the weights of the rankers whose newest epoch is their best."""
        if self.ranks.index == 0 and self.config.keep == "best":
            for name, trainee in self.trainees.items():
                if self._kept_epoch(name) == self.position.epoch:
                    self.checkpoints.keep_best(name, self.position.epoch, trainee.ranker)

    def _kept_epoch(self, name: str) -> int:
        """From 1; the first of several that are equally good."""
        return self.position.epoch if self.config.keep == "last" else self._best_epoch(name)

    def _best_epoch(self, name: str) -> int:
        best: int = min(self.valid, key=lambda line: line["rankers"][name]["log_loss"])["epoch"]
        return best

    # ------------------------------------------------------------ the end
    def finish(self) -> dict[str, Any]:
        """Checks that all ranks hold the same weights; the first writes the folder. Returns the facts."""
        for name, trainee in self.trainees.items():
            digests = self.ranks.gather(trainee.digest())
            if len(set(digests)) > 1:
                raise ClusterError(f"ranker '{name}' at the end", f"different weights on {self.ranks.count} ranks",
                                   "the same on all", "train again; if it comes back, look for a faulty machine")
        facts = self._facts()
        if self.ranks.index == 0:
            write_folder(self.folder, lambda temporary: self._write(temporary, facts))
            self.checkpoints.remove()
        self.ranks.barrier()
        return facts

    def _write(self, folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
        for name, trainee in self.trainees.items():
            if self._kept_epoch(name) != self.position.epoch:
                self.checkpoints.restore_best(name, self._kept_epoch(name), trainee.ranker)
            save_ranker(folder / name, trainee.ranker, trainee.config, self.inputs.source.widths)
        return facts

    def _facts(self) -> dict[str, Any]:
        seconds, rows = time.monotonic() - self.started, self.plan.rows * self.position.epoch
        steps = {f"step {name}": trainee.seconds for name, trainee in self.trainees.items()}
        phases = {**self.phases, **self.feed.seconds, **steps}  # of the first rank, since it last started
        return {
            "versions": self.inputs.versions, "features": vars(self.inputs.source), "ranks": self.ranks.count,
            "rows": self.plan.rows, "epochs": self.position.epoch, "steps": self.plan.steps, "batch": self.config.batch,
            "seconds": round(seconds, 3), "rows_per_second": round(rows / seconds, 1),
            "bytes_sent_per_step": sum(trainee.sent for trainee in self.trainees.values()),  # of gradients, by each rank
            "phases": {phase: round(spent, 3) for phase, spent in phases.items()},
            "rankers": {name: {**count_parameters(each.ranker), "kept_epoch": self._kept_epoch(name),
                                "shared_buckets": self.shared[name]}
                        for name, each in self.trainees.items()},
            "places": self.places, "curve": self.curve, "valid": self.valid}

    def _timed(self, phase: str, work: Callable[[], Result]) -> Result:
        started = time.perf_counter()
        try:
            return work()
        finally:
            self.phases[phase] = self.phases.get(phase, 0.0) + time.perf_counter() - started


def scored_at_once(rankers: Iterable[RankerConfig]) -> int:
    """Rows of a batch that is scored: of rankers whose scores depend on it, as many as the authors have."""
    return AUTHORS_BATCH if any(ranker.batch_mean for ranker in rankers) else SCORING_BATCH


def _shared_buckets(name: str, config: RankerConfig, features: Features) -> dict[str, float]:
    """By field, the share of values that share a bucket. Raises ContractError where the ranker is to have none."""
    shared = shared_buckets(features, config.user_fields, config.item_fields, config.tag_buckets)
    found = ", ".join(f"{share:.1%} of {field}" for field, share in shared.items() if share and field != "username")
    if config.exact and found:
        raise ContractError(f"ranker '{name}', exact: true", f"{found} in a bucket with others",
                            f"a bucket for each and one for the unknown ({features.users:,} users, "
                            f"{features.illustrations:,} illustrations, "
                            f"{int(features.item_fields[:, ARTIST].max(initial=-1)) + 1:,} artists, {features.tags:,} tags)",
                            "enlarge ranker.user_fields, item_fields or tag_buckets, or leave exact out")
    return shared


def _refuse_small_batches(rows_by_rank: list[int], steps: int, parts: int) -> None:
    """Batch norm wants two rows in every part; with moments over all ranks every rank must have as many `parts` as the
    others, which would else wait for it for ever."""
    fewest = min(rows_by_rank) // steps
    if fewest < 2 * parts:
        raise ContractError("table 'window_train'", f"{min(rows_by_rank)} rows a rank in {steps} steps: a batch of "
                            f"{'one row' if fewest == 1 else f'{fewest} rows'}",
                            f"{2 * parts} rows or more in every batch, for batch norm"
                            + (f" in {parts} parts (training.accumulate)" if parts > 1 else ""),
                            "use a larger training.batch or fewer ranks" + (", or fewer parts" if parts > 1 else ""))


def _spell(measure: dict[str, float | None]) -> str:
    area = measure["auc"]
    return f"log loss {measure['log_loss']:.4f}, AUC " + ("undefined: one class only" if area is None else f"{area:.4f}")
