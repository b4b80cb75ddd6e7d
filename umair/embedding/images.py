"""Which pictures are new or changed, their vectors and rejects, and how the two tables take them up.

`image_vectors` holds one row an illustration and encoder: a week that only adds pictures appends to it, one in which
pictures changed replaces it, as their old rows must go. `image_rejects`, which is small, holds the present rejects alone.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.storagelevel import StorageLevel

from umair.devices import require_gpu, tasks_for
from umair.embedding.arrow import in_worker
from umair.embedding.image_worker import EMBEDDED, embed_batches
from umair.embedding.image_worker import EmbedImagesConfig as EmbedImagesConfig
from umair.embedding.phases import EARLIER, phases_and_rates, seconds_of, sums_of
from umair.embedding.unfinished import UnfinishedWork
from umair.errors import ContractError
from umair.picture_files import NOT_THERE, picture_hash, picture_state
from umair.schema import ILLUSTRATIONS, IMAGE_REJECTS, IMAGE_VECTORS
from umair.storage import read_facts

log = logging.getLogger("umair")

PHASES = ("read", "decode", "encode", "write", "task")  # read and decode in threads; write: until Spark, which writes
#                                           vectors as they come, has taken them; task: from start to end
OUT_OF_REACH = ("missing_file", "unreadable_file")  # rules that say more of the store than of the picture
REASONS = ("new", "changed", "retried")  # why a picture is embedded
HAS_PICTURE = "image IS NOT NULL OR image_content IS NOT NULL"
ARROW_ROWS = "spark.sql.execution.arrow.maxRecordsPerBatch"
SAME_PICTURE = ["illust_id", "illust_index", "state"]
ARROW_BYTES = 2**31  # of one column in one batch, at most
TASKS_A_SLOT = 4  # evens out partitions of large and small pictures
ROWS_A_TASK = 5_000  # pictures: minutes on a GPU, and at most that is made again when a task is lost


class Update(NamedTuple):
    """What a table should take up: rows to append, or all rows that it should have."""

    frame: DataFrame
    append: bool


class EmbeddingRun(NamedTuple):
    """What embeds pictures: an encoder's folder, where the pictures lie, how, and where unfinished work waits."""

    folder: Path | str
    image_root: str
    config: EmbedImagesConfig
    unfinished: Path  # `Store.unfinished`; all nodes see it
    expected: int = 0  # about how many pictures there are to embed; 0: few


class EmbeddedPictures(NamedTuple):
    """What one run made, not yet committed: updates by table, to be committed in this order, and counts and seconds."""

    updates: dict[str, Update]
    facts: dict[str, Any]


def count_vectors(vectors: DataFrame | None, encoder: str) -> int:
    """How many illustrations have vectors by this encoder."""
    return 0 if vectors is None else current_vectors(vectors, encoder).count()


def count_pictures(illustrations: DataFrame) -> dict[str, int]:
    """How many illustrations have a picture, as a path or as bytes, and how many have none."""
    counted = illustrations.selectExpr("count(*) AS all", f"count_if({HAS_PICTURE}) AS pictured").first()
    assert counted is not None
    return {"with_picture": counted["pictured"], "without_picture": counted["all"] - counted["pictured"]}


def current_vectors(image_vectors: DataFrame, encoder: str) -> DataFrame:
    """One row an illustration: its vectors by this encoder. No tie to break: a changed picture's old row was removed."""
    return image_vectors.filter(F.col("encoder") == encoder)


