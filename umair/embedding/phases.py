"""Seconds and rates of an embedding run, for its ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import Column
from pyspark.sql import functions as F

EARLIER = -1  # stands for the partitions of runs that were killed


def sums_of(phases: Sequence[str]) -> list[Column]:
    """Of each phase, the sum of its column PHASE_seconds; 0 where a killed run of an earlier version did not time it."""
    return [F.sum(F.coalesce(f"{phase}_seconds", F.lit(0.0))).alias(phase) for phase in phases]


def seconds_of(by_partition: Mapping[str, Mapping[int, float]], phases: Sequence[str]) -> dict[str, float]:
    """Of each phase, the seconds of all partitions together. `by_partition` is {rows or a phase: {partition: its sum}}."""
    return {phase: round(sum(by_partition[phase].values()), 3) for phase in phases}


def phases_and_rates(by_partition: Mapping[str, Mapping[int, float]], what: str) -> list[dict[str, float]]:
    """Of each partition that was made now, its rows, its seconds in each phase and `what`_per_second of its task."""
    partitions = [{name: sums[partition] for name, sums in by_partition.items()}
                  for partition in sorted(by_partition["rows"]) if partition != EARLIER]
    return [{**{name: round(value, 3) for name, value in each.items()},
             f"{what}_per_second": round(each["rows"] / each["task"], 3)} for each in partitions]
