"""Space: table files and feature packs that only old weeks need are deleted, when a person asks for it, and what killed runs
have left that no run will take over.

Kept are the newest version of every table, the versions that steps and rankers of the last weeks name, and all encoders,
rankers, reports and ledger lines, which are small. Vectors of withdrawn pictures are gone from the disk afterwards, once no
kept week names a version that has them.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

from umair.storage import Store, read_facts
from umair.training.packing import FeatureSource


def tidy(store: Store, weeks: int, features: Path, *, delete: bool) -> dict[str, Any]:
    """What can go when the last `weeks` weeks of the ledger are kept; `delete` lets it go. `features` holds the packs.

    Returns weeks (kept), files, packs, unfinished and bytes. Raises ClusterError while another run writes to the root.
    """
    with store.sole_writer():
        kept = store.weeks()[-weeks:]
        sources = [FeatureSource(**read_facts(folder)["features"]) for week in kept
                   for folder in store.model_folder("rankers", week).glob("*") if (folder / "facts.json").is_file()]
        versions: dict[str, set[int]] = defaultdict(set)
        for named in [*(step.outputs.get("versions", {}) for week in kept for step in store.steps_of(week)),
                      *(source.versions for source in sources)]:
            for name, version in named.items():
                versions[name].add(version)
        files = [file for name in store.tables() for file in store.files_beyond(name, versions[name])]
        packs = [facts.parent for facts in features.glob("*/facts.json")
                 if facts.parent.name not in {source.key for source in sources}]
        unfinished = _never_taken_over(store)
        inside = [one for folder in [*packs, *unfinished] for one in folder.rglob("*") if one.is_file()]
        said = {"weeks": kept, "files": len(files), "packs": len(packs), "unfinished": len(unfinished), "deleted": delete,
                "bytes": sum(file.stat().st_size for file in [*files, *inside])}
        if delete:
            _delete(files, [*packs, *unfinished])
    return said


def _never_taken_over(store: Store) -> list[Path]:
    """Folders of unfinished work after which their step has finished: with another encoder, or all but the clearing up."""
    found = []
    for folder in store.root.glob("unfinished/*/*"):
        finished = store.all_finished(folder.parent.name)
        if finished and max(one.stat().st_mtime for one in [folder, *folder.rglob("*")]) < finished[-1].finished_at:
            found.append(folder)
    return found


def _delete(files: list[Path], folders: list[Path]) -> None:
    for file in files:
        file.unlink()
        for beside in file.parent.glob(f".{file.name}.crc"):
            beside.unlink()
    for folder in folders:
        shutil.rmtree(folder)
