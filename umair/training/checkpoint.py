"""Rankers and half-trained rankers as folders of safetensors and JSON. Nothing is pickled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from umair.baselines.rivals import RIVALS
from umair.errors import ContractError, StorageError
from umair.model.ranker import Ranker, RankerConfig, UmairRanker
from umair.storage import read_facts, write_folder

KEPT = 2  # newest checkpoints of a run
LAYOUT = 2  # of a run's checkpoints; those of another one are not taken up
WEIGHTS, CONFIG = "weights.safetensors", "config.json"


def build_ranker(config: RankerConfig, widths: dict[str, int]) -> Ranker:
    """A fresh ranker of the config's form. `widths` are those of the semantic, style and text vectors."""
    return (UmairRanker if config.form == "umair" else RIVALS[config.form])(config, widths)


def save_ranker(folder: Path, ranker: Ranker, config: RankerConfig, widths: dict[str, int]) -> None:
    """Writes weights.safetensors and config.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _save_tensors(folder / WEIGHTS, ranker.state_dict())
    text = json.dumps({"ranker": config.model_dump(mode="json"), "widths": widths}, indent=1, sort_keys=True)
    (folder / CONFIG).write_text(text, encoding="utf-8")


def load_ranker(folder: Path) -> Ranker:
    """The ranker of a folder, on the CPU and in evaluation mode.

    Raises StorageError for a missing or damaged file, ContractError when weights and config do not belong together.
    """
    try:
        said = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
        ranker = build_ranker(RankerConfig(**said["ranker"]), said["widths"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(str(folder), f"no usable {CONFIG} ({error})", "a folder that train_ranker wrote",
                           "run jobs/train_ranker.py again") from error
    load_weights(ranker, _load_tensors(Path(folder) / WEIGHTS), str(folder))
    return ranker.eval()


def load_weights(module: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Puts weights into a module of the same architecture. Raises ContractError that names the keys that differ."""
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    differing = [f"{name} {given.get(name, 'missing')} instead of {own.get(name, 'nothing')}"
                 for name in sorted(own.keys() | given.keys()) if own.get(name) != given.get(name)]
    if differing:
        raise ContractError(where, f"weights of another architecture: {'; '.join(differing[:8])}"
                            + (f"; {len(differing) - 8} more" if len(differing) > 8 else ""),
                            "the keys and shapes of the configured ranker", "train again, or use the config that made them")
    module.load_state_dict(weights)


@dataclass(frozen=True)
class Position:
    """How far a run has come: `step` steps of `epoch` are done."""

    epoch: int = 0
    step: int = 0


class Checkpoints:
    """The checkpoints of one run, step-NNNNNNNN folders below `folder`/`key`; `key` stands for all it depends on.

    Beside them, best/NAME/EPOCH, stand each ranker's weights after its best epoch so far, and until the next checkpoint
    after the one before: killed in between, a run goes on from where that was the best. A checkpoint holds each ranker's
    weights and optimiser state, the position and whatever facts the run keeps. Random state needs no file: dropout masks
    and the order of rows are functions of (seed, epoch, step, rank).
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.all_runs, self.folder = folder, folder / key

    def save(self, done: int, position: Position, facts: dict[str, Any],
             parts: dict[str, tuple[nn.Module, torch.optim.Optimizer]], best: Mapping[str, int] | None = None) -> None:
        """Writes the checkpoint after `done` steps in all, atomically; drops the oldest beyond KEPT and other runs', and by
        ranker's name the weights of epochs that are not its `best`."""
        def write(folder: Path) -> dict[str, Any]:
            groups = {name: _save_part(folder / name, *part) for name, part in parts.items()}
            return {"position": vars(position), "groups": groups, "facts": facts}

        after = int(self.newest.name.removeprefix("step-")) + 1 if self.newest else 0  # fewer ranks may count fewer steps
        write_folder(self.folder / f"step-{max(done, after):08d}", write)
        for old in self._whole()[:-KEPT]:
            shutil.rmtree(old)
        for other in set(self.all_runs.iterdir()) - {self.folder}:
            shutil.rmtree(other)
        for name, epoch in (best or {}).items():
            for worse in set(self.folder.glob(f"best/{name}/*")) - {self._best(name, epoch)}:
                shutil.rmtree(worse)

    def _best(self, name: str, epoch: int) -> Path:
        return self.folder / "best" / name / str(epoch)

    def keep_best(self, name: str, epoch: int, module: nn.Module) -> None:
        """Keeps a ranker's present weights as those after its best epoch."""
        write_folder(self._best(name, epoch), lambda folder: _save_weights(folder, module))

    def restore_best(self, name: str, epoch: int, module: nn.Module) -> None:
        """Puts a ranker's weights after its best epoch into it. Raises StorageError when they are lost."""
        folder = self._best(name, epoch)
        load_weights(module, _load_tensors(folder / WEIGHTS), str(folder))

    def load(self, parts: dict[str, tuple[nn.Module, torch.optim.Optimizer]]) -> tuple[Position, dict[str, Any]] | None:
        """Puts the newest checkpoint into modules and optimisers; None when there is none of this run's key.

        Raises ContractError that names the differing keys for weights of another architecture.
        """
        if self.newest is None:
            return None
        folder, said = self.newest, read_facts(self.newest)
        for name, (module, optimizer) in parts.items():
            load_weights(module, _load_tensors(folder / name / WEIGHTS), f"{folder}/{name}")
            state = _unflatten(_load_tensors(folder / name / "optimizer.safetensors"))
            optimizer.load_state_dict({"state": state, "param_groups": said["groups"][name]})
        return Position(**said["position"]), said["facts"]

    def remove(self) -> None:
        """Deletes them all, once the rankers themselves are written."""
        shutil.rmtree(self.all_runs, ignore_errors=True)

    @property
    def newest(self) -> Path | None:
        whole = self._whole()
        return whole[-1] if whole else None

    def _whole(self) -> list[Path]:
        return sorted(path.parent for path in self.folder.glob("step-*/facts.json"))


def _save_weights(folder: Path, module: nn.Module) -> dict[str, Any]:
    _save_tensors(folder / WEIGHTS, module.state_dict())
    return {}


def _save_part(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Writes one ranker's weights and optimiser state; returns the optimiser's settings, which are plain values."""
    folder.mkdir()
    said = optimizer.state_dict()
    _save_tensors(folder / WEIGHTS, module.state_dict())
    _save_tensors(folder / "optimizer.safetensors", {f"{parameter}.{name}": torch.as_tensor(value)
                                                     for parameter, state in said["state"].items()
                                                     for name, value in state.items()})
    groups: list[dict[str, Any]] = said["param_groups"]
    return groups


def _unflatten(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        parameter, name = key.split(".", 1)
        state.setdefault(int(parameter), {})[name] = tensor
    return state


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except (OSError, SafetensorError) as error:
        raise StorageError(str(path), f"a write that failed ({error})", "a writable folder with free space",
                           "free some space, then run again") from error


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StorageError(str(path), f"no readable weights ({error})", "a whole safetensors file",
                           "train again, or restore the folder") from error
    return tensors
