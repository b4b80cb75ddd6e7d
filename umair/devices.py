"""Which device a Spark task works on, whatever it does there: embedding or training."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from umair.errors import ClusterError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def tasks_for(spark: SparkSession, rows: int, rows_a_task: int, tasks_a_slot: int = 1) -> int:
    """Into how many Spark tasks `rows` are divided: `tasks_a_slot` for each task that can run now, and no more than
    `rows_a_task` in each, as executors may come that are not there yet, and what a lost task had made is made again."""
    return max(tasks_a_slot * max(1, task_slots(spark)), math.ceil(rows / rows_a_task))


def task_slots(spark: SparkSession) -> int:
    """Tasks that can run at once, on the cores that have registered by now."""
    context = spark.sparkContext
    local = re.fullmatch(r"local(?:\[(\d+)(?:,\s*\d+)?\])?", str(context.master))
    cores = int(local[1] or 1) if local else context.defaultParallelism
    return cores // int(context.getConf().get("spark.task.cpus") or 1)


def require_gpu(spark: SparkSession, setting: str, device: str) -> None:
    """Raises ClusterError when `setting` asks for a GPU and a Spark task sees none."""
    if device == "cpu":
        return
    if not spark.sparkContext.parallelize([0], 1).map(_visible_gpus).first():
        raise ClusterError(f"{setting}=cuda", "no GPU in a Spark task", "at least one that torch can use",
                           "submit with spark.task.resource.gpu.amount and a discovery script "
                           f"(cluster/embedding.properties), or set {setting}=cpu")


def _visible_gpus(_: int) -> int:
    return torch.cuda.device_count()


def device_of_task(setting: str, device: str) -> str:
    """cpu, or cuda:N for the Spark task that calls it. `setting` names the key that asks for `device`, for the error.

    Raises ClusterError where torch sees no such GPU.
    """
    if device == "cpu":
        return device
    from pyspark import TaskContext

    task = TaskContext.get()
    given = task.resources().get("gpu") if task else None
    in_turns = task.partitionId() % max(1, torch.cuda.device_count()) if task else 0
    return choose_gpu(setting, given.addresses if given else (), in_turns)


def choose_gpu(setting: str, given: Sequence[str], otherwise: int) -> str:
    """cuda:N, the first of the GPUs that Spark has `given`; `otherwise`, where it gives none out, this one of the node's.

    Raises ClusterError where torch sees no such GPU.
    """
    visible, chosen = torch.cuda.device_count(), int(given[0]) if given else otherwise
    if chosen >= visible:
        raise ClusterError(f"{setting}=cuda", f"{visible} visible GPUs, none with index {chosen}", "a GPU for each task",
                           "submit with spark.task.resource.gpu.amount=1 and a discovery script (cluster/discover_gpus.sh), "
                           f"or set {setting}=cpu")
    return f"cuda:{chosen}"
