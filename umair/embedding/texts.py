"""Text embedding over Spark: each distinct tag (and title) once for each encoder, however often it is used.

Texts reach the encoder through `clean_text`: NFKC, control characters as blanks, cut to 4,096 characters, then to
the encoder's number of tokens. `text_vectors.text` keeps the original string. A text with nothing visible in it gets no
vector: it stands for no text at all.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pydantic import Field
from pyspark import TaskContext
from pyspark.sql import functions as F

from umair.devices import device_of_task, require_gpu, tasks_for
from umair.embedding.allocator import keep_freed_memory
from umair.embedding.arrow import Batches, in_worker, record_batch, tables_of, vector_column
from umair.embedding.phases import EARLIER, phases_and_rates, seconds_of, sums_of
from umair.embedding.precision import PrecisionConfig, in_precision
from umair.embedding.unfinished import UnfinishedWork
from umair.errors import ContractError
from umair.model.text_encoder import clean_text, load_text_encoder
from umair.schema import TEXT_VECTORS, VISIBLE
from umair.storage import read_facts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

EMBEDDED = (f"{TEXT_VECTORS.columns}, partition int, encode_seconds double, write_seconds double, "
            "task_seconds double")  # seconds: this row's share, of write that of the batch before
ROWS_A_TASK = 50_000  # texts
SORTED_TOGETHER = 10_000  # texts that the encoder sorts by length before it makes its batches; Spark may give fewer at once
PHASES = ("encode", "write", "task")  # write: until Spark, which writes vectors as they come, has taken them; task: all


class EmbedTextsConfig(PrecisionConfig):
    """How texts are embedded."""

    include_titles: bool = False  # the paper's text vector is the mean of the tags' alone
    batch: int = Field(256, gt=0)  # texts encoded together
    partitions: int = Field(0, ge=0)  # Spark tasks; 0 = as many as run at once, more for many texts
    compile: bool = False  # torch.compile: a minute at the start of each Python worker, worth it for many texts on a GPU
    threads: int = Field(1, ge=1)  # of torch, in each task; more tasks beat more threads (benchmarks/results/embed.json)
    device: Literal["cpu", "cuda"] = "cpu"  # cuda: each task takes its GPU from Spark


def texts_to_embed(tags: DataFrame, illustrations: DataFrame, vectors: DataFrame | None, encoder: str,
                   config: EmbedTextsConfig) -> DataFrame:
    """`text string`: of `present_texts`, those that have no vector of this encoder yet.

    `encoder` is a fingerprint. `vectors` is the text_vectors table, or None before its first version.
    """
    present = present_texts(tags, illustrations, config)
    if vectors is None:
        return present
    return present.join(vectors.filter(vectors.encoder == encoder).select("text"), on="text", how="left_anti")


def present_texts(tags: DataFrame, illustrations: DataFrame, config: EmbedTextsConfig) -> DataFrame:
    """`text string`: distinct visible tags, and titles if asked for."""
    texts = tags.selectExpr("tag AS text")
    if config.include_titles:
        texts = texts.union(illustrations.selectExpr("title AS text"))
    return texts.filter(texts.text.rlike(VISIBLE)).distinct()


def still_used(vectors: DataFrame, present: DataFrame) -> DataFrame:
    """The rows of text_vectors whose text is among the `present_texts`: a withdrawn illustration's title goes with it."""
    return vectors.join(present, on="text", how="left_semi")


class EmbeddedTexts(NamedTuple):
    """The rows of `text_vectors` that one run made, not yet committed, and counts and seconds."""

    rows: DataFrame
    facts: dict[str, Any]


def embed_texts(texts: DataFrame, folder: Path | str, config: EmbedTextsConfig, expected: int = 0) -> DataFrame:
    """text -> the columns of EMBEDDED, by the encoder in `folder`, which all nodes see.

    `expected`: about how many there are. Raises StorageError when the folder is not whole; the tasks raise ClusterError
    without the GPU that was asked for and ContractError for a vector that is zero or not finite.
    """
    encoder = config.named(read_facts(Path(folder)))["fingerprint"]
    partitions = config.partitions or tasks_for(texts.sparkSession, expected, ROWS_A_TASK)
    work = partial(embed_batches, folder=str(folder), encoder=encoder, config=config)
    return texts.repartition(partitions).mapInArrow(in_worker(work), EMBEDDED)


