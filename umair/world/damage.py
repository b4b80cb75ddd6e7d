"""Damage at stated rates: broken pictures, catalogue rows that break the contract, and events that no site should log.

Broken events and catalogue rows are added to the clean ones and never replace them, so the truth stays whole.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umair.world.config import DamageConfig, WorldConfig
from umair.world.factors import Ints

PICTURE_KINDS = ("truncated_picture", "html_picture", "empty_picture", "huge_picture", "missing_picture")
CATALOGUE_KINDS = ("absurd_size", "path_leaves_root")
EVENT_KINDS = ("duplicate_event", "unknown_user", "unknown_illustration", "broken_time", "unknown_kind", "null_id")
EVENT_NAMES = ("view", "bookmark", "like")  # the last is no kind that the contract knows
BROKEN_TIMES = ("not a date", "0000-00-00", "9999-12-31T23:59:59Z")
FINE, NULL_ID = -1, 0  # no broken time; an id to be written as null
UNKNOWN_USERS, UNKNOWN_ILLUSTRATIONS = 7_000_000_000, 8_000_000_000  # ids from here on are in no table
_HTML = b"<!DOCTYPE html>\n<html><head><title>503</title></head><body><h1>Service Unavailable</h1></body></html>\n"
HUGE_SIDE = 40_000  # pixels


@dataclass(frozen=True)
class EventRows:
    """R rows of the event log as numbers."""

    user_id: Ints  # [R] 0 = null
    illust_id: Ints  # [R] 0 = null
    kind: NDArray[np.int8]  # [R] by EVENT_NAMES
    at: Ints  # [R] seconds since 1970
    broken: NDArray[np.int8]  # [R] by BROKEN_TIMES, -1 = `at` holds

    def __len__(self) -> int:
        return len(self.at)

    def taken(self, rows: Ints) -> EventRows:
        """A copy of the given rows, in that order."""
        return EventRows(self.user_id[rows], self.illust_id[rows], self.kind[rows], self.at[rows], self.broken[rows])


def damage_counts(config: WorldConfig, clean_events: int) -> dict[str, int]:
    """How many of each kind: its rate times the clean rows of its table, at least one when the rate is above zero."""
    rows = {**dict.fromkeys(PICTURE_KINDS + CATALOGUE_KINDS, config.illustrations),
            **dict.fromkeys(EVENT_KINDS, clean_events)}
    rates = config.damage.model_dump()
    return {kind: max(1, round(rates[kind] * rows[kind])) if rates[kind] > 0 else 0 for kind in DamageConfig.model_fields}


def choose_pictures(config: WorldConfig, counts: dict[str, int]) -> NDArray[np.int8]:
    """[N] which damage each picture suffers, by PICTURE_KINDS, -1 = none."""
    rng = np.random.default_rng([config.seed, 5])
    kinds = np.repeat(np.arange(len(PICTURE_KINDS)), [counts[kind] for kind in PICTURE_KINDS])
    damage = np.full(config.illustrations, FINE, np.int8)
    damage[rng.permutation(config.illustrations)[:len(kinds)]] = kinds
    return damage


def broken_picture(kind: int, jpeg: bytes) -> bytes | None:
    """The bytes of the damaged file, or None where there is to be no file."""
    name = PICTURE_KINDS[kind]
    return {"truncated_picture": jpeg[:len(jpeg) // 2], "html_picture": _HTML, "empty_picture": b"",
            "huge_picture": _huge_png(), "missing_picture": None}[name]


def _huge_png() -> bytes:
    """Less than 100 bytes that claim to hold 1.6 thousand million pixels."""
    header = struct.pack(">IIBBBBB", HUGE_SIDE, HUGE_SIDE, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 8)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks)


def broken_catalogue_rows(rows: list[dict[str, Any]], counts: dict[str, int]) -> list[dict[str, Any]]:
    """Rows to add to the catalogue, made from the clean `rows` given, with ids of their own that no event mentions."""
    broken = []
    total = counts["absurd_size"] + counts["path_leaves_root"]
    for number in range(total):
        row = dict(rows[number % len(rows)], illust_id=UNKNOWN_ILLUSTRATIONS - 1 - number)
        if number < counts["absurd_size"]:
            row |= {"width": 0} if number % 2 == 0 else {"height": -1}
        else:
            row["image"] = "../../outside/" + row["image"]
        broken.append(row)
    return broken


def with_broken_events(config: WorldConfig, clean: EventRows, counts: dict[str, int]) -> EventRows:
    """The clean rows and the broken ones among them, each beside the clean row that it was made from."""
    rng = np.random.default_rng([config.seed, 6])
    total = sum(counts[kind] for kind in EVENT_KINDS)
    source = np.concatenate([rng.choice(len(clean), total, replace=False), np.arange(len(clean))])
    rows = clean.taken(source)
    first = 0
    for kind in EVENT_KINDS:
        _break_events(kind, rows, np.arange(first, first + counts[kind]), rng)
        first += counts[kind]
    return rows.taken(np.argsort(source, kind="stable"))


def _break_events(kind: str, rows: EventRows, which: Ints, rng: np.random.Generator) -> None:
    if kind == "unknown_user":
        rows.user_id[which] = UNKNOWN_USERS + rng.integers(0, 1000, len(which))
    elif kind == "unknown_illustration":
        rows.illust_id[which] = UNKNOWN_ILLUSTRATIONS + rng.integers(0, 1000, len(which))
    elif kind == "broken_time":
        rows.broken[which] = np.arange(len(which)) % len(BROKEN_TIMES)
    elif kind == "unknown_kind":
        rows.kind[which] = EVENT_NAMES.index("like")
    elif kind == "null_id":
        rows.user_id[which[::2]] = NULL_ID
        rows.illust_id[which[1::2]] = NULL_ID
