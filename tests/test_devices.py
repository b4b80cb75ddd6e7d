"""Which GPU a task gets, with GPUs counted by hand: this needs none."""

from __future__ import annotations

import pytest
import torch
from pyspark.sql import SparkSession

from umair.devices import choose_gpu, device_of_task, require_gpu, tasks_for
from umair.errors import ClusterError


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.usefixtures("four_gpus")
def test_the_gpu_that_spark_gave_comes_before_any_other() -> None:
    assert choose_gpu("embed_images.device", ["3", "1"], 0) == "cuda:3"
    assert choose_gpu("embed_images.device", [], 2) == "cuda:2"


@pytest.mark.usefixtures("four_gpus")
def test_a_gpu_that_torch_does_not_see_is_refused() -> None:
    for given, otherwise in ((["4"], 0), ([], 4)):
        with pytest.raises(ClusterError, match=r"embed_texts.device=cuda: found 4 visible GPUs, none with index 4; expected a "
                                               "GPU for each task.*or set embed_texts.device=cpu"):
            choose_gpu("embed_texts.device", given, otherwise)


def test_without_resources_tasks_take_the_nodes_gpus_in_turns(spark: SparkSession) -> None:
    def device(_: int) -> str:
        with pytest.MonkeyPatch.context() as worker:
            worker.setattr(torch.cuda, "device_count", lambda: 2)
            return device_of_task("embed_images.device", "cuda")

    assert spark.sparkContext.parallelize(range(5), 5).map(device).collect() == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]


def test_many_rows_make_more_tasks_than_there_are_slots(spark: SparkSession) -> None:
    assert tasks_for(spark, 0, 5_000) == 2  # local[2]
    assert tasks_for(spark, 9_999, 5_000, tasks_a_slot=4) == 8
    assert tasks_for(spark, 1_000_001, 5_000, tasks_a_slot=4) == 201


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU")
def test_a_gpu_is_asked_for_before_any_work(spark: SparkSession) -> None:
    require_gpu(spark, "embed_texts.device", "cpu")
    with pytest.raises(ClusterError, match=r"embed_texts.device=cuda: found no GPU in a Spark task.*or set embed_texts.device=cpu"):
        require_gpu(spark, "embed_texts.device", "cuda")


def test_a_cpu_asks_nobody() -> None:
    assert device_of_task("embed_texts.device", "cpu") == "cpu"
