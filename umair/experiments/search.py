"""Hyper-parameter search: Optuna draws configurations, a ranker is trained with each, the validation window judges.

    umair search conf/search/numeric.yaml

Below runs/search/NAME lie world/, rankers/KEY/, trials.log (Optuna's journal) and summary.json. The test window is never
opened. A search that was killed goes on where it stopped, and one whose `trials` is larger goes on from there.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import shlex
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import yaml
from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from umair.config import AnySection, Section, fingerprint, load_config, merge
from umair.errors import ConfigError, ContractError, UmairError
from umair.evidence import code_digest, provenance
from umair.experiments.config import OWN_PACK, TWO_PLACES, WeekConfig, laid_over_the_week
from umair.experiments.data import open_training
from umair.experiments.numeric_world import NumericWorldConfig
from umair.experiments.run import alone
from umair.experiments.trial import CODE, Trial, train_trial
from umair.model.ranker import RankerConfig
from umair.processes import worker_processes
from umair.storage import read_facts, write_atomically
from umair.training.inputs import TrainingInputs
from umair.training.loop import MAIN, TrainingConfig

log = logging.getLogger("umair")


class Range(Section):
    """Numbers from `low` to `high`, both among them; whole ones where both are written as such (2, not 2.0)."""

    low: int | float
    high: int | float
    log: bool = False  # drawn by their logarithm

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"a range from {self.low} to {self.high}; low < high, and above 0 for log")
        return self

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


def _kind(value: Any) -> str:
    return "range" if isinstance(value, dict | Range) else "list"


Tried = Annotated[Annotated[list[Any], Tag("list")] | Annotated[Range, Tag("range")], Discriminator(_kind)]


class SearchConfig(Section):
    """Rows, a starting point, and for each key of `training` or `ranker` what to try: a list, or a range."""

    numeric: NumericWorldConfig | None = None  # rows of a numeric world; this or `week`, one of them
    week: WeekConfig | None = None  # rows of a week of the pipeline
    trials: int = Field(20, gt=0)  # in all, over every run of this search
    seed: int = Field(0, ge=0)  # of what is drawn; training has its own
    training: dict[str, Any] = Field({})  # laid over the week's own, where there is a week
    ranker: dict[str, Any] = Field({})  # likewise
    space: dict[str, Tried] = Field(min_length=1)  # section.key -> values to try, or a range

    @model_validator(mode="before")
    @classmethod
    def _start_from_the_week(cls, values: Any) -> Any:
        return laid_over_the_week(values)

    @model_validator(mode="after")
    def _consistent(self) -> SearchConfig:
        if (self.numeric is None) == (self.week is None):
            raise ValueError(TWO_PLACES)
        for key, values in self.space.items():
            if key.partition(".")[0] not in ("training", "ranker") or "." not in key:
                raise ValueError(f"space: '{key}'; a key is training.NAME or ranker.NAME")
            if not values:
                raise ValueError(f"space: '{key}' has nothing to try")
            for value in (values.low, values.high) if isinstance(values, Range) else values:
                try:
                    self.settings({key: value})  # what the schemas refuse is said before anything is drawn
                except ValueError as error:
                    raise ValueError(f"space: '{key}' with {value!r}: {error}") from error
        return self

    def settings(self, drawn: dict[str, Any]) -> tuple[RankerConfig, TrainingConfig]:
        """The starting point with the drawn values. Raises ValueError for what the schemas refuse."""
        values: dict[str, Any] = {"ranker": self.ranker, "training": self.training}
        for key, value in drawn.items():
            section, name = key.split(".", 1)
            values = merge(values, {section: {name: value}})
        training = _section(TrainingConfig, "training", values["training"])
        if (training.ranks, bool(training.rivals)) != (1, False):
            raise ValueError("training: each trial is one process with one ranker: ranks 1, no rivals")
        if self.numeric and training.features:
            raise ValueError(OWN_PACK)
        return _section(RankerConfig, "ranker", values["ranker"]), training

    @property
    def start(self) -> dict[str, Any] | None:
        """What Optuna would have to draw for the starting point; None where that lies outside the space."""
        sections = dict(zip(("ranker", "training"), self.settings({}), strict=True))
        drawn = {}
        for key, values in self.space.items():
            section, name = key.split(".", 1)
            value = sections[section].model_dump(mode="json").get(name)
            if isinstance(values, Range):
                inside = isinstance(value, int | float) and values.low <= value <= values.high
            else:
                inside = value in values
            if not inside:
                return None
            drawn[key] = value if isinstance(values, Range) else values.index(value)
        return drawn

    def key(self, inputs: TrainingInputs) -> str:
        """Stands for all but how many trials there are to be: two losses are compared on the same rows and code alone."""
        return fingerprint([self.model_dump(mode="json", exclude={"trials"}), inputs.source.key, inputs.rows_by_file,
                            code_digest(*CODE)])


def _section(schema: type[AnySection], name: str, values: dict[str, Any]) -> AnySection:
    """Raises ValueError that names the key."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, (name, *first["loc"])))
        near = difflib.get_close_matches(str(first["loc"][-1]), list(schema.model_fields), 1) if first["loc"] else []
        said = f"no such key; did you mean '{near[0]}'?" if near and first["type"] == "extra_forbidden" else first["msg"]
        raise ValueError(f"{key}: {said.removeprefix('Value error, ')}") from error


