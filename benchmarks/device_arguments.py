"""What the benchmarks of one device are asked alike."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch


def device_parser(about: str | None, results: Path, seconds: float) -> argparse.ArgumentParser:
    """A parser with --device, --seconds and --out; `about` is the script's docstring."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=seconds, help="of timing for each case")
    parser.add_argument("--out", type=Path, default=results)
    return parser


def parsed(parser: argparse.ArgumentParser, results: Path) -> argparse.Namespace:
    """The arguments; ends the process where figures of a CPU would lie among those of GPUs."""
    given = parser.parse_args()
    if not given.device.startswith("cuda") and given.out == results:
        parser.error("without a GPU name --out: figures of a GPU lie where the results go otherwise")
    return given
