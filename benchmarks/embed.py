"""Embedding through Spark against a bare loop over the same encoder: benchmarks/results/embed.json (make bench-embed).

    python benchmarks/embed.py [--pictures 1500] [--repeats 3] [--movies FILE]

Everything is compared within one run, with the same number of threads on both sides; the model is loaded before the clock starts.
conf/local.yaml has two Spark slots, and its encoders one thread in each; here each slot also decodes with one thread, and the bare
loop is one process with as many threads of either kind as all slots have. Beside two slots there is also a bare loop in two
processes, one for each slot, which is as much as two cores can do. The bare loop decodes in threads, as the Spark worker does,
and writes nothing; "spark" decodes, encodes and writes; "whole job" also looks at every file, keeps what a killed run could go
on with, and commits to the tables.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import multiprocessing
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import umair  # noqa: F401  # before torch: docs/decisions/017

# isort: split
import numpy as np
import psutil
import pyarrow.parquet as pq
import torch
from speed_page import write_speed_page

from umair.config import load_config
from umair.embedding import images, texts
from umair.embedding.image_worker import EmbedImagesConfig, encode, load_picture
from umair.embedding.texts import EmbedTextsConfig
from umair.evidence import ROOT, provenance
from umair.job import Config, start_spark
from umair.model.image_encoder import ImageEncoderConfig, build_image_encoder, load_image_encoder, save_image_encoder
from umair.model.text_encoder import (
    TextEncoderConfig,
    build_text_encoder,
    clean_text,
    load_text_encoder,
    save_text_encoder,
    text_encoder_facts,
)
from umair.schema import IMAGE_REJECTS, IMAGE_VECTORS
from umair.storage import Store, read_facts, write_folder
from umair.world.config import WorldConfig
from umair.world.factors import draw_illustrations
from umair.world.gallery import jpeg
from umair.world.grid import draw_grid
from umair.world.words import term_pairs

RESULTS = ROOT / "benchmarks/results/embed.json"
TINY = ImageEncoderConfig(picture_size=32, block="basic", stem_width=4, widths=(8, 12), depths=(1, 1), style_blocks=1)
PAPER = ImageEncoderConfig(picture_size=224)  # ResNet-101


class ImageCase(NamedTuple):
    encoder: ImageEncoderConfig | None  # None: that of conf/local.yaml
    size: int  # of the files, in pixels
    files: float  # of given.pictures
    copies: int  # ids for each file
    slots: int = 1  # Spark tasks at once
    threads: int = 2  # in each slot
    thorough: bool = False  # prefetching and the whole job too


class TextCase(NamedTuple):
    differs: dict[str, int]  # from the encoder of conf/local.yaml
    copies: int  # how often each distinct term comes, numbered
    slots: int = 1
    threads: int = 2


CASES = {"encoder of conf/local.yaml, pictures of 112 pixels": ImageCase(None, 112, 1, 16, slots=2, threads=1, thorough=True),
         "the same, one slot of two threads": ImageCase(None, 112, 1, 8),
         "the same, one slot of one thread": ImageCase(None, 112, 1, 16, threads=1),
         "tiny encoder, pictures of 512 pixels": ImageCase(TINY, 512, 1, 8, slots=2, threads=1, thorough=True),
         "ResNet-101, pictures of 224 pixels": ImageCase(PAPER, 224, 0.2, 1)}
MINILM = {"width": 384, "layers": 6, "heads": 12}
TEXT_CASES = {"encoder of conf/local.yaml": TextCase({}, 300, slots=2, threads=1),
              "the same, one slot of two threads": TextCase({}, 100),
              "the same, one slot of one thread": TextCase({}, 100, threads=1),
              "encoder of MiniLM's size": TextCase(MINILM, 12)}
GROWTH = (16, 64, 256)  # ids for each file
PROCESSES = "bare loop, a process for each slot"
WEEK = 2  # ids for each file that come in a week, beside so many that have their vectors
SPARK = {"spark.ui.enabled": "false", "spark.driver.memory": "1g",  # all of it taken at the start: what grows is no filling heap
         "spark.driver.extraJavaOptions": "-Xms1g -XX:+AlwaysPreTouch"}


def main() -> None:
    given = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="umair-bench-"))
    local = load_config(ROOT / "conf/local.yaml", [], Config)
    images_of: dict[str, Any] = dict.fromkeys(CASES)
    texts_of: dict[str, Any] = dict.fromkeys(TEXT_CASES)
    result: dict[str, Any] = {**provenance(_command(given)), "pictures": given.pictures, "repeats": given.repeats,
                              "images": images_of, "texts": texts_of}
    try:
        for slots in (2, 1):
            spark = start_spark({"spark.master": f"local[{slots}]", **SPARK})
            for place, (name, case) in enumerate(CASES.items()):
                if case.slots == slots:
                    images_of[name] = _images(spark, folder / str(place), case.encoder or local.image_encoder, case, given)
            if slots == 2:
                result["growth"] = _growth(spark, folder / "0", given.pictures)
                result["stored_over_float32"] = _stored(spark, folder / "0", given.pictures)
            for place, (name, case) in enumerate(TEXT_CASES.items()):
                if case.slots == slots:
                    network = local.text_encoder.model_copy(update=case.differs)
                    texts_of[name] = _texts(spark, folder / f"texts-{place}", network, case, given)
            spark.stop()
        result["once_per_text"] = {**_once_before(), **_once_per_text(folder / "texts-0", given)}
    finally:
        shutil.rmtree(folder)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_speed_page()
    print(json.dumps({"result": str(RESULTS.relative_to(ROOT)), "spark_over_bare": {
        kind: {name: case["spark_over_bare"] for name, case in result[kind].items()} for kind in ("images", "texts")}}))


# ---------------------------------------------------------------- images
def _images(spark: Any, folder: Path, network: ImageEncoderConfig, case: ImageCase, given: argparse.Namespace) -> dict[str, Any]:
    threads = case.slots * case.threads
    torch.set_num_threads(threads)
    (folder / "pictures").mkdir(parents=True)
    files = round(given.pictures * case.files)
    for number, each in enumerate(draw_grid(20, -(-files // 20), case.size, seed=1)):
        if number < files:
            (folder / "pictures" / f"{number}.jpg").write_bytes(jpeg(each.pixels, 90))
    write_folder(folder / "encoder", lambda new: save_image_encoder(build_image_encoder(network), new))
    encoder = load_image_encoder(folder / "encoder").to(memory_format=torch.channels_last)
    config = EmbedImagesConfig(batch=64, threads=case.threads, torch_threads=case.threads)
    ahead = config.model_copy(update={"prefetch": True})
    todo = _todo(spark, folder, files, case.copies)
    names = [f"{number}.jpg" for number in range(files)] * case.copies
    ways: dict[str, Callable[[], Any]] = {
        "bare loop": lambda: _bare(encoder, folder / "pictures", names, config, threads, ahead=False),
        "spark": lambda: _spark(todo, folder, config)}
    if case.thorough:
        ways |= {"bare loop with prefetching": lambda: _bare(encoder, folder / "pictures", names, config, threads, ahead=True),
                 "spark with prefetching": lambda: _spark(todo, folder, ahead),
                 "whole job": lambda: _whole_job(todo, folder, config)}
    with ExitStack() as stack:
        if case.slots > 1:
            ways[PROCESSES] = stack.enter_context(_processes(case.slots, _bare_pictures, names, folder, config))
        rates = _rates(ways, len(names), given.repeats)
    middle = {name: statistics.median(each) for name, each in rates.items()}
    found = {"pictures": len(names), "slots": case.slots, "threads": case.threads,
             "pictures_per_second": {name: [round(rate, 1) for rate in each] for name, each in rates.items()},
             **_ratios(middle, "bare loop")}
    if case.thorough:
        with_prefetching = middle["spark with prefetching"]
        found |= {"whole_job_over_bare": round(middle["whole job"] / middle["bare loop"], 3),
                  "spark_with_over_bare_with_prefetching": round(with_prefetching / middle["bare loop with prefetching"], 3),
                  "prefetching_gains": round(with_prefetching / middle["spark"], 3)}
    return found


def _rates(ways: dict[str, Callable[[], Any]], count: int, repeats: int) -> dict[str, list[float]]:
    """Of each way, `count` over its seconds, in turns. The first time, which loads the model into Python workers and pictures
    into the page cache, is not counted."""
    for way in ways.values():
        way()
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            rates[name].append(count / _timed(way))
    return rates


def _ratios(middle: dict[str, float], bare: str) -> dict[str, float]:
    names = {"spark_over_bare": bare, "spark_over_processes": PROCESSES}
    return {name: round(middle["spark"] / middle[way], 3) for name, way in names.items() if way in middle}


@contextmanager
def _processes(count: int, work: Callable[..., Any], items: list[str], *arguments: Any) -> Iterator[Callable[[], Any]]:
    """`work(share of the items, *arguments)` in so many processes of one thread each, which live until the end."""
    shares = [items[place::count] for place in range(count)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield lambda: [each.result() for each in [pool.submit(work, share, *arguments) for share in shares]]


@functools.lru_cache(maxsize=1)
def _image_encoder(folder: Path) -> Any:
    return load_image_encoder(folder).to(memory_format=torch.channels_last)


def _bare_pictures(names: list[str], folder: Path, config: EmbedImagesConfig) -> int:
    return len(_bare(_image_encoder(folder / "encoder"), folder / "pictures", names, config, 1, ahead=False))


def _todo(spark: Any, folder: Path, count: int, copies: int = 1) -> Any:
    """What `pictures_to_embed` hands out for a first week: `count` files, each under so many ids."""
    rows = spark.range(count * copies).selectExpr(
        "id AS illust_id", "CAST(id AS INT) AS illust_index", f"concat(id % {count}, '.jpg') AS image",
        "CAST(NULL AS BINARY) AS image_content", "'state' AS state", "'new' AS reason")
    rows.write.mode("overwrite").parquet(str(folder / f"todo-{copies}"))
    return spark.read.parquet(str(folder / f"todo-{copies}"))


def _spark(todo: Any, folder: Path, config: EmbedImagesConfig) -> None:
    with images._arrow_rows(todo.sparkSession, config.batch):
        embedded = images.embed_pictures(todo, folder / "encoder", str(folder / "pictures"), config)
        embedded.write.option("compression", "zstd").mode("overwrite").parquet(str(folder / "out"))


def _whole_job(todo: Any, folder: Path, config: EmbedImagesConfig, *, keep: bool = False) -> None:
    """What jobs/embed_images.py does: looks at every file, embeds what has no vectors yet, judges, and commits to the tables."""
    store, root, spark = Store(folder / "root"), str(folder / "pictures"), todo.sparkSession
    vectors, rejects = (_table(spark, store, name) for name in (IMAGE_VECTORS.name, IMAGE_REJECTS))
    encoder, listed = read_facts(folder / "encoder")["fingerprint"], todo.drop("state", "reason")
    fresh = images.pictures_to_embed(listed, vectors, rejects, root, encoder, config)
    expected = images.count_pictures(listed)["with_picture"] - images.count_vectors(vectors, encoder)
    run = images.EmbeddingRun(folder / "encoder", root, config, store.unfinished("embed_images"), expected)
    with images.embedded_pictures(fresh, vectors, rejects, None, run) as embedded:
        for name, update in embedded.updates.items():
            staged = store.staging(name)
            update.frame.write.option("compression", "zstd").parquet(str(staged))
            store.commit(name, staged, {}, append=update.append)
    if not keep:
        shutil.rmtree(store.root)


def _table(spark: Any, store: Store, name: str) -> Any:
    return spark.read.parquet(*store.snapshot(name).files) if store.exists(name) else None


def _bare(encoder: Any, root: Path, names: list[str], config: EmbedImagesConfig, threads: int, *,
          ahead: bool) -> list[np.ndarray]:
    def start(first: int) -> list[Any]:
        return [pool.submit(load_picture, str(root), name, None, size=encoder.picture_size, limits=config.limits)
                for name in names[first:first + config.batch]]

    vectors = []
    with ThreadPoolExecutor(threads) as pool:
        coming = start(0)
        for first in range(0, len(names), config.batch):
            following = start(first + config.batch) if ahead else []
            vectors += encode(encoder, np.stack([one.result().picture for one in coming]))
            coming = following if ahead else start(first + config.batch)
    return vectors


def _growth(spark: Any, folder: Path, count: int) -> dict[str, Any]:
    """As the catalogue grows, the same pictures under more ids: the whole job's rate in its first week, its seconds in a second
    week that brings a few new ones, and the most memory that the driver (Python and JVM) took meanwhile."""
    config, found = EmbedImagesConfig(batch=64, threads=1, torch_threads=1), {}
    for copies in GROWTH:
        first, second = (_todo(spark, folder, count, many) for many in (copies, copies + WEEK))
        with _Memory() as memory:
            seconds = [_timed(functools.partial(_whole_job, todo, folder, config, keep=True)) for todo in (first, second)]
        shutil.rmtree(folder / "root")
        found[f"{copies // GROWTH[0]}x"] = {
            "heap_mib": round(_heap_mib(spark)),
            "pictures": count * copies, "pictures_per_second": round(count * copies / seconds[0], 1), "new_in_a_second_week": count * WEEK,
            "seconds_of_a_second_week": round(seconds[1], 2), "driver_mib": round(memory.most)}
    return found


def _heap_mib(spark: Any) -> float:
    """What the driver's JVM holds on to, after a collection."""
    machine = spark.sparkContext._jvm.java.lang
    machine.System.gc()
    running = machine.Runtime.getRuntime()
    return float(running.totalMemory() - running.freeMemory()) / 2**20


