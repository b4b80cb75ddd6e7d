"""Errors that a user can act on: where, what was found, what was expected, what to do."""

from __future__ import annotations

import re

DEFECT, BAD_INPUT, SURROUNDINGS = 1, 2, 4  # exit codes: a fault of the program; input or configuration that most likely
#                                            somebody must mend; machines, so that the same line may do later


class UmairError(Exception):
    """Bad input, configuration or surroundings. Jobs print it without a traceback and exit with `exit_code`."""

    exit_code = BAD_INPUT

    def __init__(self, where: str, found: str, expected: str, do: str) -> None:
        self.where, self.found, self.expected, self.do = where, found, expected, do
        super().__init__(f"{where}: found {found}; expected {expected}. What to do: {do}")

    def __reduce__(self) -> tuple[type[UmairError], tuple[str, str, str, str]]:
        return type(self), (self.where, self.found, self.expected, self.do)  # crosses process borders whole


class ConfigError(UmairError):
    """A configuration file or an override that cannot be used."""


class ContractError(UmairError):
    """Data that breaks the raw contract or a table's promise."""


class StorageError(UmairError):
    """A table, snapshot or model folder that is missing, damaged or cannot be written."""

    exit_code = SURROUNDINGS


class ClusterError(UmairError):
    """Surroundings that cannot carry the job: Java, slots, ranks, devices, disk, another run."""

    exit_code = SURROUNDINGS


def error_in(text: str) -> UmairError | None:
    """The error of ours that a text names, as Spark and Horovod hand on what a worker raised; None where there is none."""
    named = re.search(r"umair\.errors\.(\w+): (.+?): found (.+?); expected (.+?)\. What to do: (.+)", text)
    if named is None:
        return None
    kinds: dict[str, type[UmairError]] = {kind.__name__: kind for kind in UmairError.__subclasses__()}
    return kinds.get(named[1], UmairError)(named[2], named[3], named[4], named[5].strip())
