"""Which device a Spark task works on, whatever it does there: embedding or training."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from umair.errors import ClusterError


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
