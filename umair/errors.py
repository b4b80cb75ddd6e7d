"""Errors that a user can act on: where, what was found, what was expected, what to do."""

from __future__ import annotations


class UmairError(Exception):
    """Bad input, configuration or surroundings. Jobs print it without a traceback and exit with 2."""

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


class ClusterError(UmairError):
    """Surroundings that cannot carry the job: Java, slots, ranks, devices, disk."""
