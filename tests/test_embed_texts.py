"""Text embedding over Spark: each text once for each encoder, the same vectors as the bare model, odd texts handled."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from embed_texts import embed_texts as embed_texts_job
from pyspark.errors import PythonException
from pyspark.sql import functions as F
from sentence_transformers import SentenceTransformer

from umair.config import load_config
from umair.embedding.drift import require_coverage
from umair.embedding.texts import (
    EmbedTextsConfig,
    embed_batches,
    embed_texts,
    embedded_texts,
    present_texts,
    texts_to_embed,
    worker_encoder,
)
from umair.errors import ContractError, StorageError
from umair.job import Config, Job, run_step
from umair.model.text_encoder import (
    TextEncoderConfig,
    build_text_encoder,
    load_text_encoder,
    save_text_encoder,
    text_encoder_facts,
)
from umair.schema import ILLUSTRATIONS, TAGS, TEXT_VECTORS
from umair.storage import Store, write_folder
from umair.weeks import Week

torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent
CONFIG = EmbedTextsConfig(batch=4, partitions=2)
WORDS = ["猫", "ネコ", "cat", "青い猫", "蓝猫", "blue cat", "犬", "dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders") / "small"
    model = build_text_encoder(TextEncoderConfig(vocabulary_size=512, width=32, layers=1, heads=2), WORDS)

    def write(target: Path) -> dict[str, object]:
        save_text_encoder(model, target)
        return text_encoder_facts(model)

    write_folder(folder, write)
    return folder


@pytest.fixture
def tags(spark):
    return lambda *words: spark.createDataFrame([(word, index, 1) for index, word in enumerate(words)], TAGS.columns)


@pytest.fixture
def titled(spark):
    def frame(*titles):
        rows = [{"illust_id": number, "title": title} for number, title in enumerate(titles)]
        return spark.createDataFrame([[row.get(name) for name in ILLUSTRATIONS.column_names] for row in rows],
                                     ILLUSTRATIONS.columns)
    return frame


def words(*given: str) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"text": list(given)})


def listed(frame) -> list[str]:
    return sorted(row.text for row in frame.collect())


# ---------------------------------------------------------------- which texts
def test_each_tag_and_title_once_and_nothing_invisible(tags, titled):
    config = CONFIG.model_copy(update={"include_titles": True})
    invisible = ["", "  ", "\u3000", "\x00\x1f", "\u200b\ufeff", None]
    new = texts_to_embed(tags("cat", "猫", *invisible[:5]), titled("cat", "Cat", *invisible), None, "e1", config)
    assert listed(new) == ["Cat", "cat", "猫"]


def test_a_tag_that_is_newer_than_javas_tables_of_characters_counts(tags, titled):
    assert listed(texts_to_embed(tags("\U0001fae8", "\u200d", "\ue000"), titled(), None, "e1", CONFIG)) == ["\ue000", "\U0001fae8"]


def test_titles_only_when_asked_for(tags, titled):
    assert listed(texts_to_embed(tags("cat"), titled("Study of a cat"), None, "e1", CONFIG)) == ["cat"]


def test_texts_that_this_encoder_embedded_are_not_new_those_of_another_are(spark, tags, titled):
    vectors = spark.createDataFrame([("cat", [1.0], "e1"), ("dog", [1.0], "e2")], TEXT_VECTORS.columns)
    assert listed(texts_to_embed(tags("cat", "dog", "fox"), titled(), vectors, "e1", CONFIG)) == ["dog", "fox"]


# ---------------------------------------------------------------- vectors
def test_spark_gives_the_bare_models_vectors_rounded_to_fp16(spark, folder):
    rows = embed_texts(spark.createDataFrame([(word,) for word in WORDS], "text string"), folder, CONFIG).toPandas()
    expected_ND = load_text_encoder(folder).encode(rows["text"].tolist())
    vector_ND = np.stack(rows["vector"])
    np.testing.assert_allclose(vector_ND, expected_ND, rtol=2 ** -10, atol=1e-6)  # fp16 keeps 11 bits
    np.testing.assert_array_equal(vector_ND, vector_ND.astype(np.float16))
    assert vector_ND.shape == (8, 512)
    assert sorted(rows["text"]) == sorted(WORDS)
    assert set(rows["encoder"]) == {text_encoder_facts(load_text_encoder(folder))["fingerprint"]}


def test_compiled_it_gives_the_same_vectors_for_texts_of_any_length(folder):
    found = {}
    for compiled in (False, True):
        config = CONFIG.model_copy(update={"compile": compiled})
        made = embed_batches([words("cat", "blue cat"), words(*WORDS), words("cat " * 30)], str(folder), "e", config)
        found[compiled] = np.array([vector for batch in made for vector in batch.column("vector").to_pylist()])
        network = worker_encoder(str(folder), "cpu", config.threads, compiled=compiled)[0].auto_model
        assert (network._compiled_call_impl is not None) == compiled
    worker_encoder.cache_clear()
    np.testing.assert_allclose(found[True], found[False], rtol=2 ** -10, atol=1e-4)


def test_called_directly_and_through_spark_it_gives_the_same_rows(spark, folder):
    encoder = text_encoder_facts(load_text_encoder(folder))["fingerprint"]
    batches = embed_batches([words(*WORDS[:3]), words(*WORDS[3:])], str(folder), encoder, CONFIG)
    direct = pa.Table.from_batches(batches).to_pandas().set_index("text")
    over_spark = embed_texts(spark.createDataFrame([(word,) for word in WORDS], "text string"), folder, CONFIG)
    for row in over_spark.collect():
        np.testing.assert_allclose(row.vector, direct.loc[row.text, "vector"], atol=1e-3)
        assert row.encoder == direct.loc[row.text, "encoder"]


def test_texts_are_sorted_together_however_few_spark_hands_out(folder, monkeypatch):
    """On a cluster Arrow batches have 256 rows; the encoder sorts by length within a call, and fills batches of its own."""
    asked = []
    encode = SentenceTransformer.encode
    monkeypatch.setattr(SentenceTransformer, "encode", lambda model, texts, **how: asked.append(len(texts)) or encode(model, texts, **how))
    whole = list(embed_batches([words(*WORDS)], str(folder), "e", CONFIG))
    parts = list(embed_batches([words(word) for word in WORDS], str(folder), "e", CONFIG))
    assert asked == [len(WORDS)] * 2
    assert parts[0].column("vector").equals(whole[0].column("vector"))


def test_the_model_is_loaded_once_in_a_worker(folder):
    worker_encoder.cache_clear()
    for _ in range(3):
        list(embed_batches([words("a"), words("b")], str(folder), "e", CONFIG))
    assert worker_encoder.cache_info().misses == 1


def test_odd_texts_keep_their_string_and_get_finite_vectors(spark, folder):
    odd = ["cat\x00dog", "a" * 100_000, "ｃａｔ", "🐱" * 500, "  cat  "]
    rows = embed_texts(spark.createDataFrame([(text,) for text in odd], "text string"), folder, CONFIG).collect()
    vectors = {row.text: np.array(row.vector) for row in rows}
    assert sorted(vectors) == sorted(odd)
    assert all(np.isfinite(vector).all() and vector.any() for vector in vectors.values())
    np.testing.assert_allclose(vectors["ｃａｔ"], vectors["  cat  "], atol=2e-3)


def test_vectors_of_no_use_stop_the_task(folder, tmp_path):
    broken = tmp_path / "broken"
    model = load_text_encoder(folder)
    with torch.no_grad():
        model[2].linear.weight.fill_(float("nan"))
    save_text_encoder(model, broken)
    with pytest.raises(ContractError, match="2 vectors that are zero or not finite, the first for 'cat'"):
        list(embed_batches([words("cat", "dog")], str(broken), "e", CONFIG))


def test_no_encoder_says_which_job_makes_it(spark, tmp_path):
    with pytest.raises(StorageError, match=r"found no facts.json; .*run the job that makes it first"):
        embed_texts(spark.createDataFrame([("a",)], "text string"), tmp_path, CONFIG)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu_is_refused(spark, folder):
    texts = spark.createDataFrame([("a",)], "text string")
    with pytest.raises(PythonException, match=r"embed_texts.device=cuda: found 0 visible GPUs, none with index 0"):
        embed_texts(texts, folder, CONFIG.model_copy(update={"device": "cuda"})).collect()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_another_precision_is_another_encoder_with_nearly_the_same_vectors(spark, folder, precision):
    texts = spark.createDataFrame([(word,) for word in WORDS], "text string")
    config = CONFIG.model_copy(update={"precision": precision})
    exact, rounded = (embed_texts(texts, folder, one).orderBy("text").toPandas() for one in (CONFIG, config))
    assert set(rounded["encoder"]) == {f"{exact['encoder'][0]}-{precision}"}
    exact_ND, rounded_ND = (np.stack(frame["vector"]) for frame in (exact, rounded))
    cosine_N = (exact_ND * rounded_ND).sum(1) / np.linalg.norm(exact_ND, axis=1) / np.linalg.norm(rounded_ND, axis=1)
    assert not np.array_equal(exact_ND, rounded_ND)
    assert (cosine_N > {"bfloat16": 0.999, "float16": 0.99999}[precision]).all()


def test_the_ledger_says_what_each_partition_took(spark, tags, titled, folder, tmp_path):
    new = texts_to_embed(tags(*WORDS), titled(), None, "e", CONFIG)
    with embedded_texts(new, folder, CONFIG.model_copy(update={"partitions": 2}), tmp_path) as (_, facts):
        first, second = facts["partitions"]
    assert first["rows"] + second["rows"] == facts["embedded"] == len(WORDS)
    for part in (first, second):
        assert 0 < part["encode"] <= part["task"]
        rounding = 0.0006  # seconds, to which `task` was rounded
        assert part["rows"] / (part["task"] + rounding) < part["texts_per_second"]
        assert part["texts_per_second"] * (part["task"] - rounding) < part["rows"]
    assert facts["seconds"]["encode"] == pytest.approx(first["encode"] + second["encode"], abs=0.002)


# ---------------------------------------------------------------- the table over weeks
def test_each_week_appends_what_is_new_and_no_text_twice(spark, tags, titled, folder, tmp_path):
    store = Store(tmp_path)
    encoder = text_encoder_facts(load_text_encoder(folder))["fingerprint"]

    def week(*words: str) -> int:
        there = spark.read.parquet(*store.snapshot("text_vectors").files) if store.exists("text_vectors") else None
        new = texts_to_embed(tags(*words), titled(), there, encoder, CONFIG)
        staging = store.staging("text_vectors")
        embed_texts(new, folder, CONFIG).select(*TEXT_VECTORS.column_names).write.parquet(str(staging))
        return store.commit("text_vectors", staging, {}, append=True).rows

    assert week() == 0  # a table without rows is a table
    assert week("cat", "dog") == 2
    assert week("cat", "dog", "fox") == 3
    assert week("cat", "dog", "fox") == 3


def test_a_title_that_is_withdrawn_loses_its_vector_and_a_tag_never_does(spark, tags, titled, folder, tmp_path):
    """By the job itself, over two weeks and the first one again."""
    def week(number: int, titles: tuple[str, ...], **changes: object) -> list[str]:
        config = load_config(ROOT / "conf/local.yaml", [f"root={tmp_path / 'root'}", "embed_texts.include_titles=true"], Config)
        job = Job(config, Week(2026, number))
        job.spark = spark

        def ingest_tables(_: Job) -> dict:
            return {"versions": {name: job.commit(name, frame).version for name, frame in (
                (TAGS.name, tags("cat", "dog")), (ILLUSTRATIONS.name, titled(*titles)))}}

        def finetune_text_encoder(_: Job) -> dict:
            shutil.copytree(folder, job.model_folder("finetune_text_encoder"), dirs_exist_ok=True)
            return {}

        for step in (ingest_tables, finetune_text_encoder, embed_texts_job):
            run_step(job, step)
        return sorted(job.read_newest(TEXT_VECTORS.name).toPandas()["text"])

    assert week(10, ("a fine day", "cat")) == ["a fine day", "cat", "dog"]
    assert week(11, ("another",)) == ["another", "cat", "dog"]
    assert week(9, ()) == ["another", "cat", "dog"]  # later weeks' titles are not withdrawn


@pytest.mark.parametrize("missing", [[], ["write_seconds"]], ids=["this version", "one that did not time writing"])
def test_what_a_killed_run_has_finished_is_taken_over(spark, tags, titled, folder, tmp_path, missing):
    encoder = text_encoder_facts(load_text_encoder(folder))["fingerprint"]
    done = spark.createDataFrame([("cat",), ("dog",), ("withdrawn since",)], "text string")
    marked = embed_texts(done, folder, CONFIG).withColumn("vector", F.expr("transform(vector, x -> 7f)"))  # to be known again
    for run in ("run-000", "run-001"):  # the same rows twice
        marked.drop(*missing).write.parquet(str(tmp_path / encoder / run))
    (tmp_path / encoder / "run-002" / "_temporary" / "0").mkdir(parents=True)  # as a kill leaves it
    new = texts_to_embed(tags("cat", "dog", "fox"), titled(), None, encoder, CONFIG)
    with embedded_texts(new, folder, CONFIG, tmp_path) as (rows, facts):
        vectors = {row["text"]: set(row["vector"]) for row in rows.collect()}
    assert (facts["embedded"], facts["resumed"]) == (3, 2)
    assert sum(part["rows"] for part in facts["partitions"]) == 1  # of this run alone
    assert {text: vector == {7.0} for text, vector in vectors.items()} == {"cat": True, "dog": True, "fox": False}
    assert tuple(rows.columns) == TEXT_VECTORS.column_names
    assert not (tmp_path / encoder).exists()


def test_texts_whose_commit_failed_wait_for_the_next_run(spark, tags, titled, folder, tmp_path):
    new = texts_to_embed(tags("cat", "dog"), titled(), None, "e", CONFIG)
    with pytest.raises(OSError, match="disk full"), embedded_texts(new, folder, CONFIG, tmp_path) as (_, facts):
        raise OSError("disk full")
    assert facts["resumed"] == 0
    with embedded_texts(new, folder, CONFIG, tmp_path) as (rows, facts):
        assert (rows.count(), facts["embedded"], facts["resumed"]) == (2, 2, 2)


def test_a_new_text_encoder_must_know_the_texts_that_the_old_one_knew(spark, tags, titled):
    present = present_texts(tags("cat", "dog", "cat"), titled("Study"), CONFIG)
    knows = [("cat", [1.0], "old"), ("dog", [1.0], "old"), ("gone since", [1.0], "old"), ("cat", [1.0], "new")]
    with pytest.raises(ContractError, match=r"text_vectors: found vectors of 1 texts by the new encoder new, of the 2 that the old old knows"):
        require_coverage(spark.createDataFrame(knows, TEXT_VECTORS.columns), present, "old", "new", 0.0, key="text")
    whole = spark.createDataFrame([*knows, ("dog", [1.0], "new")], TEXT_VECTORS.columns)
    assert require_coverage(whole, present, "old", "new", 0.0, key="text") == {"before": 2, "after": 2}
