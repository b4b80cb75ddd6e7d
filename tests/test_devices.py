"""Which GPU a task gets, with GPUs counted by hand: this needs none."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

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


@pytest.mark.parametrize(("says", "ends", "addresses"), [("0\n1\n", 0, ["0", "1"]), ("NVIDIA-SMI has failed because of the driver\n", 9, None)])
def test_spark_is_told_of_the_gpus_that_work(tmp_path: Path, says: str, ends: int, addresses: list[str] | None) -> None:
    """A broken driver writes its complaint to where its answers go: a node with a GPU named NVIDIA-SMI would be given tasks."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\nprintf '{says}'\nexit {ends}\n", encoding="utf-8")
    smi.chmod(0o755)
    done = subprocess.run(["/bin/sh", str(Path(__file__).parent.parent / "cluster/discover_gpus.sh")], capture_output=True, text=True,
                          check=False, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    if addresses is None:
        assert done.returncode == 2
        assert "found a driver that fails" in done.stderr
        assert "has failed because of the driver" in done.stderr
    else:
        assert json.loads(done.stdout) == {"name": "gpu", "addresses": addresses}
