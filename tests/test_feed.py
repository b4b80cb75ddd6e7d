"""A feed looks several small batches up together; what a step sees is what it would have seen alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_site import Site, make_site

from umair.training import feed
from umair.training.checkpoint import load_ranker
from umair.training.lookup import Lookup
from umair.training.reader import count_rows

SIZES = [7, 7, 7, 5, 40, 1, 2]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Site:
    return make_site(tmp_path_factory.mktemp("site"))


def _fed(site: Site, monkeypatch: Any, at_once: int, **how: Any) -> list[dict[str, Any]]:
    monkeypatch.setattr(feed, "AT_ONCE", at_once)
    rankers = {name: load_ranker(Path(folder)) for name, folder in site.plan.rankers.items()}
    rows = count_rows(site.test_files)
    sizes = [*SIZES, sum(rows.values()) - sum(SIZES)]
    return list(feed.Feed(site.plan.open_features(), rankers, "cpu").batches(rows, sizes, order=(3,), pool=100, **how))


@pytest.mark.parametrize("at_once", [10, 30, 10_000])
def test_batches_looked_up_together_are_those_looked_up_alone(site, monkeypatch, at_once):
    alone, together = _fed(site, monkeypatch, 1), _fed(site, monkeypatch, at_once)
    assert [len(each["main"]) for each in together][:len(SIZES)] == SIZES
    for one, other in zip(alone, together, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            _same(one[name], other[name])
    assert together[0]["main"].catalogue.artist_I is together[-1]["main"].catalogue.artist_I  # one for all


def test_what_is_skipped_changes_nothing_of_what_follows(site, monkeypatch):
    whole, rest = _fed(site, monkeypatch, 20), _fed(site, monkeypatch, 20, skip=2)
    assert len(rest) == len(whole) - 2
    for one, other in zip(whole[2:], rest, strict=True):
        _same(one["main"], other["main"])


def test_small_batches_are_gathered_and_large_ones_are_not(site, monkeypatch):
    sizes: list[int] = []
    batch = Lookup.batch
    monkeypatch.setattr(Lookup, "batch", lambda self, rows: (sizes.append(len(rows["label"])), batch(self, rows))[1])
    _fed(site, monkeypatch, 20)
    assert sorted(set(sizes)) == sorted({7 + 7 + 7, 5 + 40, 1 + 2 + sum(count_rows(site.test_files).values()) - sum(SIZES)})


def test_as_many_small_batches_are_made_ahead_as_make_up_the_rows_to_have(site, monkeypatch):
    depths: list[int] = []
    monkeypatch.setattr(feed, "ahead", lambda items, depth: (depths.append(depth), iter(items))[1])
    rankers = {name: load_ranker(Path(folder)) for name, folder in site.plan.rankers.items()}
    rows = count_rows(site.test_files)
    for size in (16, 100):
        monkeypatch.setattr(feed, "ROWS_AHEAD", 64)
        sizes = [size] * (sum(rows.values()) // size)
        list(feed.Feed(site.plan.open_features(), rankers, "cpu").batches(rows, sizes))
    assert depths == [4, feed.AHEAD]


def _same(one: Any, other: Any) -> None:
    for name, value in one.__dict__.items():
        if name != "catalogue":
            for left, right in zip(*((each.values() if isinstance(each, dict) else [each]) for each in (value, getattr(other, name))),
                                   strict=True):
                assert torch.equal(left, right), name
