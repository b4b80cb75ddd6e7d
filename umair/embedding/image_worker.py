"""What a Spark Python worker does with pictures: reads and decodes in threads, with `prefetch` a batch ahead of the encoder.

B pictures of a batch. Nothing here starts Spark; `embed_batches` is what `mapInArrow` calls.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import Field
from pyspark import TaskContext

from umair.devices import device_of_task
from umair.embedding.allocator import keep_freed_memory
from umair.embedding.arrow import Batches, record_batch, tables_of, vector_column
from umair.embedding.precision import Precision, PrecisionConfig, in_precision
from umair.model.image_encoder import ImageEncoder, load_image_encoder, to_pixels
from umair.picture import RGB, PictureError, PictureLimits, decode_picture
from umair.picture_files import read_picture

EMBEDDED = ("illust_id bigint, illust_index int, state string, reason string, semantic array<float>, style array<float>, "
            "sha256 string, rule string, value string, partition int, read_seconds double, decode_seconds double, "
            "encode_seconds double, write_seconds double, task_seconds double")  # no rule where there are vectors
#                                seconds: this row's share, of write that of the batch before


class EmbedImagesConfig(PrecisionConfig):
    """How pictures are embedded, and how many unreadable ones a run puts up with."""

    batch: int = Field(64, gt=0, le=1024)  # pictures of a forward pass; also of an Arrow batch
    threads: int = Field(4, gt=0)  # that read and decode, in each Spark task
    torch_threads: int = Field(1, gt=0)  # of the encoder, in each Spark task; more tasks beat more threads on a CPU
    prefetch: bool | None = None  # decode the next batch while the encoder works on this one; None: with cuda alone, since
    #                               on a CPU both would want the same cores (benchmarks/results/embed.json)
    compile: bool = False  # torch.compile: minutes at the start of each Python worker, worth it on a GPU
    partitions: int | None = Field(None, gt=0)  # Spark tasks; None: four for each slot, more for many pictures
    device: Literal["cpu", "cuda"] = "cpu"
    max_reject_share: float = Field(0.05, ge=0, le=1)  # of the new and changed pictures; more stops the run
    reject_allowance: int = Field(10, ge=0)  # so many, and at most half of those tried, never stop a run
    max_withdrawn_share: float = Field(0.2, ge=0, le=1, exclude=True)  # of illustrations with vectors; where the catalogue
    #                               withdraws more at once the run stops, as an export that lost its pictures looks the same.
    #                               No part of the step's key
    retry_rejects: bool = Field(False, exclude=True)  # try again what was set aside before, though it has not changed; no
    #                               part of the step's key, and a finished week runs this step again (--retry-rejects)
    changed_by: Literal["size_and_time", "content"] = "size_and_time"  # how a file is known to have changed; content reads
    #                               every file every week. What was embedded under the other setting counts as changed
    limits: PictureLimits = PictureLimits()


Vectors = NDArray[np.float32]


class Loaded(NamedTuple):
    """A picture read and decoded, or the rule that it broke."""

    picture: RGB | None
    sha256: str | None
    rule: str | None
    value: str | None
    read_seconds: float
    decode_seconds: float


class Outcome(NamedTuple):
    """A picture's two vectors, or the rule that it broke."""

    semantic: Vectors | None
    style: Vectors | None
    rule: str | None
    value: str | None


Started = tuple[pa.Table, list[Future[Loaded]]]


def embed_batches(batches: Batches, *, folder: str, fingerprint: str, image_root: str, config: EmbedImagesConfig
                  ) -> Iterator[pa.RecordBatch]:
    """Batches with illust_id, illust_index, image, image_content, state, reason -> batches with the columns of EMBEDDED.

    With `prefetch`, threads read and decode the next batch while the encoder works on one. `fingerprint` names the encoder
    in `folder`.
    """
    device = device_of_task("embed_images.device", config.device)
    with ThreadPoolExecutor(config.threads, thread_name_prefix="decode") as threads:
        encoder = functools.partial(open_encoder, folder, fingerprint, device, config.torch_threads,
                                    compiled=config.compile)  # a worker may be lent to a task with another GPU

        def start(batch: pa.Table) -> Started:
            load = functools.partial(load_picture, image_root, size=encoder().picture_size, limits=config.limits)
            return batch, [threads.submit(load, image, content)
                           for image, content in zip(*(batch[name].to_pylist() for name in ("image", "image_content")),
                                                     strict=True)]

        started, now, handing = map(start, tables_of(batches, config.batch)), time.perf_counter(), 0.0
        ahead = config.device == "cuda" if config.prefetch is None else config.prefetch
        for batch, coming in one_ahead(started) if ahead else started:
            columns = encode_batch(batch, [future.result() for future in coming], encoder(), config)
            before, now = now, time.perf_counter()
            yield record_batch({**columns, "write_seconds": np.full(len(batch), handing / len(batch)),
                                "task_seconds": np.full(len(batch), (now - before) / len(batch))})
            handing = time.perf_counter() - now


