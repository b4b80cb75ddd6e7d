"""Runs experiments: every ranker with every seed, several processes at once, each trial made only once.

    umair experiments conf/experiments/numeric.yaml [...]

Below runs/experiments/NAME lie world/, trials/KEY/ and summary.json. A run that was killed goes on where it stopped.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from umair.config import load_config
from umair.errors import ConfigError, StorageError, UmairError
from umair.experiments.config import ExperimentConfig
from umair.experiments.data import Data, open_data
from umair.experiments.summary import summarise
from umair.experiments.trial import Outcome, Trial, run_trial
from umair.storage import write_atomically

log = logging.getLogger("umair")
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


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
    count = processes or os.cpu_count() or 1
    found = {file.stem: run_experiment(file, root.absolute() / file.stem, count, overrides) for file in files}
    known = json.loads((root / "summary.json").read_text(encoding="utf-8")) if (root / "summary.json").is_file() else {}
    write_atomically(root / "summary.json", json.dumps({**known, **found}, indent=1))
    return found


def run_experiment(file: Path, folder: Path, processes: int, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Runs one experiment; `folder`/summary.json gets what `summarise` finds, with the claim. One at a time in a folder."""
    config = load_config(file, overrides, ExperimentConfig)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        data = open_data(config, folder)
        outcomes = _outcomes(config, data, folder / "trials", processes)
        published = {name: each.model_dump() for name, each in config.published.items()}
        said = {"claim": config.claim, "called": config.called, "seeds": list(config.seeds), "published": published}
        summary = {**said, **summarise(data, outcomes)}
        write_atomically(folder / "summary.json", json.dumps(summary, indent=1))
    return summary


def _outcomes(config: ExperimentConfig, data: Data, folder: Path, processes: int) -> dict[str, list[Outcome]]:
    trials = {(name, seed): Trial(ranker, config.training.model_copy(update={"seed": seed}), data.inputs, data.root)
              for seed in config.seeds for name, ranker in config.rankers.items()}
    places: dict[tuple[str, int], Path] = {}
    with trial_processes(processes) as pool:
        waiting = {pool.submit(run_trial, trial, folder, processes): key for key, trial in trials.items()}
        for done in as_completed(waiting):
            name, seed = waiting[done]
            try:
                places[name, seed] = done.result()
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)  # else the failure would be said after all the others
                log.error("experiment: the trial of %s with seed %d failed", name, seed)
                if isinstance(error, UmairError):
                    raise _named(error, name, seed) from error
                raise
            log.info("experiment: %d of %d trials, %s with seed %d", len(places), len(trials), name, seed)
    return {name: [Outcome.of(places[name, seed]) for seed in config.seeds] for name in config.rankers}


def _named(error: UmairError, ranker: str, seed: int) -> UmairError:
    """The error with the experiment's name for its ranker: in a trial every one is 'main'."""
    return type(error)(f"trial of '{ranker}' with seed {seed}: {error.where}", error.found, error.expected, error.do)


def trial_processes(count: int) -> ProcessPoolExecutor:
    """Processes for trials. They end with their parent, even one that was killed: its trials are made again by the next run,
    and two must not train in one folder."""
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Raises StorageError when another process runs the experiment or search in `folder`: two would train in one place."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(str(folder), "another process that runs this experiment or search", "one at a time",
                               "wait for it, or choose another --out") from error
        yield
