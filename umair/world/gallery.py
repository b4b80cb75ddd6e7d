"""Paints the pictures of a world in several processes and writes them as JPEG, some of them damaged."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from umair.processes import worker_processes
from umair.world.config import WorldConfig
from umair.world.damage import FINE, broken_picture
from umair.world.factors import Illustrations
from umair.world.pictures import picture

CHUNK = 100  # pictures a task
SHARD = 1_000  # pictures a folder
PICTURES_STREAM = 7  # of the seed
log = logging.getLogger("umair.world")


def image_path(index: int, illust_id: int) -> str:
    """The path of a picture below images/."""
    return f"{index // SHARD:03d}/{illust_id}.jpg"


@dataclass(frozen=True)
class _Task:
    config: WorldConfig
    folder: Path
    first: int  # index of the first illustration
    illustrations: Illustrations  # only those of the task
    damage: NDArray[np.int8]  # the same


def write_pictures(config: WorldConfig, folder: Path, illustrations: Illustrations, damage: NDArray[np.int8],
                   workers: int) -> None:
    """Writes folder/images. Each picture has a seed of its own, so the number of workers changes no byte."""
    for shard in range(0, len(illustrations), SHARD):
        (folder / "images" / f"{shard // SHARD:03d}").mkdir(parents=True)
    tasks = [_Task(config, folder, first, illustrations.part(first, first + CHUNK), damage[first:first + CHUNK])
             for first in range(0, len(illustrations), CHUNK)]
    started, done, shown = time.perf_counter(), 0, 0
    for written in _run(tasks, workers):
        done += written
        if done - shown >= len(illustrations) / 10:
            rate, shown = done / (time.perf_counter() - started), done
            log.info("pictures: %d of %d, %.0f a second, %.0f s left", done, len(illustrations), rate,
                     (len(illustrations) - done) / rate)


def _run(tasks: list[_Task], workers: int) -> Iterator[int]:
    if workers <= 1:
        yield from map(_write_some, tasks)
        return
    with worker_processes(workers, "drawing pictures") as pool:
        yield from pool.map(_write_some, tasks)


def _write_some(task: _Task) -> int:
    for offset in range(len(task.illustrations)):
        index, kind = task.first + offset, int(task.damage[offset])
        seed = (task.config.seed, PICTURES_STREAM, index)
        content, style = task.illustrations.content_of(offset), task.illustrations.style[offset]
        pixels = picture(content, style, task.config.picture_size, seed)
        file = jpeg(pixels, task.config.jpeg_quality)
        stored = file if kind == FINE else broken_picture(kind, file)
        if stored is not None:
            path = image_path(index, int(task.illustrations.illust_id[offset]))
            (task.folder / "images" / path).write_bytes(stored)
    return len(task.illustrations)


def jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """Pixels [H, W, 3] as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
