"""Embedding pictures over real Spark, with real files and a real small encoder: what is embedded, what is not, what is kept."""

from __future__ import annotations

import hashlib
import io
import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyspark.sql import functions as F

from umair.embedding.arrow import tables_of
from umair.embedding.drift import measure_drift, require_coverage
from umair.embedding.image_worker import EMBEDDED, embed_batches, even_sizes, judge, one_ahead, open_encoder
from umair.embedding.images import (
    EmbeddingRun,
    EmbedImagesConfig,
    count_pictures,
    current_vectors,
    embed_pictures,
    embedded_pictures,
    pictures_to_embed,
    rows_of_a_batch,
    withdrawn_pictures,
)
from umair.errors import ClusterError, ContractError
from umair.model.image_encoder import (
    ImageEncoderConfig,
    build_image_encoder,
    load_image_encoder,
    save_image_encoder,
    to_pixels,
)
from umair.picture import PictureLimits, decode_picture
from umair.schema import IMAGE_REJECTS, IMAGE_VECTORS
from umair.storage import Store, read_facts, write_folder

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

torch.set_num_threads(1)
TINY = ImageEncoderConfig(picture_size=32, block="basic", stem_width=4, widths=(8, 12), depths=(2, 1), style_blocks=2)
CONFIG = EmbedImagesConfig(batch=3, threads=2, partitions=1, max_reject_share=1.0)  # most tests are of bad pictures


def picture_bytes(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 28, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def patchwork_bytes(seed: int) -> bytes:
    """A few large patches of colour, so that even a random encoder tells two such pictures apart."""
    stream = io.BytesIO()
    patches = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (2, 3, 3), dtype=np.uint8))
    patches.resize((28, 20), Image.Resampling.NEAREST).save(stream, "PNG")
    return stream.getvalue()


IMAGE_REJECTS_COLUMNS = "table string, key string, rule string, value string, state string"