def pictures_to_embed(illustrations: DataFrame, vectors: DataFrame | None, rejects: DataFrame | None, image_root: str,
                      encoder: str, config: EmbedImagesConfig) -> DataFrame:
    """illust_id, illust_index, image, image_content, state, reason of pictures that this encoder has not tried as they are.

    `state` is `picture_state` of a file (`picture_hash` with `changed_by: content`), the SHA-256 of bytes in the catalogue.
    `reason` is new, changed or retried; changed is also one whose illustration has another index now. A picture that was
    there and could not be read is retried in any case: that was the store's fault, not its own; so is one that has vectors
    and was set aside as it is. An illustration without path and bytes has no picture, which is no fault: it is left out.
    """
    pictures = with_state(illustrations.filter(HAS_PICTURE), image_root, config)
    tried = pictures.join(_tried_states(pictures, vectors, rejects, encoder), "illust_id", how="left")
    retried = "'retried'" if config.retry_rejects else "NULL"
    return tried.withColumn("reason", F.expr(f"""
        CASE WHEN embedded IS NULL THEN 'new'
             WHEN array_contains(embedded, concat(illust_index, '|', state)) AND size(rejected) = 0 THEN NULL
             WHEN array_contains(faulty, state) AND size(embedded) = 0 THEN 'retried'
             WHEN array_contains(rejected, state) AND size(embedded) = 0 THEN {retried}
             WHEN array_contains(rejected, state) THEN 'retried'
             ELSE 'changed' END""")).filter("reason IS NOT NULL").drop("embedded", "rejected", "faulty")


def withdrawn_pictures(illustrations: DataFrame, vectors: DataFrame, rejects: DataFrame, *, absent: bool) -> DataFrame:
    """illust_id, embedded (bool: has vectors) of pictures that have vectors or were set aside, and are gone: the catalogue
    lists the illustration without a picture or, where `absent` counts, not at all. It does not while an earlier week runs
    again: then later ones are absent too.
    """
    pictured = illustrations.filter(HAS_PICTURE).select("illust_id")
    tried = (vectors.selectExpr("illust_id", "true AS embedded").union(rejects.selectExpr("CAST(key AS BIGINT)", "false"))
             .groupBy("illust_id").agg(F.bool_or("embedded").alias("embedded")))
    gone = tried.join(pictured, "illust_id", how="left_anti")
    return gone if absent else gone.join(illustrations.select("illust_id"), "illust_id", how="left_semi")


def with_state(pictures: DataFrame, image_root: str, config: EmbedImagesConfig) -> DataFrame:
    """illust_id, illust_index, image, image_content and the picture's present `state`."""
    hashed = functools.partial(picture_hash, limits=config.limits)
    state_of = hashed if config.changed_by == "content" else picture_state
    look = F.udf(functools.partial(_file_state, state_of, image_root), "string", useArrow=True)
    of_bytes = F.concat(F.lit("sha256|"), F.sha2("image_content", 256))
    of_file = look.asNondeterministic()("image")  # else Spark may move it to where it looks more than once
    state = F.when(F.col("image_content").isNotNull(), of_bytes).otherwise(of_file)
    return pictures.select("illust_id", "illust_index", "image", "image_content", state.alias("state"))


def embed_pictures(todo: DataFrame, folder: Path | str, image_root: str, config: EmbedImagesConfig, expected: int = 0
                   ) -> DataFrame:
    """The columns of `image_worker.EMBEDDED` for each row of `pictures_to_embed`, some `expected` of them; not run yet."""
    partitions = config.partitions or tasks_for(todo.sparkSession, expected, ROWS_A_TASK, TASKS_A_SLOT)
    encoder = config.named(read_facts(Path(folder)))["fingerprint"]
    work = functools.partial(embed_batches, folder=str(folder), fingerprint=encoder, image_root=image_root, config=config)
    bounded = todo.withColumn("image_content", F.expr(f"substring(image_content, 1, {config.limits.max_bytes + 1})"))
    return bounded.repartition(partitions, "illust_id").mapInArrow(in_worker(work), EMBEDDED)


