"""Packed features: everything that a window row points at, memory-mapped. I illustrations, D width, C of compact vectors."""

from __future__ import annotations

import copy
import fcntl
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from umair.errors import StorageError
from umair.model.batch import VECTOR_MODALITIES
from umair.model.compact import axes_key
from umair.neighbours import NearestIllustrations
from umair.storage import Store, read_facts, write_folder
from umair.training.packing import FeatureSource, pack

__all__ = ["FeatureSource", "Features", "pack_features"]
Array = npt.NDArray[Any]
BLOCK = 65_536  # illustrations whose compact vectors are computed at once


def pack_features(store: Store, source: FeatureSource, folder: Path) -> Features:
    """Opens the pack of `source` below `folder` (see `packing.pack`), making it first unless this node has it.

    Raises what `packing.pack` raises; StorageError when the disk is full.
    """
    target = folder / source.key
    with _alone(folder / f"{source.key}.lock"):
        if not (target / "facts.json").is_file():
            try:
                write_folder(target, lambda temporary: pack(store, source, temporary))
            except OSError as error:
                raise _no_room(target, error) from error
    return Features.open(target)


class Features:
    """A pack, memory-mapped read-only. Attributes are described at `packing.pack`."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder, self.facts = folder, facts
        self._tensors: dict[tuple[str, torch.device], torch.Tensor] = {}
        self.widths: dict[str, int] = facts["widths"]
        self.vectors = {name: self._map(name) for name in VECTOR_MODALITIES}
        self.known = {name: self._map(f"{name}_known") for name in VECTOR_MODALITIES}
        self.tag_text, self.tag_known = self._map("tag_text"), self._map("tag_text_known")
        self.item_fields, self.item_tags = self._map("item_fields"), self._map("item_tags")
        self.user_fields = self._map("user_fields")
        self._require_shapes()

    @classmethod
    def open(cls, folder: Path) -> Features:
        """Raises StorageError when the folder is not a whole pack."""
        return cls(Path(folder), read_facts(Path(folder)))

    def _require_shapes(self) -> None:
        """A file of another pack, or of another week, would give rows the wrong vectors or none."""
        facts, widths = self.facts, self.widths
        shapes: dict[str, tuple[Array, tuple[int, ...]]] = {
            "item_fields": (self.item_fields, (facts["illustrations"],)),
            "item_tags": (self.item_tags, (facts["illustrations"],)),
            "user_fields": (self.user_fields, (facts["users"],)), "tag_text_known": (self.tag_known, (facts["tags"],)),
            "tag_text": (self.tag_text, (facts["tags"], widths["text"]))}
        for name in VECTOR_MODALITIES:
            shapes[f"{name}_known"] = self.known[name], (facts["illustrations"],)
            shapes[name] = self.vectors[name], (facts["illustrations"], widths[name])
        for name, (array, expected) in shapes.items():
            if array.shape[:len(expected)] != expected:
                numbers = f" of {expected[1]} numbers" if len(expected) > 1 else ""
                raise StorageError(str(self.folder / f"{name}.npy"), f"an array of shape {array.shape}",
                                   f"{expected[0]} rows{numbers}, as facts.json says",
                                   "remove the folder, so that features are packed again")

    @property
    def illustrations(self) -> int:
        return len(self.item_fields)

    @property
    def users(self) -> int:
        return len(self.user_fields)

    @property
    def tags(self) -> int:
        return len(self.tag_text)

    @cached_property
    def scales(self) -> dict[str, tuple[Array, Array]]:
        """By modality: mean_D and deviation_D, float32, over the known vectors."""
        scales = {name: self._map(f"{name}_scale") for name in VECTOR_MODALITIES}
        return {name: (np.array(scale[0]), np.array(scale[1])) for name, scale in scales.items()}

    def neighbours(self, modality: str, pool: npt.NDArray[np.int64] | None = None) -> NearestIllustrations:
        """An index over the semantic, style or text vectors of `pool`, by `illust_index`; None: of all that have one."""
        known = np.flatnonzero(self.known[modality]) if pool is None else pool
        return NearestIllustrations(self.vectors[modality], *self.scales[modality], known)

    def axes(self, modality: str) -> Array:
        """[D, C] float32, see `packing.fit_axes`."""
        return self._map(f"{modality}_axes")

    def compact(self, axes: nn.ModuleDict) -> dict[str, str]:
        """By modality of `axes`: the name of the file with fp16 [I, C], zero where not known; made once on this node."""
        places = {name: self.folder / f"{name}-compact-{axes_key(of)}.npy" for name, of in axes.items()}
        for name, path in places.items():
            if not path.exists():
                try:
                    with _alone(path.with_suffix(".lock")):
                        if not path.exists():
                            _write_compact(path, self.vectors[name], self.known[name], axes[name])
                except OSError as error:
                    raise _no_room(path, error) from error
        return {name: path.stem for name, path in places.items()}

    def tensor(self, name: str, device: torch.device) -> torch.Tensor:
        """A file of the pack on a device: on the CPU its memory-mapped pages, which all processes of a node share and nobody
        writes to; elsewhere a copy, one for all who ask."""
        if (name, device) not in self._tensors:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                self._tensors[name, device] = torch.from_numpy(self._map(name)).to(device)
        return self._tensors[name, device]

    def _map(self, name: str) -> Array:
        try:
            return np.asarray(np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
        except OSError as error:
            raise StorageError(str(self.folder / f"{name}.npy"), f"no readable file ({error})", "a whole pack",
                               "remove the folder: the next run packs it again") from error


def _no_room(path: Path, error: OSError) -> StorageError:
    return StorageError(str(path), f"a write that failed ({error})", "room for the packed matrices",
                        "free some space, or set training.features to a folder that has it")


@torch.inference_mode()
def _write_compact(path: Path, vector_ID: Array, known_I: Array, axes: nn.Module) -> None:
    """The file appears whole or not at all, whichever node's process is first. The axes may lie on a GPU."""
    axes = copy.deepcopy(axes).cpu()

    def block(start: int) -> Array:
        compact_XC = axes(torch.from_numpy(vector_ID[start:start + BLOCK].astype(np.float32))).half().numpy()
        return np.where(known_I[start:start + BLOCK, None], compact_XC, np.float16(0))

    blocks = [block(start) for start in range(0, len(vector_ID), BLOCK)]
    part = path.with_suffix(f".{uuid.uuid4().hex[:8]}")
    try:
        with part.open("wb") as file:
            np.save(file, np.concatenate(blocks) if blocks else axes(torch.zeros(0, vector_ID.shape[1])).half().numpy())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)  # what a full disk took is given back


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process of this node at a time; the lock dies with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