def _stored(spark: Any, folder: Path, count: int) -> dict[str, float]:
    """Bytes that the vectors of different pictures take in a table, over those of as many float32."""
    _spark(_todo(spark, folder, count), folder, EmbedImagesConfig(batch=64, threads=1, torch_threads=1))
    bytes_of: dict[str, list[int]] = {}
    for file in (folder / "out").glob("*.parquet"):
        metadata = pq.ParquetFile(file).metadata
        for group in range(metadata.num_row_groups):
            for column in map(metadata.row_group(group).column, range(metadata.num_columns)):
                name = column.path_in_schema.split(".")[0]
                if name in ("semantic", "style"):
                    bytes_of.setdefault(name, []).append(column.total_compressed_size)
    encoder = read_facts(folder / "encoder")
    return {name: round(sum(sizes) / (4 * count * encoder[f"{name}_width"]), 3) for name, sizes in sorted(bytes_of.items())}


class _Memory:
    """The largest resident memory of this process and of the JVM below it, without Spark's Python workers, in MiB."""

    def __enter__(self) -> _Memory:
        self.most, self._ended = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._ended.wait(0.2):
            driver = [own, *(child for child in own.children() if child.name() == "java")]
            self.most = max(self.most, sum(process.memory_info().rss for process in driver) / 2**20)


