"""Runs experiments: every ranker with every seed, several processes at once, each trial made only once.

    umair experiments conf/experiments/numeric.yaml [...]

Below runs/experiments/NAME lie world/, trials/KEY/ and summary.json. A run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from umair.config import load_config
from umair.errors import ConfigError, StorageError, UmairError
from umair.evidence import provenance
from umair.experiments.config import ExperimentConfig
from umair.experiments.data import Data, open_data
from umair.experiments.summary import summarise
from umair.experiments.trial import Outcome, Trial, run_trial
from umair.processes import worker_processes
from umair.storage import locked, write_atomically

log = logging.getLogger("umair")


def run_experiments(files: list[Path], root: Path, processes: int | None = None, overrides: Sequence[str] = ()
                    ) -> dict[str, Any]:
    """Runs each experiment below `root`/NAME; writes what was found into `root`/summary.json, by NAME, beside those of
    earlier runs, and returns it. `overrides`, section.key=value, change every one of them."""
    names = [file.stem for file in files]
    if len(set(names)) < len(names):
        raise ConfigError("umair experiments", f"two files named {max(names, key=names.count)}.yaml", "a name for each: it "
                          "names the folder of the results", "rename one")
    for file in files:
        load_config(file, overrides, ExperimentConfig)  # a mistake in the last file is said before the first one trains
    _summaries(root / "summary.json")  # likewise
    count = processes or os.cpu_count() or 1
    found = {file.stem: run_experiment(file, root.absolute() / file.stem, count, overrides) for file in files}
    write_atomically(root / "summary.json", json.dumps({**_summaries(root / "summary.json"), **found}, indent=1))
    return found


def _summaries(file: Path) -> dict[str, Any]:
    """What earlier runs found, by experiment."""
    try:
        known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise StorageError(str(file), f"text that is not JSON ({error})", "what an earlier run wrote",
                           "remove it: it is written anew, of the experiments that are run") from error
    return known


def run_experiment(file: Path, folder: Path, processes: int, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Runs one experiment; `folder`/summary.json gets what `summarise` finds, with the claim and of which commit it is. One
    at a time in a folder."""
    config = load_config(file, overrides, ExperimentConfig)
    with alone(folder):
        made = provenance(" ".join(["umair experiments", str(file), *overrides]))  # now: the checkout may change meanwhile
        data = open_data(config, folder)
        outcomes = _outcomes(config, data, folder / "trials", processes)
        published = {name: each.model_dump() for name, each in config.published.items()}
        said = {"claim": config.claim, "called": config.called, "seeds": list(config.seeds), "published": published}
        summary = {**said, "made": made, **summarise(data, outcomes)}
        write_atomically(folder / "summary.json", json.dumps(summary, indent=1))
    return summary


def _outcomes(config: ExperimentConfig, data: Data, folder: Path, processes: int) -> dict[str, list[Outcome]]:
    trials = {(name, seed): Trial(ranker, config.training.model_copy(update={"seed": seed}), data.inputs, data.root)
              for seed in config.seeds for name, ranker in config.rankers.items()}
    places: dict[tuple[str, int], Path] = {}
    with worker_processes(processes, "the experiment's trials") as pool:
        waiting = {pool.submit(run_trial, trial, folder, processes): key for key, trial in trials.items()}
        for done in as_completed(waiting):
            name, seed = waiting[done]
            try:
                places[name, seed] = done.result()
            except BrokenProcessPool:  # said of all that were not finished: which one was killed is not known
                raise
            except Exception as error:
                log.error("experiment: the trial of %s with seed %d failed", name, seed)
                if isinstance(error, UmairError):
                    raise _named(error, name, seed) from error
                raise
            log.info("experiment: %d of %d trials, %s with seed %d", len(places), len(trials), name, seed)
    return {name: [Outcome.of(places[name, seed]) for seed in config.seeds] for name in config.rankers}


def _named(error: UmairError, ranker: str, seed: int) -> UmairError:
    """The error with the experiment's name for its ranker: in a trial every one is 'main'."""
    return type(error)(f"trial of '{ranker}' with seed {seed}: {error.where}", error.found, error.expected, error.do)


def alone(folder: Path) -> AbstractContextManager[None]:
    """One experiment or search at a time in a folder, which is made where it is missing: two would train in one place.
    Raises ClusterError while another process has it, StorageError where nothing can be written."""
    return locked(folder / "lock", str(folder), "another process that runs this experiment or search")