class Site:
    """A root with pictures and an encoder, and the job's steps on it, written out."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self.spark, self.images, self.store = spark, folder / "images", Store(folder / "root")
        self.images.mkdir()
        self.first_index = 100
        self.rows: dict[int, tuple[str | None, bytes | None]] = {}
        self.use_encoder(folder / "encoder", seed=0)

    def use_encoder(self, folder: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self.encoder_folder = folder
        self.encoder = write_folder(folder, lambda new: save_image_encoder(build_image_encoder(TINY), new))["fingerprint"]

    def put(self, illust_id: int, content: bytes) -> None:
        name = f"{illust_id}.png"
        (self.images / name).write_bytes(content)
        self.rows[illust_id] = (name, None)

    @property
    def illustrations(self) -> DataFrame:
        rows = [(key, self.first_index + key, image, content) for key, (image, content) in self.rows.items()]
        return self.spark.createDataFrame(rows, "illust_id bigint, illust_index int, image string, image_content binary")

    def read(self, name: str) -> DataFrame | None:
        return self.spark.read.parquet(*self.store.snapshot(name).files) if self.store.exists(name) else None

    def todo(self, config: EmbedImagesConfig = CONFIG) -> DataFrame:
        return pictures_to_embed(self.illustrations, self.read(IMAGE_VECTORS.name), self.read(IMAGE_REJECTS), str(self.images),
                                 self.encoder, config)

    def embed(self, config: EmbedImagesConfig = CONFIG, only: tuple[str, ...] = (IMAGE_REJECTS, IMAGE_VECTORS.name), *,
              absent: bool = True) -> dict[str, Any]:
        self.encoder = config.named(read_facts(self.encoder_folder))["fingerprint"]
        vectors, rejects = self.read(IMAGE_VECTORS.name), self.read(IMAGE_REJECTS)
        gone = None if vectors is None or rejects is None else withdrawn_pictures(self.illustrations, vectors, rejects, absent=absent)
        run = EmbeddingRun(self.encoder_folder, str(self.images), config, self.store.unfinished("embed_images"))
        with embedded_pictures(self.todo(config), vectors, rejects, gone, run) as embedded:
            for name, update in embedded.updates.items():
                if name in only:
                    folder = self.store.staging(name)
                    update.frame.write.parquet(str(folder))
                    self.store.commit(name, folder, {}, append=update.append)
        return embedded.facts

    def vectors(self) -> pd.DataFrame:
        frame = self.read(IMAGE_VECTORS.name)
        assert frame is not None
        return current_vectors(frame, self.encoder).toPandas().sort_values("illust_id").reset_index(drop=True)

    def rejects(self) -> dict[str, str]:
        frame = self.read(IMAGE_REJECTS)
        assert frame is not None
        rows = [(row["key"], row["rule"]) for row in frame.collect()]
        assert len(rows) == len(set(rows))
        return dict(rows)

    def versions(self) -> dict[str, int]:
        return {name: self.store.snapshot(name).version for name in (IMAGE_VECTORS.name, IMAGE_REJECTS)}


@pytest.fixture
def site(spark: SparkSession, tmp_path: Path) -> Site:
    return Site(spark, tmp_path)


# ---------------------------------------------------------------- what comes out
def test_spark_gives_what_the_bare_encoder_gives(site: Site) -> None:
    for key in range(7):
        site.put(key, picture_bytes(key))
    site.rows[7] = (None, picture_bytes(7))  # bytes in the catalogue
    site.rows[8] = (None, None)  # no picture: no fault
    facts = site.embed(CONFIG.model_copy(update={"partitions": 2}))
    vectors, encoder = site.vectors(), load_image_encoder(site.encoder_folder)
    pictures = np.stack([decode_picture(picture_bytes(key), 32, PictureLimits()) for key in range(8)])
    with torch.inference_mode():
        expected = encoder(to_pixels(pictures))
    assert vectors["illust_id"].tolist() == list(range(8))
    assert vectors["illust_index"].tolist() == list(range(100, 108))
    for name, values in (("semantic", expected.semantic_BS), ("style", expected.style_BY)):
        np.testing.assert_allclose(np.stack(vectors[name]), values.numpy(), rtol=2e-3, atol=1e-3)
        assert (np.stack(vectors[name]) == np.stack(vectors[name]).astype(np.float16)).all()  # rounded, so zstd can halve it
    assert vectors["sha256"].tolist() == [hashlib.sha256(picture_bytes(key)).hexdigest() for key in range(8)]
    assert facts["rows"] == {"new": 8, "changed": 0, "retried": 0}
    assert sum(part["rows"] for part in facts["partitions"]) == 8
    assert len(facts["partitions"]) == 2
    assert min(seconds for phase, seconds in facts["seconds"].items() if phase != "write") > 0  # a batch each: none before it
    assert all(part["pictures_per_second"] == pytest.approx(part["rows"] / part["task"], rel=0.05) for part in facts["partitions"])
    assert facts["seconds"]["task"] > facts["seconds"]["encode"]
    assert count_pictures(site.illustrations) == {"with_picture": 8, "without_picture": 1}


def test_a_url_gives_the_vectors_that_a_folder_gives(site: Site, tmp_path: Path) -> None:
    for key in range(4):
        site.put(key, picture_bytes(key))
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for file in site.images.iterdir():
            archive.write(file, f"deep/{file.name}")
    site.rows[9] = ("missing.png", None)
    rows = {}
    for root in (str(site.images), f"file://{site.images}", f"zip://deep::{tmp_path}/pictures.zip"):
        todo = pictures_to_embed(site.illustrations, None, None, root, site.encoder, CONFIG)
        embedded = embed_pictures(todo, site.encoder_folder, root, CONFIG).toPandas().sort_values("illust_id")
        rows[root] = [(row.illust_id, row.rule, row.sha256, None if row.rule else list(row.style)) for row in embedded.itertuples()]
    folder, url, archived = rows.values()
    assert folder == url == archived
    assert [rule for _, rule, _, _ in folder] == [None] * 4 + ["missing_file"]


def test_a_partition_called_directly_gives_the_same(site: Site) -> None:
    for key in range(5):
        site.put(key, picture_bytes(key))
    todo = site.todo().toArrow().to_batches()
    batches = embed_batches(todo, folder=str(site.encoder_folder), fingerprint=site.encoder, image_root=str(site.images),
                            config=CONFIG)
    direct = pa.Table.from_batches(batches).to_pandas().sort_values("illust_id")
    over_spark = embed_pictures(site.todo(), site.encoder_folder, str(site.images), CONFIG).toPandas().sort_values("illust_id")
    assert sorted(direct.columns) == sorted(over_spark.columns) == sorted(part.split()[0] for part in EMBEDDED.split(", "))
    for name in ("semantic", "style"):
        np.testing.assert_allclose(np.stack(direct[name]), np.stack(over_spark[name]), rtol=2e-3, atol=1e-3)


def test_a_bad_picture_is_a_reject_and_never_a_dead_task(site: Site) -> None:
    bad = {1: b"", 2: b"<html>", 3: picture_bytes(3)[:200]}
    for key in range(6):
        site.put(key, bad.get(key, picture_bytes(key)))
    site.rows[6], site.rows[7] = ("gone.png", None), ("../encoder/config.json", None)
    site.rows[8] = (None, b"not a picture")
    facts = site.embed()
    expected = {"1": "empty_file", "2": "not_an_image", "3": "truncated", "6": "missing_file", "7": "path_leaves_root",
                "8": "not_an_image"}
    assert site.rejects() == expected
    assert site.vectors()["illust_id"].tolist() == [0, 4, 5]
    assert facts["rejects"] == {"empty_file": 1, "not_an_image": 2, "truncated": 1, "missing_file": 1, "path_leaves_root": 1}


def test_vectors_that_say_nothing_are_rejects() -> None:
    good, zero = np.ones(3, np.float32), np.zeros(3, np.float32)
    nan, infinite = np.array([1, np.nan, 1], np.float32), np.array([1, np.inf, 1], np.float32)
    assert judge(good, good).rule is None
    assert (judge(nan, good).rule, judge(nan, good).value) == ("vector_not_finite", "semantic")
    assert (judge(good, infinite).rule, judge(good, infinite).value) == ("vector_not_finite", "style")
    assert (judge(good, zero).rule, judge(good, zero).semantic) == ("vector_all_zero", None)


# ---------------------------------------------------------------- what is embedded again
def test_a_second_run_embeds_nothing_and_commits_nothing(site: Site) -> None:
    site.put(1, picture_bytes(1))
    site.put(2, b"<html>")
    site.rows[3] = (None, picture_bytes(3))
    site.embed()
    before = site.versions()
    assert site.todo().count() == 0
    assert site.embed()["rows"] == {"new": 0, "changed": 0, "retried": 0}
    assert site.versions() == before


def test_with_no_picture_at_all_the_tables_still_exist(site: Site) -> None:
    site.rows[1] = (None, None)
    site.embed()
    vectors, rejects = site.read(IMAGE_VECTORS.name), site.read(IMAGE_REJECTS)
    assert vectors is not None
    assert rejects is not None
    assert (vectors.count(), rejects.count()) == (0, 0)
    assert tuple(vectors.columns) == IMAGE_VECTORS.column_names


def test_only_new_pictures_are_embedded_and_added(site: Site) -> None:
    site.put(1, picture_bytes(1))
    site.embed()
    first_files = set(site.store.snapshot(IMAGE_VECTORS.name).files)
    site.put(2, picture_bytes(2))
    assert [(row["illust_id"], row["reason"]) for row in site.todo().collect()] == [(2, "new")]
    site.embed()
    assert site.vectors()["illust_id"].tolist() == [1, 2]
    assert first_files < set(site.store.snapshot(IMAGE_VECTORS.name).files)  # nothing was written again


def test_a_changed_picture_replaces_its_row(site: Site) -> None:
    for key in (1, 2, 3):
        site.put(key, picture_bytes(key))
    site.rows[3] = (None, picture_bytes(3))
    site.embed()
    before = site.vectors()
    site.put(1, picture_bytes(11))
    site.rows[3] = (None, picture_bytes(33))
    assert {row["illust_id"]: row["reason"] for row in site.todo().collect()} == {1: "changed", 3: "changed"}
    site.embed()
    after = site.vectors()
    assert after["illust_id"].tolist() == [1, 2, 3]
    assert after["sha256"].tolist() == [hashlib.sha256(picture_bytes(seed)).hexdigest() for seed in (11, 2, 33)]
    assert not np.allclose(before["style"][0], after["style"][0])
    np.testing.assert_array_equal(before["style"][1], after["style"][1])


def test_same_size_and_content_but_another_time_is_looked_at_again(site: Site) -> None:
    site.put(1, picture_bytes(1))
    site.embed()
    os.utime(site.images / "1.png", ns=(1, 1))
    site.embed()
    assert len(site.vectors()) == 1
    assert site.todo().count() == 0


def test_a_mended_picture_leaves_the_rejects_and_a_broken_one_the_vectors(site: Site) -> None:
    site.put(1, b"<html>")
    site.put(2, picture_bytes(2))
    site.embed()
    site.put(1, picture_bytes(1))
    site.put(2, picture_bytes(2)[:100])
    site.embed()
    assert site.vectors()["illust_id"].tolist() == [1]
    assert site.rejects() == {"2": "truncated"}


def test_rejects_are_retried_only_when_asked(site: Site) -> None:
    site.put(1, b"<html>")
    site.put(2, picture_bytes(2))
    site.embed()
    assert site.todo().count() == 0
    assert [(row["illust_id"], row["reason"]) for row in site.todo(CONFIG.model_copy(update={"retry_rejects": True})).collect()] == [(1, "retried")]
    strict = CONFIG.model_copy(update={"retry_rejects": True, "max_reject_share": 0.0, "reject_allowance": 0})
    assert site.embed(strict)["rows"]["retried"] == 1  # and it does not count against the share
    assert site.rejects() == {"1": "not_an_image"}


def test_another_encoder_embeds_all_beside_the_old_vectors(site: Site, tmp_path: Path) -> None:
    site.put(1, picture_bytes(1))
    site.put(2, b"<html>")
    site.embed()
    old, old_encoder = site.vectors(), site.encoder
    site.use_encoder(tmp_path / "encoder-2", seed=1)
    assert site.todo().count() == 2
    site.embed()
    table = site.read(IMAGE_VECTORS.name)
    assert table is not None
    assert {row["encoder"] for row in table.select("encoder").collect()} == {old_encoder, site.encoder}
    assert not np.allclose(old["style"][0], site.vectors()["style"][0])
    assert site.rejects() == {"2": "not_an_image"}  # tried by both, one row
    site.put(1, picture_bytes(11))  # the new encoder's row is replaced, the old encoder's stays
    site.embed()
    table = site.read(IMAGE_VECTORS.name)
    assert table is not None
    assert table.count() == 2
    np.testing.assert_array_equal(current_vectors(table, old_encoder).toPandas()["style"][0], old["style"][0])


def test_killed_between_the_two_commits_it_finishes_without_loss_or_double(site: Site) -> None:
    for key in (1, 2):
        site.put(key, picture_bytes(key))
    site.embed()
    site.put(2, b"<html>")  # vectors must lose it
    site.put(3, b"<html>")
    site.put(4, picture_bytes(4))
    site.embed(only=(IMAGE_REJECTS,))  # dies before the vectors
    strict = CONFIG.model_copy(update={"max_reject_share": 0.5, "reject_allowance": 0})
    site.embed(strict)
    assert site.vectors()["illust_id"].tolist() == [1, 4]
    assert site.rejects() == {"2": "not_an_image", "3": "not_an_image"}
    assert site.todo().count() == 0


# ---------------------------------------------------------------- refusals
def test_what_was_there_and_could_not_be_read_is_tried_again_unasked(site: Site, spark: SparkSession) -> None:
    for key in range(4):
        site.put(key, picture_bytes(key))
    site.rows[4] = ("missing.png", None)
    states = {row["illust_id"]: row["state"] for row in site.todo().collect()}
    rules = {0: "unreadable_file", 1: "missing_file", 2: "truncated", 4: "missing_file"}
    rejects = spark.createDataFrame([("illustrations", str(key), rule, "x", f"{site.encoder}|{states[key]}")
                                     for key, rule in rules.items()], IMAGE_REJECTS_COLUMNS)
    todo = pictures_to_embed(site.illustrations, None, rejects, str(site.images), site.encoder, CONFIG)
    assert {row["illust_id"]: row["reason"] for row in todo.collect()} == {0: "retried", 1: "retried", 3: "new"}


def test_a_picture_out_of_reach_keeps_its_vectors_and_is_tried_again(site: Site) -> None:
    for key in (1, 2, 3):
        site.put(key, picture_bytes(key))
    site.embed()
    before = site.vectors()
    (site.images / "2.png").rename(site.images / "away")
    site.put(3, picture_bytes(33))
    facts = site.embed()
    assert (facts["rows"]["changed"], facts["revised"]) == (2, 1)
    after = site.vectors()
    assert after["illust_id"].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(after["style"][1], before["style"][1])
    assert not np.array_equal(after["style"][2], before["style"][2])
    assert site.rejects() == {"2": "missing_file"}
    assert {row["illust_id"]: row["reason"] for row in site.todo().collect()} == {2: "retried"}
    (site.images / "away").rename(site.images / "2.png")  # as it was, to the nanosecond
    assert {row["illust_id"]: row["reason"] for row in site.todo().collect()} == {2: "changed"}
    site.embed()
    assert site.rejects() == {}
    assert len(site.vectors()) == 3
    assert site.todo().count() == 0


def test_pictures_lost_for_good_are_put_up_with_after_the_first_week(site: Site) -> None:
    for key in range(8):
        site.put(key, picture_bytes(key))
    strict = EmbedImagesConfig(batch=4, partitions=1)
    site.embed(strict)
    for key in (2, 3):
        (site.images / f"{key}.png").unlink()
    for key in (0, 1):
        site.put(key, picture_bytes(10 + key))
    site.embed(strict)  # two of four
    before = site.store.snapshot(IMAGE_VECTORS.name).version
    for _ in range(2):
        facts = site.embed(strict)
        assert (facts["rows"], facts["fresh_rejects"]) == ({"new": 0, "changed": 0, "retried": 2}, 0)
    assert site.store.snapshot(IMAGE_VECTORS.name).version == before  # nothing to write
    assert len(site.vectors()) == 8
    assert site.rejects() == {"2": "missing_file", "3": "missing_file"}


def test_files_are_compared_by_content_where_asked_for(site: Site) -> None:
    by_content = CONFIG.model_copy(update={"changed_by": "content"})
    for key, tail in ((1, b""), (2, b"a"), (3, b"")):  # what follows a PNG's end is no part of the picture
        site.put(key, picture_bytes(key) + tail)
    assert site.embed(by_content)["rows"] == {"new": 3, "changed": 0, "retried": 0}
    before = os.stat(site.images / "2.png")
    os.utime(site.images / "1.png", ns=(0, 1))  # the same bytes, copied later
    (site.images / "2.png").write_bytes(picture_bytes(2) + b"b")
    os.utime(site.images / "2.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    (site.images / "3.png").rename(site.images / "moved.png")
    site.rows[3] = ("moved.png", None)
    assert {row["illust_id"]: row["reason"] for row in site.todo(by_content).collect()} == {2: "changed"}
    assert site.embed(by_content)["rows"]["changed"] == 1
    assert site.embed(CONFIG)["rows"]["changed"] == 3  # the other setting: once more
    assert len(site.vectors()) == 3


def test_the_unfinished_work_of_another_encoder_waits_on(site: Site) -> None:
    other = site.store.unfinished("embed_images") / "other" / "run-000"
    other.mkdir(parents=True)
    site.put(1, picture_bytes(1))
    site.embed()
    assert other.is_dir()
    assert not (site.store.unfinished("embed_images") / site.encoder).exists()


def test_an_odd_batch_is_cut_into_sizes_that_come_again() -> None:
    assert even_sizes(64, 64) == [64]
    assert even_sizes(100, 100) == [100]
    assert even_sizes(60, 64) == [32, 16, 8, 4]
    assert even_sizes(1, 64) == [1]
    assert all(sum(even_sizes(count, 100)) == count for count in range(1, 101))
    assert {size for count in range(1, 65) for size in even_sizes(count, 64)} == {1, 2, 4, 8, 16, 32, 64}


def test_rows_are_cut_into_batches_whatever_sizes_they_come_in() -> None:
    given = [pa.RecordBatch.from_pydict({"row": pa.array(range(start, end), pa.int64())})
             for start, end in ((0, 2), (2, 3), (3, 12), (12, 12), (12, 13))]
    tables = [table["row"].to_pylist() for table in tables_of(given, 4)]
    assert tables == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12]]
    assert [len(table) for table in tables_of(given[:3], 4)] == [4, 4, 4]
    assert list(tables_of([], 4)) == list(tables_of(given[3:4], 4)) == []


@pytest.mark.parametrize("missing", [[], ["write_seconds"]], ids=["this version", "one that did not time writing"])
def test_what_a_killed_run_has_finished_is_taken_over(site: Site, missing: list[str]) -> None:
    for key in range(6):
        site.put(key, picture_bytes(key))
    site.put(6, b"no picture")
    left = site.store.unfinished("embed_images") / site.encoder / "run-000"
    done = site.todo().filter("illust_id IN (0, 1, 2, 3, 6)")
    embed_pictures(done, site.encoder_folder, str(site.images), CONFIG).withColumn(  # marked, to be known again
        "style", F.expr("transform(style, x -> 7f)")).drop(*missing).write.parquet(str(left))
    (left / "_temporary" / "0").mkdir(parents=True)  # as a kill leaves it
    site.put(2, picture_bytes(22))  # changed since
    site.rows.pop(3)  # withdrawn since
    facts = site.embed()
    assert facts["resumed"] == 2
    assert sum(part["rows"] for part in facts["partitions"]) == 4  # of this run alone
    assert facts["rows"] == {"new": 6, "changed": 0, "retried": 0}
    assert site.rejects() == {"6": "not_an_image"}  # tried again, as it might have been mended
    vectors = site.vectors()
    assert vectors["illust_id"].tolist() == [0, 1, 2, 4, 5]
    assert [set(style) == {7.0} for style in vectors["style"]] == [True, True, False, False, False]
    assert not (site.store.unfinished("embed_images") / site.encoder).exists()
    assert site.embed()["rows"]["new"] == 0


def test_too_many_rejects_stop_the_run_with_nothing_committed(site: Site) -> None:
    for key in range(8):
        site.put(key, b"<html>" if key in (2, 5, 6) else picture_bytes(key))
    strict = CONFIG.model_copy(update={"max_reject_share": 0.25, "reject_allowance": 0})
    with pytest.raises(ContractError, match=r"found 3 of 8 pictures that cannot be embedded, most by rule not_an_image \(3\); "
                                            r"first: illust_id 2, not_an_image, .*expected at most 2 .*nothing was committed"):
        site.embed(strict)
    assert not site.store.exists(IMAGE_VECTORS.name)
    assert not site.store.exists(IMAGE_REJECTS)
    site.embed(CONFIG.model_copy(update={"max_reject_share": 0.375, "reject_allowance": 0}))  # three of eight
    assert len(site.vectors()) == 5


def test_a_few_rejects_are_put_up_with_but_not_when_most_fail(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """The allowance is 10; one of one passes, and of four two do, three do not."""
    lenient = CONFIG.model_copy(update={"max_reject_share": 0.0, "reject_allowance": 10})
    site.put(0, b"<html>")
    assert site.embed(lenient)["fresh_rejects"] == 1
    assert "1 of 1 pictures cannot be embedded, more than embed_images.max_reject_share 0.0; so few are let pass" in caplog.text
    for key in range(1, 5):
        site.put(key, b"<html>" if key < 4 else picture_bytes(key))
    with pytest.raises(ContractError, match=r"found 3 of 4 pictures .*expected at most 2 .*never below the smaller of "
                                            r"embed_images.reject_allowance 10 and half of them"):
        site.embed(lenient)
    site.put(3, picture_bytes(3))
    assert site.embed(lenient)["fresh_rejects"] == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that the test does without")
def test_cuda_without_a_gpu_is_refused(site: Site) -> None:
    site.put(1, picture_bytes(1))
    with pytest.raises(ClusterError, match=r"embed_images.device=cuda: found no GPU in a Spark task"):
        site.embed(CONFIG.model_copy(update={"device": "cuda"}))
    assert not site.store.exists(IMAGE_VECTORS.name)


def test_the_encoder_is_loaded_once_for_a_fingerprint(site: Site) -> None:
    first = open_encoder(str(site.encoder_folder), site.encoder, "cpu", 1)
    assert open_encoder(str(site.encoder_folder), site.encoder, "cpu", 1) is first
    assert open_encoder(str(site.encoder_folder), "another", "cpu", 1) is not first


def test_a_spark_worker_loads_the_encoder_once_however_many_tasks_it_runs(site: Site) -> None:
    def loads(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            yield pa.RecordBatch.from_pydict({"worker": [os.getpid()], "loads": [open_encoder.cache_info().misses]})

    def by_worker() -> dict[int, int]:
        return dict(site.spark.range(0, 40, 1, 40).mapInArrow(loads, "worker bigint, loads bigint").collect())

    for key in range(12):
        site.put(key, picture_bytes(key))
    before = by_worker()
    facts = site.embed(CONFIG.model_copy(update={"partitions": 12}))
    made = [count - before.get(worker, 0) for worker, count in by_worker().items()]
    assert len(facts["partitions"]) > len(made)  # so that some worker ran several tasks
    assert max(made) == 1


def test_an_arrow_batch_of_the_largest_pictures_fits_into_2_gib() -> None:
    def rows(megabytes: int, batch: int = 64) -> int:
        limits = PictureLimits(max_bytes=megabytes * 2**20 - 1)
        return rows_of_a_batch(EmbedImagesConfig(batch=batch, limits=limits))

    assert [rows(16), rows(32), rows(64), rows(1024), rows(4096)] == [64, 64, 32, 2, 1]
    assert rows(16, batch=1024) == 128


# ---------------------------------------------------------------- what is gone
def test_vectors_of_withdrawn_pictures_go(site: Site) -> None:
    for key in range(4):
        site.put(key, picture_bytes(key))
    site.embed()
    site.rows[1] = (None, None)  # the illustration stays, its picture is gone
    del site.rows[2]
    assert site.embed(absent=False)["withdrawn"] == 1  # an earlier week again: what it does not list may come later
    assert site.vectors()["illust_id"].tolist() == [0, 2, 3]
    assert site.embed()["withdrawn"] == 1
    assert site.vectors()["illust_id"].tolist() == [0, 3]
    versions = site.versions()
    assert site.embed()["withdrawn"] == 0
    assert site.versions() == versions


def test_a_catalogue_that_lost_its_pictures_deletes_no_vectors(site: Site) -> None:
    for key in range(5):
        site.put(key, picture_bytes(key))
    site.embed()
    versions, rows = site.versions(), dict(site.rows)
    strict = CONFIG.model_copy(update={"reject_allowance": 0})
    site.rows = dict.fromkeys(rows, (None, None))  # the column is empty, or has another name
    with pytest.raises(ContractError, match=r"illustrations: found 5 of 5 pictures with vectors withdrawn at once; expected at most "
                                            r"20.0% of them \(embed_images.max_withdrawn_share\), .*nothing was committed"):
        site.embed(strict)
    assert site.versions() == versions
    site.rows = {key: row for key, row in rows.items() if key > 1}
    with pytest.raises(ContractError, match="found 2 of 5 pictures"):
        site.embed(strict)
    assert site.embed(strict.model_copy(update={"max_withdrawn_share": 0.4}))["withdrawn"] == 2
    assert site.embed(strict)["withdrawn"] == 0


def test_rejects_of_withdrawn_pictures_go(site: Site) -> None:
    for key in (1, 5, 6):
        site.put(key, picture_bytes(key))
    for key in (2, 3, 4):
        site.put(key, b"not a picture")
    site.embed()
    assert sorted(site.rejects()) == ["2", "3", "4"]
    before = site.versions()
    del site.rows[2]
    site.rows[3] = (None, None)
    assert site.embed(absent=False)["withdrawn_rejects"] == 1
    assert sorted(site.rejects()) == ["2", "4"]
    assert site.embed()["withdrawn_rejects"] == 1
    assert sorted(site.rejects()) == ["4"]
    assert site.embed()["withdrawn_rejects"] == 0
    assert site.vectors()["illust_id"].tolist() == [1, 5, 6]
    assert site.versions() == {IMAGE_VECTORS.name: before[IMAGE_VECTORS.name], IMAGE_REJECTS: before[IMAGE_REJECTS] + 2}


def test_an_illustration_with_another_index_is_embedded_again_under_it(site: Site) -> None:
    site.put(1, picture_bytes(1))
    site.embed()
    site.first_index = 500
    assert site.embed()["rows"]["changed"] == 1
    assert site.vectors()["illust_index"].tolist() == [501]


# ---------------------------------------------------------------- how, not what
def test_with_prefetching_the_next_batch_is_drawn_before_the_present_one_is_handed_out() -> None:
    said: list[str] = []

    def source() -> Iterator[tuple[Any, list[Any]]]:
        for batch in "abc":
            said.append(f"draws {batch}")
            yield batch, []

    for batch, _ in one_ahead(source()):
        said.append(f"has {batch}")
    assert said == ["draws a", "draws b", "has a", "draws c", "has b", "has c"]


def test_waiting_for_spark_to_take_vectors_is_timed(site: Site) -> None:
    """A consumer that takes a fifth of a second for each batch; how long the last one takes is not known when it is made."""
    for key in range(6):
        site.put(key, picture_bytes(key))
    todo = pa.Table.from_batches(site.todo().toArrow().to_batches()).combine_chunks().to_batches()
    made = embed_batches(todo, folder=str(site.encoder_folder), fingerprint=site.encoder, image_root=str(site.images),
                         config=CONFIG.model_copy(update={"batch": 2}))
    waited = []
    for batch in made:
        waited.append(sum(batch.column("write_seconds").to_pylist()))
        time.sleep(0.2)
    assert waited[0] == 0
    assert waited[1:] == pytest.approx([0.2, 0.2], abs=0.1)


@pytest.mark.parametrize("changes", [{"prefetch": True}, {"precision": "bfloat16"}, {"precision": "float16"},
                                     {"batch": 2}, {"compile": True, "partitions": 1}])
def test_how_a_picture_is_embedded_hardly_changes_its_vectors(site: Site, changes: dict[str, Any]) -> None:
    for key in range(5):
        site.put(key, patchwork_bytes(key))
    facts, vectors = site.embed(CONFIG.model_copy(update=changes)), site.vectors()
    encoder = load_image_encoder(site.encoder_folder)
    pictures = np.stack([decode_picture(patchwork_bytes(key), 32, PictureLimits()) for key in range(5)])
    with torch.inference_mode():
        expected = encoder(to_pixels(pictures))
    assert facts["rows"]["new"] == 5
    near = {"bfloat16": 0.03, "float16": 0.01}.get(changes.get("precision", ""), 2e-3)
    for name, values in (("semantic", expected.semantic_BS), ("style", expected.style_BY)):
        found = np.stack(vectors[name])
        cosine = (found * values.numpy()).sum(1) / np.linalg.norm(found, axis=1) / values.norm(dim=1).numpy()
        assert (cosine > 1 - near).all()
        away_55 = np.linalg.norm(found[:, None] - values.numpy()[None], axis=2)  # each nearest to its own, by far
        assert (3 * away_55.diagonal() < (away_55 + np.diag([np.inf] * 5)).min(1)).all()


def test_another_precision_is_another_encoder(site: Site) -> None:
    site.put(1, picture_bytes(1))
    site.embed()
    assert site.embed(CONFIG.model_copy(update={"precision": "bfloat16"}))["rows"]["new"] == 1
    assert site.embed(CONFIG.model_copy(update={"precision": "bfloat16"}))["rows"]["new"] == 0
    assert site.embed()["rows"]["new"] == 0
    named = {row["encoder"] for row in site.read(IMAGE_VECTORS.name).collect()}
    assert named == {site.encoder, f"{site.encoder}-bfloat16"}


# ---------------------------------------------------------------- a new encoder beside the old one
def test_drift_by_hand(spark: SparkSession) -> None:
    """Twenty directions around a circle, the ten nearest of each being five to either side. The new encoder turns all by 60
    degrees and swaps two opposite ones, 0 and 10: these keep 2 of their ten (5 and 15), the eight on either side that had one
    of them near keep 9, and 5 and 15, which have both near, keep all: (2 x 0.2 + 16 x 0.9 + 2 x 1) / 20 = 0.84."""
    angle_N = np.arange(20) * 2 * np.pi / 20
    turned_N = (angle_N + np.pi / 3)[[10, *range(1, 10), 0, *range(11, 20)]]
    rows = [(key, encoder, [float(np.cos(angle)), float(np.sin(angle))], [1.0, float(key)])
            for encoder, angles in (("old", angle_N), ("new", turned_N)) for key, angle in enumerate(angles)]
    vectors = spark.createDataFrame(rows, "illust_id bigint, encoder string, semantic array<float>, style array<float>")
    drift = measure_drift(vectors, "old", "new")
    assert (drift["rows"], drift["before"], drift["after"]) == (20, "old", "new")
    assert drift["semantic"]["overlap"] == 0.84
    # eighteen cosines of 60 degrees, and two of 240: sorted, the quantile 0.1 lies at 1.9 between the second and the third
    assert drift["semantic"]["cosine"] == pytest.approx({"0.01": -0.5, "0.1": 0.4, "0.5": 0.5, "0.9": 0.5, "0.99": 0.5}, abs=1e-3)
    assert drift["style"] == {"overlap": 1.0, "cosine": dict.fromkeys(("0.01", "0.1", "0.5", "0.9", "0.99"), 1.0)}
    wide = vectors.withColumn("semantic", F.expr("CASE WHEN encoder = 'new' THEN concat(semantic, array(0f)) ELSE semantic END"))
    assert measure_drift(wide, "old", "new")["semantic"]["cosine"] is None
    listed = spark.range(20).withColumnRenamed("id", "illust_id")
    assert require_coverage(vectors, listed, "old", "new", 0.05) == {"before": 20, "after": 20}
    fewer = vectors.filter("encoder = 'old' OR illust_id < 18")
    with pytest.raises(ContractError, match=r"vectors of 18 illustrations by the new encoder new, of the 20 that the old old knows.*nothing switches"):
        require_coverage(fewer, listed, "old", "new", 0.05)
    assert require_coverage(fewer, listed, "old", "new", 0.1) == {"before": 20, "after": 18}
    assert require_coverage(fewer, listed.filter("illust_id < 18"), "old", "new", 0) == {"before": 18, "after": 18}  # an earlier week
    fresh = fewer.unionByName(fewer.filter("encoder = 'new' AND illust_id < 2").withColumn("illust_id", F.col("illust_id") + 100))
    everything = listed.unionByName(listed.withColumn("illust_id", F.col("illust_id") + 100))
    with pytest.raises(ContractError, match="vectors of 18 illustrations by the new encoder new, of the 20 that the old old knows"):
        require_coverage(fresh, everything, "old", "new", 0.05)  # two that the old one never tried make up for none