def run_search(file: Path, root: Path, processes: int | None = None) -> dict[str, Any]:
    """Runs what is left of the search below `root`/NAME; writes summary.json and returns it: the starting point, the best
    trial, its values as overrides for a job, and all trials, the best first, each with its values and its log loss and AUC
    on the validation window.

    A trial that ends in an error counts as tried. Raises ConfigError where Optuna is not installed, ClusterError where
    another process runs this search or one of its own is killed, ContractError where no trial came to its end.
    """
    _optuna()
    config = load_config(file, [], SearchConfig)
    folder = (root / file.stem).absolute()
    at_once, made = processes or os.cpu_count() or 1, provenance(f"umair search {file}")  # of the code as it is now
    with alone(folder), worker_processes(at_once, "the search's trials") as pool:
        inputs, data_root = open_training(config.numeric, config.week, folder)
        study, going = _open_study(config, config.key(inputs), folder), dict[str, Future[Path]]()

        def start(drawn: dict[str, Any]) -> Future[Path]:
            trial = Trial(*config.settings(drawn), inputs, data_root)
            if trial.key not in going:  # two that draw the same would train in one folder
                going[trial.key] = pool.submit(train_trial, trial, folder / "rankers", at_once)
            return going[trial.key]

        _fill(study, config, start, at_once)
        summary = {**made, **_summary(study, config)}
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1))
    return summary


def _open_study(config: SearchConfig, key: str, folder: Path) -> Any:
    """The study of this very search; trials that a kill left unfinished come first, with the same values."""
    optuna = _optuna()
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "trials.log")))
    others = [each for each in optuna.get_all_study_names(storage) if each != key]
    study = optuna.create_study(storage=storage, study_name=key, load_if_exists=True)
    if not study.trials:
        if others:
            log.info("search: other rows, space, settings or code than before, so a new search; earlier trials do not count")
        if config.start is None:
            log.info("search: the starting point lies outside the space, so it is not among the trials")
        else:
            study.enqueue_trial(config.start, user_attrs={"start": True})
    seed = np.random.SeedSequence([config.seed, len(study.trials)]).generate_state(1)[0]  # a later run draws what is new
    study.sampler = optuna.samplers.TPESampler(seed=int(seed), constant_liar=True)
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
    return study


def _fill(study: Any, config: SearchConfig, start: Any, at_once: int) -> None:
    """Keeps `at_once` trials going until there are `config.trials`."""
    running: list[tuple[Any, Future[Path]]] = []
    while _tried(study) + len(running) < config.trials or running:
        while len(running) < at_once and _tried(study) + len(running) < config.trials:
            trial = study.ask()
            running.append((trial, start({key: _draw(trial, key, values) for key, values in config.space.items()})))
        wait([future for _, future in running], return_when=FIRST_COMPLETED)
        for trial, future in [each for each in running if each[1].done()]:
            running.remove((trial, future))
            said = _tell(study, trial, future)
            log.info("search: %d of %d trials, %s: %s", _tried(study), config.trials, said, _values(config, trial.params))


def _tell(study: Any, trial: Any, future: Future[Path]) -> str:
    """Gives Optuna what came of a trial."""
    try:
        kept = _kept_epoch(read_facts(future.result()))
    except (UmairError, torch.OutOfMemoryError) as error:  # a rate at which training diverges is a finding, not an end
        trial.set_user_attr("error", str(error))
        study.tell(trial, state=_optuna().trial.TrialState.FAIL)
        return f"none: {error}"
    trial.set_user_attr("auc", kept["auc"])
    study.tell(trial, kept["log_loss"])
    return f"log loss {kept['log_loss']:.4f}"


def _tried(study: Any) -> int:
    """Trials that came to an end, good or bad; those that a kill left are tried again."""
    complete = _optuna().trial.TrialState.COMPLETE
    return sum(trial.state == complete or "error" in trial.user_attrs for trial in study.get_trials(deepcopy=False))


def _draw(trial: Any, key: str, values: list[Any] | Range) -> Any:
    if not isinstance(values, Range):
        return values[trial.suggest_int(key, 0, len(values) - 1)]  # by place: Optuna knows no lists among choices
    if values.whole:
        return trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
    return trial.suggest_float(key, values.low, values.high, log=values.log)


def _values(config: SearchConfig, drawn: dict[str, Any]) -> dict[str, Any]:
    """What `_draw` made of what Optuna drew."""
    return {key: drawn[key] if isinstance(values, Range) else values[drawn[key]] for key, values in config.space.items()}


def _kept_epoch(facts: dict[str, Any]) -> dict[str, float]:
    kept: dict[str, float] = facts["valid"][facts["rankers"][MAIN]["kept_epoch"] - 1]["rankers"][MAIN]
    return kept


def _summary(study: Any, config: SearchConfig) -> dict[str, Any]:
    done = study.get_trials(states=(_optuna().trial.TrialState.COMPLETE,))
    failed = [trial.user_attrs["error"] for trial in study.trials if "error" in trial.user_attrs]
    if not done:
        raise ContractError("the search", f"{len(failed)} trials, none of which came to its end", "one that does",
                            f"narrow the space; the first said: {failed[0]}")
    trials = [{"log_loss": round(trial.value, 5), "auc": trial.user_attrs["auc"],
               "values": _values(config, trial.params), "start": "start" in trial.user_attrs}
              for trial in sorted(done, key=lambda trial: trial.value)]
    overrides = [shlex.quote(f"{key}={_as_yaml(value)}") for key, value in trials[0]["values"].items()]
    return {"window": "valid", "trials": len(trials), "failed": len(failed),
            "start": next((trial for trial in trials if trial["start"]), None), "best": trials[0],
            "overrides": " ".join(overrides), "all": trials}


def _as_yaml(value: Any) -> str:
    """Without quotation marks where YAML needs none: within JSON they would be escaped, and not pasted as they are."""
    return value if isinstance(value, str) and yaml.safe_load(value) == value else json.dumps(value)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("umair search", "no optuna", "the package optuna", "pip install 'umair[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