# ---------------------------------------------------------------- texts
def _texts(spark: Any, folder: Path, network: TextEncoderConfig, case: TextCase, given: argparse.Namespace
           ) -> dict[str, Any]:
    torch.set_num_threads(case.slots * case.threads)
    pairs = list(term_pairs())
    unique = sorted({text for pair in pairs for text in (pair[1], pair[3])})
    unique = [f"{text} {number}" if number else text for number in range(case.copies) for text in unique]
    model = build_text_encoder(network, unique)
    write_folder(folder, lambda new: (save_text_encoder(model, new), text_encoder_facts(model))[1])
    encoder, config = load_text_encoder(folder), EmbedTextsConfig(threads=case.threads)
    cleaned = [clean_text(text) for text in unique]
    frame = spark.createDataFrame([(text,) for text in unique], "text string")
    frame.write.mode("overwrite").parquet(str(folder / "unique"))
    stored = spark.read.parquet(str(folder / "unique"))
    ways: dict[str, Callable[[], Any]] = {
        "SentenceTransformer.encode": lambda: encoder.encode(cleaned, batch_size=config.batch, show_progress_bar=False),
        "spark": lambda: texts.embed_texts(stored, folder, config).write.mode("overwrite").parquet(str(folder / "out"))}
    with ExitStack() as stack:
        if case.slots > 1:
            ways[PROCESSES] = stack.enter_context(_processes(case.slots, _bare_texts, cleaned, folder, config))
        rates = _rates(ways, len(unique), given.repeats)
    middle = {name: statistics.median(each) for name, each in rates.items()}
    return {"texts": len(unique), "slots": case.slots, "threads": case.threads,
            "texts_per_second": {name: [round(rate, 1) for rate in each] for name, each in rates.items()},
            **_ratios(middle, "SentenceTransformer.encode")}


