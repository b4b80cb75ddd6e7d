"""The page of every configuration key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from umair.config import Section
from umair.keys import keys_page

ROOT = Path(__file__).parents[1]


def test_the_page_of_keys_is_up_to_date():
    said = subprocess.run([sys.executable, "-c", "from umair.cli import main; main(['keys'])"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs/keys.md").read_text("utf-8") == said, "run make docs"


def test_the_page_of_keys_says_what_each_takes():
    class Inner(Section):
        """A group. Raises nothing."""
        share: float = Field(0.5, ge=0, lt=1)  # of rows
        #                                        and of users

    class Outer(Section):
        """All."""
        inner: Inner = Inner()
        more: dict[str, Inner] = Field({})  # name -> another
        kind: Literal["a", "b"] = "a"
        least: int | None = Field(None, gt=1_000)  # None: any
        sizes: tuple[Annotated[int, Field(gt=2)], ...] = (3,)

    page = keys_page({"File": ("A file.", Outer)}, {"one": {"share": 0.1}, "two": {"share": 0.2}})
    for line in ("| `kind` | `a`, `b` | `a` |  |", "| `least` | whole number above 1,000 or null | `null` | null: any |",
                 "### inner", "A group.", "| `share` | number from 0, below 1 | `0.5` | of rows and of users |",
                 "| `inner` | [inner](#inner) |  |  |",
                 "| `more` | names, each with [inner](#inner) |  | name -> another |", "| `sizes` | list: whole number above 2 | `[3]` |  |", "| key | `one` | `two` |", "| `share` | `0.1` | `0.2` |"):
        assert line in page.splitlines()
    assert page.count("Raises") == 0