@contextlib.contextmanager
def embedded_pictures(todo: DataFrame, vectors: DataFrame | None, rejects: DataFrame | None, withdrawn: DataFrame | None,
                      run: EmbeddingRun) -> Iterator[EmbeddedPictures]:
    """Embeds every row of `pictures_to_embed` once; what comes out lies below `run.unfinished` until the `with` block has
    ended well. Vectors and rejects of `withdrawn_pictures` go, by whatever encoder.

    Killed and run again, it takes over the partitions that were finished, but for rejects and pictures that have changed.
    Raises ClusterError: device cuda without a GPU. ContractError: more rejects than `max_reject_share`, or more pictures
    withdrawn at once than `max_withdrawn_share`.
    """
    encoder = run.config.named(read_facts(Path(run.folder)))["fingerprint"]
    require_gpu(todo.sparkSession, "embed_images.device", run.config.device)
    gone = _count_withdrawn(withdrawn)
    _require_few_withdrawn(gone["withdrawn"], vectors, run.config)
    unfinished = UnfinishedWork(run.unfinished / encoder, EMBEDDED)
    left = unfinished.left(todo.sparkSession)
    usable = None if left is None else _usable(left, todo).persist(StorageLevel.DISK_ONLY)
    try:
        resumed = 0 if usable is None else usable.count()
        rest = todo if usable is None else todo.join(usable.select("illust_id"), "illust_id", how="left_anti")
        made = _embed(rest, run, unfinished)
        embedded = made if usable is None else made.unionByName(usable)
        facts = {**_count(embedded), "resumed": resumed, **gone}
        _require_few_rejects(facts, embedded, run.config)
        kept = vectors
        if vectors is not None and withdrawn is not None:
            kept = vectors.join(withdrawn, "illust_id", how="left_anti")
        listed = rejects if rejects is None or withdrawn is None else rejects.join(
            withdrawn.selectExpr("CAST(illust_id AS STRING) AS key"), "key", how="left_anti")
        yield EmbeddedPictures(_updates(embedded, kept, listed, encoder, facts), facts)
        unfinished.forget()
    finally:
        if usable is not None:
            usable.unpersist()


def _usable(left: DataFrame, todo: DataFrame) -> DataFrame:
    """What killed runs have left and need not be made again: rows with vectors, of pictures of `todo` that are as they were.

    Their partition is EARLIER.
    """
    wanted = left.filter("rule IS NULL").drop("reason").join(todo.select(*SAME_PICTURE, "reason"), SAME_PICTURE, how="inner")
    return wanted.dropDuplicates(["illust_id"]).withColumn("partition", F.lit(EARLIER)).select(left.columns)


def _embed(todo: DataFrame, run: EmbeddingRun, unfinished: UnfinishedWork) -> DataFrame:
    with _arrow_rows(todo.sparkSession, rows_of_a_batch(run.config)):
        return unfinished.add(embed_pictures(todo, run.folder, run.image_root, run.config, run.expected))