@contextlib.contextmanager
def embedded_texts(texts: DataFrame, folder: Path | str, config: EmbedTextsConfig, unfinished: Path, expected: int = 0
                   ) -> Iterator[EmbeddedTexts]:
    """Embeds `texts_to_embed`; what comes out lies below `unfinished` (`Store.unfinished`) until the `with` block has ended
    well, and a run that is killed and run again takes over what was finished (decision 010). Raises what `embed_texts`
    does, and ClusterError for device cuda where a Spark task sees no GPU.
    """
    require_gpu(texts.sparkSession, "embed_texts.device", config.device)
    work = UnfinishedWork(unfinished / config.named(read_facts(Path(folder)))["fingerprint"], EMBEDDED)
    left = work.left(texts.sparkSession)
    if left is None:
        made = work.add(embed_texts(texts, folder, config, expected))
    else:
        usable = left.join(texts, on="text", how="left_semi").dropDuplicates(["text"])
        rest = texts.join(usable.select("text"), on="text", how="left_anti")
        taken = usable.withColumn("partition", F.lit(EARLIER))
        made = work.add(embed_texts(rest, folder, config, expected)).unionByName(taken)
    yield EmbeddedTexts(made.select(*TEXT_VECTORS.column_names), _count(made))
    work.forget()


def _count(made: DataFrame) -> dict[str, Any]:
    """Texts, of them those that a killed run had made, and seconds by phase, all in all and for each partition."""
    groups = made.groupBy("partition").agg(F.count("*").alias("rows"), *sums_of(PHASES)).collect()
    by_partition = {name: {group["partition"]: group[name] for group in groups} for name in ("rows", *PHASES)}
    return {"embedded": sum(by_partition["rows"].values()), "resumed": by_partition["rows"].get(EARLIER, 0),
            "seconds": seconds_of(by_partition, PHASES), "partitions": phases_and_rates(by_partition, "texts")}


def embed_batches(batches: Batches, folder: str, encoder: str, config: EmbedTextsConfig) -> Iterator[pa.RecordBatch]:
    """One Spark task: batches with `text` -> batches with the columns of EMBEDDED; vectors are float32, rounded to fp16."""
    now, handing, task = time.perf_counter(), 0.0, TaskContext.get()
    device = device_of_task("embed_texts.device", config.device)
    model = worker_encoder(folder, device, config.threads, compiled=config.compile)
    for batch in tables_of(batches, SORTED_TOGETHER):
        texts, started = batch["text"].to_pylist(), time.perf_counter()
        cleaned = [clean_text(text) for text in texts]
        with in_precision(config.precision, torch.device(device).type):
            vector_ND = model.encode(cleaned, batch_size=config.batch, convert_to_numpy=True, show_progress_bar=False)
        rounded_ND = _rounded(vector_ND, texts, folder)
        before, now = now, time.perf_counter()
        yield record_batch({"text": batch["text"].combine_chunks(), "vector": vector_column(rounded_ND),
                            "encoder": pa.array([encoder] * len(texts), pa.string()),
                            "partition": np.full(len(texts), task.partitionId() if task else 0, np.int32),
                            "encode_seconds": np.full(len(texts), (now - started) / max(1, len(texts))),
                            "write_seconds": np.full(len(texts), handing / max(1, len(texts))),
                            "task_seconds": np.full(len(texts), (now - before) / max(1, len(texts)))})
        handing = time.perf_counter() - now


@lru_cache(maxsize=1)  # a Spark Python worker serves many tasks
def worker_encoder(folder: str, device: str, threads: int, *, compiled: bool = False) -> Any:
    """The encoder, loaded once in each Python worker process; `compiled` for any length of texts."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads may deadlock in a forked worker
    torch.set_num_threads(threads)
    keep_freed_memory()
    model = load_text_encoder(folder, device)
    if compiled:
        model[0].auto_model.compile(dynamic=True)
    return model


def _rounded(vector_ND: npt.NDArray[np.float32], texts: list[str], folder: str) -> npt.NDArray[np.float32]:
    """The vectors rounded to fp16, as float32. Raises ContractError for one that is zero or not finite."""
    rounded_ND = vector_ND.astype(np.float16).astype(np.float32)
    useless_N = ~np.isfinite(rounded_ND).all(axis=-1) | ~rounded_ND.any(axis=-1)
    if useless_N.any():
        raise ContractError(f"text encoder {folder}", f"{useless_N.sum()} vectors that are zero or not finite, the first "
                            f"for {texts[int(useless_N.argmax())][:80]!r}", "finite vectors",
                            "fine-tune the text encoder again with a lower text_pairs.learning_rate")
    return rounded_ND
