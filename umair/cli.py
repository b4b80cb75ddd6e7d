"""`umair`: the commands that need no cluster. The weekly steps are spark-submit jobs, see jobs/."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from umair.errors import UmairError


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and ends the process: 0 fine, 2 bad input, 4 surroundings (`umair/errors.py`)."""
    given = _parser().parse_args(arguments)
    try:
        commands = {"doctor": _doctor, "world": _world, "tables": _tables, "params": _params, "tidy": _tidy,
                    "experiments": _experiments, "search": _search, "keys": _keys}
        code = commands[given.command](given)
    except UmairError as error:
        print(f"umair {given.command}: {error}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code)


class _Parser(argparse.ArgumentParser):
    """Options are written out: a slip of the pen starts no work."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="umair", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    commands.add_parser("doctor", help="versions, what is missing or known to break, and the way out")
    world = commands.add_parser("world", help="draw a world: pictures, users, events, and the truth behind them")
    world.add_argument("--config", required=True, help="YAML file with a `world:` section, for example conf/local.yaml")
    world.add_argument("--out", help="folder to write; default: raw.folder of the configuration")
    world.add_argument("--workers", type=int, default=None, help="processes that draw; default: all cores")
    world.add_argument("overrides", nargs="*", metavar="section.key=value")
    commands.add_parser("params", help="weights of the paper's rankers and ablations beside the paper's counts, as JSON")
    tidy = commands.add_parser("tidy", help="what only old weeks need, and what killed runs left for nobody")
    tidy.add_argument("--config", required=True)
    tidy.add_argument("--weeks", type=int, default=8, help="the last weeks of the ledger whose versions stay; default: 8")
    tidy.add_argument("--delete", action="store_true", help="delete them; without it they are only counted")
    tidy.add_argument("overrides", nargs="*", metavar="section.key=value")
    experiments = commands.add_parser("experiments", help="rankers compared on the same rows, with several seeds")
    experiments.add_argument("files", nargs="+", metavar="FILE or section.key=value", help="for example "
                             "conf/experiments/numeric.yaml training.device=cuda; a change holds for every file")
    experiments.add_argument("--out", type=Path, default=Path("runs/experiments"), help="folder; default: runs/experiments")
    experiments.add_argument("--page", type=Path, help="evidence page, with its JSON beside it; default: page.md in --out")
    experiments.add_argument("--processes", type=_count, default=None, help="trials at once; default: all cores")
    search = commands.add_parser("search", help="hyper-parameters tried on the validation window, with Optuna")
    search.add_argument("file", type=Path, help="for example conf/search/demo.yaml")
    search.add_argument("--out", type=Path, default=Path("runs/search"), help="folder; default: runs/search")
    search.add_argument("--processes", type=_count, default=None, help="trials at once; default: all cores")
    commands.add_parser("tables", help="every table's columns and rules as Markdown")
    commands.add_parser("keys", help="every key of the configurations as Markdown")
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a number from 1 on")
    return int(text)


def _experiments(given: argparse.Namespace) -> int:
    from umair.errors import ConfigError
    from umair.experiments.page import headline, page_text, write_page
    from umair.experiments.run import run_experiments
    from umair.job import start_logging
    from umair.storage import write_atomically

    start_logging()
    files = [Path(word) for word in given.files if "=" not in word]
    if not files:
        raise ConfigError("umair experiments", "no file", "one or more, as conf/experiments/numeric.yaml", "name one")
    found = run_experiments(files, given.out, given.processes, [word for word in given.files if "=" in word])
    words = " ".join(given.files)
    if given.page:
        write_page(found, given.page, f"umair experiments {words} --page {given.page}")
    else:
        page = given.out / "page.md"
        write_atomically(page, page_text(found, f"Written by `umair experiments {words}`."))
        print(json.dumps({"summary": str(given.out / "summary.json"), "page": str(page), **headline(found)}))
    return 0


def _search(given: argparse.Namespace) -> int:
    from umair.experiments.search import run_search
    from umair.job import start_logging

    start_logging()
    summary = run_search(given.file, given.out, given.processes)
    file = given.out / given.file.stem / "summary.json"
    print(json.dumps({"summary": str(file), **{name: value for name, value in summary.items() if name != "all"}}))
    return 0


def _doctor(_: argparse.Namespace) -> int:
    from umair.doctor import doctor

    return doctor()


def _world(given: argparse.Namespace) -> int:
    import os

    from umair.config import load_config
    from umair.job import Config
    from umair.world.draw import draw_world

    config = load_config(given.config, given.overrides, Config)
    out = Path(given.out or config.raw.folder)
    facts = draw_world(config.world, out, workers=given.workers or os.cpu_count() or 1)
    print(json.dumps(facts))
    return 0


def _tidy(given: argparse.Namespace) -> int:
    from umair.config import load_config
    from umair.errors import ConfigError
    from umair.job import Config
    from umair.storage import Store
    from umair.tidy import tidy

    if given.weeks < 1:
        raise ConfigError("--weeks", str(given.weeks), "1 or more", "keep at least the last week")
    config = load_config(given.config, given.overrides, Config)
    store = Store(config.root)
    if not store.weeks():
        raise ConfigError(f"root {store.root}", "no week that was run", "steps/WEEK, as every run leaves them",
                          "check `root` of the configuration")
    print(json.dumps(tidy(store, given.weeks, config.training.feature_folder(store.root), delete=given.delete)))
    return 0


def _params(_: argparse.Namespace) -> int:
    from umair.parameters import parameter_table

    print(json.dumps(parameter_table()))
    return 0


def _keys(_: argparse.Namespace) -> int:
    from umair.experiments.config import ExperimentConfig
    from umair.experiments.search import SearchConfig
    from umair.job import Config
    from umair.keys import keys_page
    from umair.model.presets import PRESETS

    print(keys_page({
        "A weekly run": ("`conf/local.yaml` and its like. `base: FILE` lays a file over another; `section.key=value` on the "
                         "command line counts more than files.", Config),
        "An experiment": ("`conf/experiments/*.yaml`, for `umair experiments`.", ExperimentConfig),
        "A search": ("`conf/search/*.yaml`, for `umair search`.", SearchConfig)}, PRESETS), end="")
    return 0


def _tables(_: argparse.Namespace) -> int:
    from umair import schema
    from umair.tables.ingest import EVENT_RULES

    rules = ", ".join(f"`{rule}`" for rule in EVENT_RULES)
    print(f"""# Tables

Generated from `umair/schema.py` by `make docs`. *Handed over* are a site's own: a row that breaks a rule goes to
`ingest_rejects`. Beside the rules that are listed, a value that cannot be read breaks `COLUMN_parses`, a line that cannot be
taken apart `line_parses`, a second row of one key `duplicate_key` (of events `duplicate_event`), and an event may break
{rules}. Bytes are base64 in JSON and CSV.""")
    tables = [value for value in vars(schema).values() if isinstance(value, schema.Table)]
    for table in tables:
        kind = "handed over: " if table in schema.RAW_TABLES else ""
        print(f"\n## {kind}{table.name}\n\n{table.about}. Key: {', '.join(f'`{name}`' for name in table.key)}.\n")
        print("| column | type |\n|---|---|")
        for name, kind in table.column_types.items():
            print(f"| `{name}` | {kind} |")
        for rule, sql in table.rules.items():
            print(f"\n- rule `{rule}`: `{sql}`")
    return 0
