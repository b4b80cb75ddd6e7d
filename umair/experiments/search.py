"""Hyper-parameter search: Optuna draws configurations, a ranker is trained with each, the validation window judges.

    umair search conf/search/numeric.yaml

Below runs/search/NAME lie world/, rankers/KEY/, trials.log (Optuna's journal) and summary.json. The test window is never
opened. A search that was killed goes on where it stopped, and one whose `trials` is larger goes on from there.
"""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from umair.config import Section, fingerprint, load_config, merge
from umair.errors import ConfigError
from umair.experiments.config import WeekConfig
from umair.experiments.data import open_training
from umair.experiments.numeric_world import NumericWorldConfig
from umair.experiments.trial import Trial, train_trial
from umair.model.ranker import RankerConfig
from umair.storage import read_facts, write_atomically
from umair.training.loop import MAIN, TrainingConfig

log = logging.getLogger("umair")


class Range(Section):
    """Numbers from `low` to `high`, both among them; whole ones where both are whole."""

    low: float
    high: float
    log: bool = False  # drawn by their logarithm

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"a range from {self.low} to {self.high}; low < high, and above 0 for log")
        return self


def _kind(value: Any) -> str:
    return "range" if isinstance(value, dict | Range) else "list"


Tried = Annotated[Annotated[list[Any], Tag("list")] | Annotated[Range, Tag("range")], Discriminator(_kind)]


class SearchConfig(Section):
    """Rows, a starting point, and for each key of `training` or `ranker` what to try: a list, or a range."""

    numeric: NumericWorldConfig | None = None  # rows of a numeric world, or
    week: WeekConfig | None = None  # of a week of the pipeline
    trials: int = Field(20, gt=0)  # in all, over every run of this search
    seed: int = Field(0, ge=0)  # of what is drawn; training has its own
    training: dict[str, Any]
    ranker: dict[str, Any]
    space: dict[str, Tried] = Field(min_length=1)  # section.key -> what to try

    @model_validator(mode="after")
    def _consistent(self) -> SearchConfig:
        if (self.numeric is None) == (self.week is None):
            raise ValueError("rows from `numeric` or from `week`, one of them")
        for key, values in self.space.items():
            if key.partition(".")[0] not in ("training", "ranker") or "." not in key:
                raise ValueError(f"space: '{key}'; a key is training.NAME or ranker.NAME")
            first = values.low if isinstance(values, Range) else values[0] if values else None
            if first is None:
                raise ValueError(f"space: '{key}' has nothing to try")
            self.settings({key: _whole(values, first)})  # what the schema refuses is said before anything is drawn
        return self

    def settings(self, drawn: dict[str, Any]) -> tuple[RankerConfig, TrainingConfig]:
        """The starting point with the drawn values. Raises ValueError for what the schemas refuse."""
        values: dict[str, Any] = {"ranker": self.ranker, "training": self.training}
        for key, value in drawn.items():
            section, name = key.split(".", 1)
            values = merge(values, {section: {name: value}})
        training = TrainingConfig.model_validate(values["training"])
        if (training.ranks, training.device, bool(training.rivals)) != (1, "cpu", False):
            raise ValueError("training: each trial is one process with one ranker on the CPU: ranks 1, no rivals")
        return RankerConfig.model_validate(values["ranker"]), training

    @property
    def key(self) -> str:
        """Stands for all but how many trials there are to be."""
        return fingerprint(self.model_dump(mode="json", exclude={"trials"}))


def run_search(file: Path, root: Path, processes: int | None = None) -> dict[str, Any]:
    """Runs what is left of the search below `root`/NAME; writes summary.json and returns it: trials, the best of them
    first, each with its values and the log loss and AUC on the validation window.

    Raises ConfigError where Optuna is not installed.
    """
    _optuna()
    config = load_config(file, [], SearchConfig)
    folder = (root / file.stem).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    inputs, data_root = open_training(config.numeric, config.week, folder)
    study = _open_study(config, folder)
    with ProcessPoolExecutor(processes or os.cpu_count() or 1, mp_context=multiprocessing.get_context("spawn")) as pool:
        _fill(study, config, lambda ranker, training: pool.submit(
            train_trial, Trial(ranker, training, inputs, data_root), folder / "rankers"), processes or os.cpu_count() or 1)
    summary = _summary(study, config)
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1))
    return summary


def _open_study(config: SearchConfig, folder: Path) -> Any:
    """The study of this very search; trials that a kill left unfinished come first, with the same values."""
    optuna = _optuna()
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "trials.log")))
    sampler = optuna.samplers.TPESampler(seed=config.seed, constant_liar=True, n_startup_trials=min(10, config.trials))
    study = optuna.create_study(storage=storage, study_name=config.key, sampler=sampler, load_if_exists=True)
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def _fill(study: Any, config: SearchConfig, start: Any, at_once: int) -> None:
    """Keeps `at_once` trials going until there are `config.trials`."""
    running: dict[Future[Path], Any] = {}
    while _done(study) + len(running) < config.trials or running:
        while len(running) < at_once and _done(study) + len(running) < config.trials:
            trial = study.ask()
            drawn = {key: _draw(trial, key, values) for key, values in config.space.items()}
            running[start(*config.settings(drawn))] = trial
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for each in finished:
            trial = running.pop(each)
            best = _best_epoch(read_facts(each.result()))
            trial.set_user_attr("auc", best["auc"])
            study.tell(trial, best["log_loss"])
            log.info("search: %d of %d trials, log loss %.4f", _done(study), config.trials, best["log_loss"])


def _done(study: Any) -> int:
    return len(study.get_trials(deepcopy=False, states=(_optuna().trial.TrialState.COMPLETE,)))


def _draw(trial: Any, key: str, values: list[Any] | Range) -> Any:
    if not isinstance(values, Range):
        return values[trial.suggest_int(key, 0, len(values) - 1)]  # by place: Optuna knows no lists among choices
    if isinstance(_whole(values, values.low), int):
        return trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
    return trial.suggest_float(key, values.low, values.high, log=values.log)


def _meant(values: list[Any] | Range, drawn: Any) -> Any:
    """What `_draw` made of what Optuna drew."""
    return drawn if isinstance(values, Range) else values[drawn]


def _whole(values: list[Any] | Range, value: Any) -> Any:
    """An int for a range between whole numbers."""
    if isinstance(values, Range) and values.low == math.floor(values.low) and values.high == math.floor(values.high):
        return int(value)
    return value


def _best_epoch(facts: dict[str, Any]) -> dict[str, float]:
    measures = [line["rankers"][MAIN] for line in facts["valid"]]
    best: dict[str, float] = min(measures, key=lambda measure: measure["log_loss"])
    return best


def _summary(study: Any, config: SearchConfig) -> dict[str, Any]:
    done = study.get_trials(states=(_optuna().trial.TrialState.COMPLETE,))
    trials = [{"log_loss": round(trial.value, 5), "auc": trial.user_attrs["auc"],
               "values": {key: _meant(config.space[key], drawn) for key, drawn in trial.params.items()}}
              for trial in sorted(done, key=lambda trial: trial.value)]
    return {"window": "valid", "trials": len(trials), "best": trials[0], "all": trials}


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("umair search", "no optuna", "the package optuna", "pip install 'umair[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
