"""Batches for several rankers from one reading of the files."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

from umair.model.batch import Batch
from umair.model.ranker import Ranker
from umair.training.ahead import ahead
from umair.training.features import Features
from umair.training.lookup import COLUMNS, lookups_of
from umair.training.reader import Rows, read_batches

Item = TypeVar("Item")
AHEAD = 2  # batches made while the present one is used, at the least
ROWS_AHEAD = 8_192  # small ones: as many as have so many rows together. A group of rows comes at once from its file, and a
#                     rank that waits for it keeps the others waiting
AT_ONCE = 1_024  # rows looked up together: small batches one by one would keep Python from the thread that trains


class Feed:
    """Reads rows, looks up what they point at, and hands every ranker its batch on `device`.

    Rankers that read alike (`Lookup.key`) get the same batch. `seconds` adds up, by phase: read and batch in the thread that
    works ahead, wait in the caller's.
    """

    def __init__(self, features: Features, rankers: dict[str, Ranker], device: str, *, resident: bool = False) -> None:
        self.lookups = lookups_of(features, rankers, device, resident=resident)
        self.device = device
        self.seconds = {"read": 0.0, "batch": 0.0, "wait": 0.0}

    def batches(self, rows_by_file: dict[str, int], sizes: list[int], *, order: tuple[int, ...] = (), pool: int = 0,
                skip: int = 0) -> Iterator[dict[str, Batch]]:
        """By ranker's name, batch after batch; arguments and errors are those of `read_batches` and `Lookup.batch`."""
        rows = read_batches(rows_by_file, COLUMNS, sizes, order=order, pool=pool, skip=skip)
        made = (batches for each in _gathered(self._timed("read", rows)) for batches in self._make(each))
        depth = max(AHEAD, ROWS_AHEAD // max(sizes, default=ROWS_AHEAD))
        for batches in self._timed("wait", ahead(made, depth)):
            yield batches if self.device == "cpu" else self._moved(batches)

    def _make(self, several: list[Rows]) -> list[dict[str, Batch]]:
        """The batches of consecutive `several`, looked up together and parted again."""
        started = time.perf_counter()
        rows = several[0] if len(several) == 1 else {
            name: np.concatenate([each[name] for each in several]) for name in several[0]}
        ends = np.cumsum([len(each["label"]) for each in several]).tolist()
        parts = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        made: dict[str, list[Batch]] = {}
        for lookup in self.lookups.values():
            if lookup.key not in made:
                batch = lookup.batch(rows)
                made[lookup.key] = [batch.rows(part) for part in parts] if len(parts) > 1 else [batch]
        self.seconds["batch"] += time.perf_counter() - started
        return [{name: made[lookup.key][place] for name, lookup in self.lookups.items()} for place in range(len(parts))]

    def _moved(self, batches: dict[str, Batch]) -> dict[str, Batch]:
        """On the device; a batch that several rankers share is moved once."""
        moved = {id(batch): batch.to(self.device) for batch in {id(batch): batch for batch in batches.values()}.values()}
        return {name: moved[id(batch)] for name, batch in batches.items()}

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


def _gathered(batches: Iterable[Rows]) -> Iterator[list[Rows]]:
    """Consecutive batches, as many as have AT_ONCE rows together."""
    held: list[Rows] = []
    for batch in batches:
        held.append(batch)
        if sum(len(each["label"]) for each in held) >= AT_ONCE:
            yield held
            held = []
    if held:
        yield held