@functools.lru_cache(maxsize=1)
def _text_encoder(folder: Path) -> Any:
    return load_text_encoder(folder)


def _bare_texts(cleaned: list[str], folder: Path, config: EmbedTextsConfig) -> int:
    return len(_text_encoder(folder).encode(cleaned, batch_size=config.batch, show_progress_bar=False))


def _once_before() -> dict[str, Any]:
    """What an earlier run found, with its commit: of a real catalogue that may not be at hand now."""
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"once_per_text": {}}
    return {name: {"commit": before["commit"], **each} for name, each in before["once_per_text"].items()}


def _once_per_text(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """What it gains to embed each text once, however often it is used."""
    uses = {"tags of 6,000 drawn illustrations": _drawn_tags(6_000)}
    if given.movies:
        uses[f"genres of {given.movies.name}"] = _genres(given.movies)
    encoder, found = load_text_encoder(folder), {}
    for name, tags in uses.items():
        unique = sorted(set(tags))
        seconds = [_timed(lambda texts=texts: encoder.encode(texts, batch_size=EmbedTextsConfig().batch, show_progress_bar=False))
                   for texts in (tags, unique)]
        found[name] = {"uses": len(tags), "texts": len(unique), "seconds_each_use": round(seconds[0], 2),
                       "seconds_each_text": round(seconds[1], 2), "gain": round(seconds[0] / seconds[1], 1)}
    return found


def _drawn_tags(count: int) -> list[str]:
    drawn = draw_illustrations(WorldConfig(illustrations=count, users=20, views=400))
    return [tag for place in range(count) for tag in drawn.tags_of(place)]


def _genres(file: Path) -> list[str]:
    with file.open(encoding="utf-8", newline="") as lines:
        return [genre for row in csv.DictReader(lines) for genre in row["genres"].split("|")]


def _command(given: argparse.Namespace) -> str:
    movies = f" --movies {given.movies.name}" if given.movies else ""
    return f"python benchmarks/embed.py --pictures {given.pictures} --repeats {given.repeats}{movies}"


def _timed(way: Callable[[], Any]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1_500)
    parser.add_argument("--movies", type=Path, help="MovieLens's movies.csv, for the tag distribution of a real catalogue")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