def rows_of_a_batch(config: EmbedImagesConfig) -> int:
    """As many as the encoder takes together, but no more than fit into one column when all are as large as is let in."""
    largest = config.limits.max_bytes + 1  # bytes; no picture is handed out with more
    return max(1, min(config.batch, ARROW_BYTES // largest))


# ---------------------------------------------------------------- what is known of a picture
def _file_state(state_of: Callable[[str, str], str], image_root: str, image: str | None) -> str | None:
    return None if image is None else state_of(image_root, image)


def _tried_states(pictures: DataFrame, vectors: DataFrame | None, rejects: DataFrame | None, encoder: str) -> DataFrame:
    """illust_id, embedded (index|state), rejected (state), faulty (state): as what this encoder embedded it, or rejected it,
    or rejected it though it was there, as arrays."""
    columns = ("embedded", "rejected", "faulty")
    tried = pictures.sparkSession.createDataFrame([], f"illust_id bigint, {', '.join(f'{name} string' for name in columns)}")
    if vectors is not None:
        tried = tried.union(current_vectors(vectors, encoder).selectExpr(
            "illust_id", "concat(illust_index, '|', state)", "NULL", "NULL"))
    if rejects is not None:
        own = rejects.filter(_by_encoder(encoder)).withColumn("state", F.expr(f"substring(state, {len(encoder) + 2})"))
        faulty = f"IF(rule IN {OUT_OF_REACH} AND state NOT LIKE '%|{NOT_THERE}', state, NULL)"
        tried = tried.union(own.selectExpr("CAST(key AS BIGINT)", "NULL", "state", faulty))
    return tried.groupBy("illust_id").agg(*[F.collect_set(name).alias(name) for name in columns])


def _by_encoder(encoder: str) -> Any:
    """A reject's state is encoder|picture state: what one encoder could not use, another may."""
    return (F.col("table") == ILLUSTRATIONS.name) & F.col("state").startswith(f"{encoder}|")


# ---------------------------------------------------------------- what came of it
def _count(embedded: DataFrame) -> dict[str, Any]:
    """Rows by reason, rejects by rule, seconds by phase (summed over threads), and the same for each partition. `revised`:
    what had changed and could be reached, so that old vectors go."""
    groups = embedded.groupBy("partition", "reason", "rule").agg(F.count("*").alias("rows"), *sums_of(PHASES)).collect()
    rejected = [group for group in groups if group["rule"] is not None]
    by_partition = {name: _sum_by("partition", name, groups) for name in ("rows", *PHASES)}
    return {"rows": {**dict.fromkeys(REASONS, 0), **_sum_by("reason", "rows", groups)},
            "rejects": _sum_by("rule", "rows", rejected),
            "fresh_rejects": sum(group["rows"] for group in rejected if group["reason"] != "retried"),
            "revised": sum(group["rows"] for group in groups
                           if group["reason"] == "changed" and group["rule"] not in OUT_OF_REACH),
            "seconds": seconds_of(by_partition, PHASES), "partitions": phases_and_rates(by_partition, "pictures")}


def _count_withdrawn(withdrawn: DataFrame | None) -> dict[str, int]:
    """Withdrawn pictures with vectors, and those that only had been set aside."""
    counted = None if withdrawn is None else withdrawn.selectExpr("count_if(embedded)", "count_if(NOT embedded)").first()
    return dict(zip(("withdrawn", "withdrawn_rejects"), counted or (0, 0), strict=True))


def _require_few_withdrawn(withdrawn: int, vectors: DataFrame | None, config: EmbedImagesConfig) -> None:
    """Vectors are dear: an export that lost its pictures' column must not delete them all."""
    if vectors is None or withdrawn <= config.reject_allowance:
        return
    known = vectors.select("illust_id").distinct().count()
    if withdrawn > config.max_withdrawn_share * known:
        raise ContractError("illustrations", f"{withdrawn} of {known} pictures with vectors withdrawn at once",
                            f"at most {config.max_withdrawn_share:.1%} of them (embed_images.max_withdrawn_share), or "
                            f"{config.reject_allowance} (embed_images.reject_allowance)",
                            "look whether the catalogue was exported whole, with its column image, and run ingest_tables "
                            "again once it is (remove its line below steps/); where so many are meant to go, raise the "
                            "share; nothing was committed")


def _sum_by(key: str, value: str, groups: list[Row]) -> dict[Any, Any]:
    sums: Counter[Any] = Counter()
    for group in groups:
        sums[group[key]] += group[value]
    return dict(sums)


def _require_few_rejects(facts: dict[str, Any], embedded: DataFrame, config: EmbedImagesConfig) -> None:
    """What was retried counts neither way: it was put up with before."""
    tried, rejects = facts["rows"]["new"] + facts["rows"]["changed"], facts["fresh_rejects"]
    allowance = min(config.reject_allowance, max(1, tried // 2))  # where most fail, the store is at fault, not a picture
    allowed = max(allowance, math.floor(config.max_reject_share * tried))
    if rejects <= allowed:
        if rejects > config.max_reject_share * tried:
            log.warning("image_vectors: %d of %d pictures cannot be embedded, more than embed_images.max_reject_share %s; "
                        "so few are let pass (embed_images.reject_allowance %d)", rejects, tried,
                        config.max_reject_share, config.reject_allowance)
        return
    first = embedded.filter("rule IS NOT NULL AND reason <> 'retried'").orderBy("illust_id").first()
    assert first is not None
    rule = max(facts["rejects"], key=facts["rejects"].__getitem__)
    raise ContractError("image_vectors", f"{rejects} of {tried} pictures that cannot be embedded, most by rule {rule} "
                        f"({facts['rejects'][rule]}); first: illust_id {first['illust_id']}, {first['rule']}, "
                        f"{first['value']}",
                        f"at most {allowed} (embed_images.max_reject_share {config.max_reject_share}, never below the "
                        f"smaller of embed_images.reject_allowance {config.reject_allowance} and half of them)",
                        "mend the pictures below raw.image_root, or raise the share; nothing was committed")


def _updates(embedded: DataFrame, vectors: DataFrame | None, rejects: DataFrame | None, encoder: str, facts: dict[str, Any]
             ) -> dict[str, Update]:
    """The tables that need a commit. Rejects come first: killed in between, the next run knows them."""
    tried = sum(facts["rows"].values())
    revised = facts["revised"] + facts["withdrawn"]
    if not revised and facts["rows"]["retried"] and vectors is not None:  # most of these never had vectors
        known = current_vectors(vectors, encoder).select("illust_id")
        revised = _tried_again(embedded).join(known, "illust_id", how="left_semi").count()
    updates = {}
    if tried or facts["withdrawn"] or facts["withdrawn_rejects"] or rejects is None:
        updates[IMAGE_REJECTS] = Update(_rejects_now(embedded, rejects, encoder), append=False)
    fresh = embedded.filter("rule IS NULL").withColumn("encoder", F.lit(encoder)).select(*IMAGE_VECTORS.column_names)
    if revised and vectors is not None:
        updates[IMAGE_VECTORS.name] = Update(fresh.unionByName(_unrevised(embedded, vectors, encoder)), append=False)
    elif tried > sum(facts["rejects"].values()) or vectors is None:
        updates[IMAGE_VECTORS.name] = Update(fresh, append=True)
    return updates


def _rejects_now(embedded: DataFrame, rejects: DataFrame | None, encoder: str) -> DataFrame:
    """The whole small table: of a picture that was tried now, what came of it now."""
    fresh = embedded.filter("rule IS NOT NULL").selectExpr(
        f"'{ILLUSTRATIONS.name}' AS table", "CAST(illust_id AS STRING) AS key", "rule", "value",
        f"concat('{encoder}|', state) AS state")
    if rejects is None:
        return fresh
    return fresh.unionByName(rejects.join(embedded.selectExpr("CAST(illust_id AS STRING) AS key"), "key", how="left_anti"))


def _unrevised(embedded: DataFrame, vectors: DataFrame, encoder: str) -> DataFrame:
    """The table as it is, less this encoder's rows of pictures that were tried again and reached."""
    revised = _tried_again(embedded).select(F.col("illust_id").alias("revised"))
    again = (F.col("encoder") == encoder) & (F.col("illust_id") == F.col("revised"))
    return vectors.join(revised, again, how="left_anti")


def _tried_again(embedded: DataFrame) -> DataFrame:
    """Rows of pictures that had been tried before and could be reached now."""
    return embedded.filter(f"reason <> 'new' AND (rule IS NULL OR rule NOT IN {OUT_OF_REACH})")


@contextlib.contextmanager
def _arrow_rows(spark: SparkSession, rows: int) -> Iterator[None]:
    """Arrow batches of so many rows: ten thousand, the default, exceed 2 GiB when the rows carry pictures."""
    before = spark.conf.get(ARROW_ROWS)
    spark.conf.set(ARROW_ROWS, str(rows))
    try:
        yield
    finally:
        spark.conf.set(ARROW_ROWS, str(before))
