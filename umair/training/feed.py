"""Batches for several rankers from one reading of the files."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from umair.model.batch import Batch
from umair.model.ranker import Ranker
from umair.training.ahead import ahead
from umair.training.features import Features
from umair.training.lookup import COLUMNS, Lookup
from umair.training.reader import Rows, read_batches

Item = TypeVar("Item")
AHEAD = 2  # batches made while the present one is used


class Feed:
    """Reads rows, looks up what they point at, and hands every ranker its batch on `device`.

    Rankers that read alike (`Lookup.key`) get the same batch. `seconds` adds up, by phase: read and batch in the thread that
    works ahead, wait in the caller's.
    """

    def __init__(self, features: Features, rankers: dict[str, Ranker], device: str, *, resident: bool = False) -> None:
        self.lookups = {name: Lookup(features, ranker, device, resident=resident) for name, ranker in rankers.items()}
        self.device = device
        self.seconds = {"read": 0.0, "batch": 0.0, "wait": 0.0}

    def batches(self, rows_by_file: dict[str, int], sizes: list[int], *, order: tuple[int, ...] = (), pool: int = 0,
                skip: int = 0) -> Iterator[dict[str, Batch]]:
        """By ranker's name, batch after batch; arguments and errors are those of `read_batches` and `Lookup.batch`."""
        rows = read_batches(rows_by_file, COLUMNS, sizes, order=order, pool=pool, skip=skip)
        made = (self._make(each) for each in self._timed("read", rows))
        for batches in self._timed("wait", ahead(made, AHEAD)):
            yield {name: batch.to(self.device) for name, batch in batches.items()}

    def _make(self, rows: Rows) -> dict[str, Batch]:
        started = time.perf_counter()
        made: dict[str, Batch] = {}
        batches = {}
        for name, lookup in self.lookups.items():
            if lookup.key not in made:
                made[lookup.key] = lookup.batch(rows)
            batches[name] = made[lookup.key]
        self.seconds["batch"] += time.perf_counter() - started
        return batches

    def _timed(self, phase: str, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; adds the time spent waiting for them."""
        source = iter(items)
        while True:
            started = time.perf_counter()
            item = next(source, None)
            self.seconds[phase] += time.perf_counter() - started
            if item is None:
                return
            yield item
