"""Text embedding over Spark: each distinct tag (and title) once for each encoder, however often it is used.

Texts reach the encoder through `clean_text`: NFKC, control characters as blanks, cut to 4,096 characters, then to
the encoder's number of tokens. `text_vectors.text` keeps the original string. A text with nothing visible in it gets no
vector: it stands for no text at all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pydantic import Field

from umair.config import Section
from umair.embedding.arrow import Batches, in_worker, record_batch, vector_column
from umair.embedding.unfinished import UnfinishedWork
from umair.errors import ClusterError, ContractError
from umair.model.text_encoder import clean_text, load_text_encoder
from umair.schema import TEXT_VECTORS
from umair.storage import read_facts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

VISIBLE = r"[^\p{Cc}\p{Cf}\p{Cs}\p{Z}\s]"  # at least one character that can be seen, among them what is
#                                          newer than Java's tables, which call it unassigned: emoji, say


class EmbedTextsConfig(Section):
    """How texts are embedded; the vectors do not depend on it."""

    include_titles: bool = False  # the paper's text vector is the mean of the tags' alone
    batch: int = Field(256, gt=0)  # texts encoded together
    partitions: int = Field(0, ge=0)  # Spark tasks; 0 = as many as run at once
    threads: int = Field(1, ge=1)  # of torch, in each task
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


def embed_texts(texts: DataFrame, folder: Path | str, config: EmbedTextsConfig) -> DataFrame:
    """text -> the rows of `text_vectors`, by the encoder in `folder`, which all nodes see.

    Raises StorageError when the folder is not whole; the tasks raise ClusterError without the GPU that was asked for and
    ContractError for a vector that is zero or not finite.
    """
    encoder = read_facts(Path(folder))["fingerprint"]
    partitions = config.partitions or texts.sparkSession.sparkContext.defaultParallelism
    work = partial(embed_batches, folder=str(folder), encoder=encoder, config=config)
    return texts.repartition(partitions).mapInArrow(in_worker(work), TEXT_VECTORS.columns)


@contextlib.contextmanager
def embedded_texts(texts: DataFrame, folder: Path | str, config: EmbedTextsConfig, unfinished: Path
                   ) -> Iterator[tuple[DataFrame, int]]:
    """The rows of `text_vectors` for `texts_to_embed`, and how many of them a killed run had made (decision 010).

    They lie below `unfinished` (`Store.unfinished`) until the `with` block has ended well. Raises what `embed_texts` does.
    """
    work = UnfinishedWork(unfinished / read_facts(Path(folder))["fingerprint"], TEXT_VECTORS.columns)
    left = work.left(texts.sparkSession)
    if left is None:
        yield work.add(embed_texts(texts, folder, config)), 0
    else:
        usable = left.join(texts, on="text", how="left_semi").dropDuplicates(["text"])
        rest = texts.join(usable.select("text"), on="text", how="left_anti")
        yield work.add(embed_texts(rest, folder, config)).unionByName(usable), usable.count()
    work.forget()


def embed_batches(batches: Batches, folder: str, encoder: str, config: EmbedTextsConfig) -> Iterator[pa.RecordBatch]:
    """One Spark task: batches with `text` -> batches with `text`, `vector` (float32, rounded to fp16) and `encoder`."""
    model = worker_encoder(folder, task_device(config.device), config.threads)
    for batch in batches:
        texts = batch.column("text").to_pylist()
        cleaned = [clean_text(text) for text in texts]
        vector_ND = model.encode(cleaned, batch_size=config.batch, convert_to_numpy=True, show_progress_bar=False)
        rounded_ND = _rounded(vector_ND, texts, folder)
        yield record_batch({"text": batch.column("text"), "vector": vector_column(rounded_ND),
                            "encoder": pa.array([encoder] * len(texts), pa.string())})


@lru_cache(maxsize=1)  # a Spark Python worker serves many tasks
def worker_encoder(folder: str, device: str, threads: int) -> Any:
    """The encoder, loaded once in each Python worker process."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads may deadlock in a forked worker
    torch.set_num_threads(threads)
    return load_text_encoder(folder, device)


def task_device(device: str) -> str:
    """cpu, or the GPU that Spark gave to this task. Raises ClusterError when there is none."""
    if device == "cpu":
        return device
    from pyspark import TaskContext

    context = TaskContext.get()
    given = context.resources().get("gpu") if context else None
    index = int(given.addresses[0]) if given else 0
    if index >= torch.cuda.device_count():
        raise ClusterError("embed_texts.device", f"cuda, and {torch.cuda.device_count()} visible GPUs on this node",
                           "a GPU for each task", "submit with spark.task.resource.gpu.amount=1 and a discovery script, "
                           "or set embed_texts.device=cpu")
    return f"cuda:{index}"


def _rounded(vector_ND: npt.NDArray[np.float32], texts: list[str], folder: str) -> npt.NDArray[np.float32]:
    """The vectors rounded to fp16, as float32. Raises ContractError for one that is zero or not finite."""
    rounded_ND = vector_ND.astype(np.float16).astype(np.float32)
    useless_N = ~np.isfinite(rounded_ND).all(axis=-1) | ~rounded_ND.any(axis=-1)
    if useless_N.any():
        raise ContractError(f"text encoder {folder}", f"{useless_N.sum()} vectors that are zero or not finite, the first "
                            f"for {texts[int(useless_N.argmax())][:80]!r}", "finite vectors",
                            "fine-tune the text encoder again with a lower text_pairs.learning_rate")
    return rounded_ND