def one_ahead(started: Iterator[Started]) -> Iterator[Started]:
    """Hands each batch out only when the next one has been drawn, and with that its threads started."""
    ready = next(started, None)
    while ready is not None:
        coming = next(started, None)
        yield ready
        ready = coming


@functools.lru_cache(maxsize=1)
def open_encoder(folder: str, fingerprint: str, device: str, torch_threads: int,  # noqa: ARG001  the key
                 *, compiled: bool = False) -> ImageEncoder:
    """The encoder in `folder`, loaded once in this Python worker; another `fingerprint` is another encoder."""
    torch.set_num_threads(torch_threads)
    keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32: such vectors stand beside those that a CPU made
    encoder = load_image_encoder(folder).to(device)
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compiled:
        encoder.compile()
    return encoder


def load_picture(image_root: str, image: str | None, content: bytes | None, *, size: int, limits: PictureLimits) -> Loaded:
    """Reads the picture, unless its bytes are given, and decodes it; a PictureError becomes its rule and value."""
    started = read = time.perf_counter()
    digest = None
    try:
        if content is None:
            content = read_picture(image_root, str(image), limits)
        read, digest = time.perf_counter(), hashlib.sha256(content).hexdigest()
        picture = decode_picture(content, size, limits)
    except PictureError as error:
        return Loaded(None, digest, error.rule, error.value, read - started, time.perf_counter() - read)
    return Loaded(picture, digest, None, None, read - started, time.perf_counter() - read)


def encode_batch(batch: pa.Table, loaded: list[Loaded], encoder: ImageEncoder, config: EmbedImagesConfig
                 ) -> dict[str, Any]:
    """Columns, one entry for each input row: vectors rounded to fp16, or the rule that the picture or its vectors broke."""
    started, outcomes = time.perf_counter(), [Outcome(None, None, one.rule, one.value) for one in loaded]
    readable = {row: one.picture for row, one in enumerate(loaded) if one.picture is not None}
    if readable:
        pictures_BHWC = np.stack(list(readable.values()))
        parts = np.split(pictures_BHWC, np.cumsum(even_sizes(len(pictures_BHWC), config.batch))[:-1])
        vectors = [encode(encoder, part_BHWC, config.precision) for part_BHWC in parts]
        pairs = ((semantic_S, style_Y) for semantic_BS, style_BY in vectors
                 for semantic_S, style_Y in zip(semantic_BS, style_BY, strict=True))
        for row, (semantic_S, style_Y) in zip(readable, pairs, strict=True):
            outcomes[row] = judge(semantic_S, style_Y)
    seconds = (time.perf_counter() - started) / max(1, len(readable))
    task = TaskContext.get()
    text, number = pa.string(), pa.float64()
    return {
        **{name: batch[name].combine_chunks() for name in ("illust_id", "illust_index", "state", "reason")},
        "semantic": vector_column([outcome.semantic for outcome in outcomes]),
        "style": vector_column([outcome.style for outcome in outcomes]),
        "sha256": pa.array([one.sha256 for one in loaded], text),
        "rule": pa.array([outcome.rule for outcome in outcomes], text),
        "value": pa.array([outcome.value for outcome in outcomes], text),
        "partition": np.full(len(loaded), task.partitionId() if task else 0, np.int32),
        "read_seconds": pa.array([one.read_seconds for one in loaded], number),
        "decode_seconds": pa.array([one.decode_seconds for one in loaded], number),
        "encode_seconds": pa.array([seconds if one.picture is not None else 0.0 for one in loaded], number)}


def even_sizes(count: int, whole: int) -> list[int]:
    """`count` as a whole batch or as falling powers of two: each size that a network meets for the first time costs it
    tenths of a second of planning (on a CPU) or minutes (compiled), and every partition ends with another one.
    """
    return [whole] if count == whole else [2 ** bit for bit in reversed(range(count.bit_length())) if count >> bit & 1]


def encode(encoder: ImageEncoder, pictures_BHWC: RGB, precision: Precision = "float32") -> tuple[Vectors, Vectors]:
    """semantic_BS and style_BY, rounded to fp16 and held as float32; beyond fp16's range they are infinite."""
    device = encoder.pixel_mean.device
    with torch.inference_mode(), in_precision(precision, device.type):
        vectors = encoder(to_pixels(pictures_BHWC, device))
    semantic_BS, style_BY = (vector.half().float().cpu().numpy() for vector in vectors)
    return semantic_BS, style_BY


def judge(semantic_S: Vectors, style_Y: Vectors) -> Outcome:
    """The vectors, unless one of them says nothing: not finite, or zero in every place."""
    for name, vector in (("semantic", semantic_S), ("style", style_Y)):
        if not np.isfinite(vector).all():
            return Outcome(None, None, "vector_not_finite", name)
        if not vector.any():
            return Outcome(None, None, "vector_all_zero", name)
    return Outcome(semantic_S, style_Y, None, None)
