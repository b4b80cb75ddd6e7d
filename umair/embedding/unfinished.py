"""What the tasks of an embedding run have made, kept until it is committed: a later run takes it over (decision 010)."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from umair.storage import for_spark

TASKS_COMMIT_ALONE = "mapreduce.fileoutputcommitter.algorithm.version"  # 2: not all together at the end of the job


class UnfinishedWork:
    """One encoder's folder below `Store.unfinished`, with rows of one schema. All nodes see it."""

    def __init__(self, folder: Path, columns: str) -> None:
        self.folder, self.columns = folder, columns

    def left(self, spark: SparkSession) -> DataFrame | None:
        """What the finished tasks of killed runs have made; a row may come twice. None, as nearly always: nothing, and no
        look at what is to be embedded is needed to know it."""
        runs = [run for run in sorted(self.folder.glob("run-*")) if any(run.glob("*.parquet"))]
        return spark.read.schema(self.columns).parquet(*for_spark(*runs)) if runs else None

    def add(self, made: DataFrame) -> DataFrame:
        """Runs `made` into a new folder, in which a task's file appears, whole, as soon as the task is done; the rows."""
        folder = self.folder / f"run-{uuid.uuid4().hex[:12]}"
        made.write.option("compression", "zstd").option(TASKS_COMMIT_ALONE, "2").parquet(*for_spark(folder))
        return made.sparkSession.read.schema(self.columns).parquet(*for_spark(folder))

    def forget(self) -> None:
        """Once all is committed. Another encoder's work waits on."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)
