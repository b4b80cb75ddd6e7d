"""Ranks: the processes that train one model together. The only file that imports Horovod; the default is one process.

`run_ranks` starts `count` Horovod processes inside Spark tasks. Inside, training code sees a `Ranks` and nothing else.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

import torch
from torch import Tensor, nn

from umair import errors
from umair.devices import choose_gpu, task_slots
from umair.errors import DEFECT, ClusterError, ConfigError, UmairError
from umair.training.terminal import Address, Terminal, connect

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger("umair")
LOOK_SECONDS, VAIN_LOOKS = 1.0, 10  # between two looks whether a rank waits in vain, and how many such looks are proof
START_SECONDS = "spark.umair.startSeconds", "120"  # a submit setting: by when Spark must have started a task for every rank


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together. Made without arguments it is alone and needs no Horovod."""

    index: int = 0
    count: int = 1
    local_index: int = 0  # among the ranks of this node
    device: str = "cpu"  # or cuda:N

    def say(self, line: str) -> None:
        """Prints a line of progress; only the first rank does, and it reaches the driver's terminal."""
        if self.index == 0:
            print(line, flush=True)  # noqa: T201  progress is for the terminal

    def share_weights(self, module: nn.Module) -> None:
        """Gives every rank the first rank's parameters and buffers."""

    def share_statistics(self, module: nn.Module) -> None:
        """Gives every rank the mean of each float buffer: batch-norm statistics, which each rank gathers alone.

        A module's `fixed_buffers` are the same everywhere already, and a mean would round them.
        """

    def share_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Gives every rank the first rank's optimiser state. Call it after `distribute`."""

    def distribute(self, optimizer: torch.optim.Optimizer, module: nn.Module,  # noqa: ARG002  alone it has nothing to do
                   name: str = "", passes: int = 1) -> torch.optim.Optimizer:  # noqa: ARG002
        """An optimiser (state not carried over) whose `step` first averages the gradients over the ranks.

        `name` tells modules apart that are trained in turns: Horovod caches what it negotiated by tensor name. `passes`:
        how often a loss goes backward before each `step`; the gradients are summed.
        """
        return optimizer

    def average_gradients(self, module: nn.Module, name: str = "") -> None:
        """Gives every rank the mean of the gradients: the dense ones as one message, of each sparse one its rows.

        Call it after the last `backward` and before the step; `distribute` does the same within `step`, do not use both.
        Every rank must have gradients of the same weights. `name` as for `distribute`.
        """

    def add(self, sums: Tensor) -> Tensor:
        """The sum over the ranks; gradients go back to all of them."""
        return sums

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """The mean over the ranks, key by key, in float64. Every rank gives the same keys."""
        return dict(values)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's JSON-like value, in the order of the ranks, on every rank."""
        return [value]

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Every rank's rows [n_r, ...] one after the other, in the order of the ranks, on every rank."""
        return rows

    def barrier(self) -> None:
        """Returns when every rank has come here."""


@dataclass(frozen=True)
class HorovodRanks(Ranks):
    """The same over Horovod. Only `run_ranks` makes it."""

    terminal: TextIO | None = None

    def say(self, line: str) -> None:
        if self.index == 0 and self.terminal is not None:
            self.terminal.write(line + "\n")
        else:
            super().say(line)

    def share_weights(self, module: nn.Module) -> None:
        _horovod().broadcast_parameters(module.state_dict(), root_rank=0)

    def share_statistics(self, module: nn.Module) -> None:
        for name, buffer in gathered_buffers(module):
            buffer.copy_(_horovod().allreduce(buffer, name=f"statistics.{name}"))

    def share_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        if self.gather(bool(optimizer.state_dict()["state"]))[0]:  # Horovod gives an empty state one silent first step
            _horovod().broadcast_optimizer_state(optimizer, root_rank=0)

    def distribute(self, optimizer: torch.optim.Optimizer, module: nn.Module, name: str = "", passes: int = 1
                   ) -> torch.optim.Optimizer:
        named = [(f"{name}.{parameter}", weight) for parameter, weight in module.named_parameters()]
        distributed: torch.optim.Optimizer = _horovod().DistributedOptimizer(optimizer, named_parameters=named,
                                                                             backward_passes_per_step=passes)
        return distributed

    def average_gradients(self, module: nn.Module, name: str = "") -> None:
        own = [(key, weight, weight.grad) for key, weight in module.named_parameters() if weight.grad is not None]
        sent = [(weight, _send_rows(gradient, f"{name}.{key}")) for key, weight, gradient in own if gradient.is_sparse]
        dense = [(weight, gradient) for _, weight, gradient in own if not gradient.is_sparse]
        if dense:
            flat = torch.cat([gradient.flatten() for _, gradient in dense])
            _horovod().allreduce_(flat, name=f"{name}.gradients")
            means = torch.split(flat, [weight.numel() for weight, _ in dense])
            for (weight, _), mean in zip(dense, means, strict=True):
                weight.grad = mean.view_as(weight)
        for weight, waiting in sent:
            index_X, value_XE = map(_horovod().synchronize, waiting)
            weight.grad = torch.sparse_coo_tensor(index_X[None], value_XE / self.count, weight.shape, check_invariants=False)

    def add(self, sums: Tensor) -> Tensor:
        added: Tensor = _horovod().allreduce(sums, op=_horovod().Sum)
        return added

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        keys = sorted(values)
        mean_N = _horovod().allreduce(torch.tensor([values[key] for key in keys], dtype=torch.float64), name="mean")
        return dict(zip(keys, mean_N.tolist(), strict=True))

    def gather(self, value: Any) -> list[Any]:
        gathered: list[Any] = _horovod().allgather_object(value, name="gather")
        return gathered

    def gather_rows(self, rows: Tensor) -> Tensor:
        gathered: Tensor = _horovod().allgather(rows.contiguous(), name="gather_rows")
        return gathered

    def barrier(self) -> None:
        _horovod().barrier()


def gathered_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and float buffer of all that ranks gather apart from each other."""
    for prefix, part in module.named_modules():
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_floating_point() and name not in getattr(part, "fixed_buffers", ()):
                yield f"{prefix}.{name}", buffer


def run_ranks(spark: SparkSession, train: Callable[..., Any], arguments: dict[str, Any], count: int, *,
              threads: int = 1, device: str = "cpu", start_seconds: int | None = None) -> list[Any]:
    """Runs `train(ranks, **arguments)` on `count` Horovod ranks and returns their JSON-able results, by rank.

    `train` and `arguments` travel by pickle inside the job, so `train` must be importable on the executors. `threads` is
    torch's number of threads in each rank; `device` is cpu or cuda (then each rank takes its Spark task's GPU). `train` does
    not run in its process's main thread, so that it can set no signal handlers.

    Raises the UmairError that a rank raised; ClusterError when there are too few slots, when the ranks do not start in
    `start_seconds` (None: the setting of START_SECONDS), when one dies, or when one raises anything else (its traceback goes
    to the log).
    """
    from horovod.spark import run

    start_seconds = start_seconds or _start_seconds(spark)
    python = os.environ.get("PYSPARK_PYTHON", sys.executable)  # where an archive brings it, not at the driver's path
    _require_slots(spark, count, start_seconds)
    host = spark.sparkContext.getConf().get("spark.driver.host") or "localhost"
    with Terminal(host) as terminal, _signals_kept():
        try:
            outcomes = run(_in_rank, args=(train, arguments, threads, device, terminal.address), num_proc=count,
                           use_gloo=True, start_timeout=start_seconds, verbose=0, executable=python)
        except Exception as error:  # Horovod raises bare Exception when ranks do not start or one is killed
            raise ClusterError("Horovod ranks", f"a rank that did not start or died ({_first_line(error)})",
                               f"{count} ranks that start within {start_seconds} s ({START_SECONDS[0]}) and run to the end",
                               "look for a rank's last words above or in the executor logs (memory, a kill, a firewall)"
                               ) from error
    _raise_first_error(outcomes)
    return [outcome["result"] for outcome in outcomes]


# ---------------------------------------------------------------- in the driver
def _start_seconds(spark: SparkSession) -> int:
    said = str(spark.sparkContext.getConf().get(*START_SECONDS))
    if not said.isdecimal() or int(said) == 0:
        raise ConfigError(START_SECONDS[0], repr(said), "whole seconds, without a unit",
                          "correct it where Spark is submitted, for example in cluster/training.properties")
    return int(said)


def _require_slots(spark: SparkSession, count: int, seconds: int) -> None:
    """Raises ClusterError unless `count` tasks can run at once; Horovod would wait for them in silence. Executors of a
    cluster register one by one after the session has started: they have `seconds` for that."""
    context, end = spark.sparkContext, time.monotonic() + seconds
    while (slots := task_slots(spark)) < count and not str(context.master).startswith("local") and time.monotonic() < end:
        time.sleep(1)
    if slots < count:
        raise ClusterError(f"Spark at {context.master}", f"{slots} slots, so no free slots for every rank",
                           f"{count} slots, one for each rank", "lower the number of ranks, or give Spark more "
                           "cores (local: spark.master local[N]; cluster: more executors)")


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Horovod replaces the handlers of Ctrl-C and SIGTERM and leaves its own behind; this puts ours back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_first_error(outcomes: list[dict[str, Any]]) -> None:
    for outcome in outcomes:
        if "error" in outcome:
            raise _user_error(*outcome["error"])
    for rank, outcome in enumerate(outcomes):
        if "crash" in outcome:
            log.error("rank %d:\n%s", rank, outcome["crash"])
            crash = ClusterError(f"rank {rank} of {len(outcomes)}", outcome["crash"].strip().splitlines()[-1],
                                 "a rank that runs to its end",
                                 "see the traceback above; it is most likely a fault of the program")
            crash.exit_code = DEFECT
            raise crash
    stopped = [rank for rank, outcome in enumerate(outcomes) if "stopped" in outcome]
    if stopped:
        raise ClusterError(f"ranks {stopped}", f"a lost connection ({outcomes[stopped[0]]['stopped']})",
                           "ranks that hear each other", "check the network between the executors, then run again; "
                           "training goes on from its checkpoint")


def _user_error(kind: str, *text: str) -> UmairError:
    error: UmairError = getattr(errors, kind, UmairError)(*text)
    return error


def _first_line(error: Exception) -> str:
    """The start of what an error says; of a Java error, which asks the JVM for its text, its name where the JVM has gone."""
    from py4j.protocol import Py4JError  # comes with pyspark, which no process but the driver needs

    try:
        said = str(error)
    except (OSError, Py4JError):
        said = type(error).__name__
    return " ".join(said.split())[:300]


# ---------------------------------------------------------------- in a rank's own process
def _horovod() -> Any:
    import horovod.torch

    return horovod.torch


def _send_rows(gradient: Tensor, name: str) -> tuple[int, int]:
    """Starts gathering a sparse gradient's rows and their numbers from all ranks; -> what to wait for."""
    own = gradient.coalesce()  # each row once, so that no byte is sent twice
    return (_horovod().allgather_async(own.indices()[0], name=f"{name}.rows"),
            _horovod().allgather_async(own.values(), name=f"{name}.values"))


def _in_rank(train: Callable[..., Any], arguments: dict[str, Any], threads: int, device: str, terminal: Address
             ) -> dict[str, Any]:
    """Runs `train` and turns whatever happens into a plain value, so that the driver can tell causes from echoes.

    In a thread that this one looks after: what a rank asks of Horovod (0.28.1) in the instant in which another rank's end
    stops it here is never answered, and Horovod would wait for the answer until somebody kills the job.
    """
    hvd, outcomes, vain = _horovod(), [], 0
    hvd.init()
    given = train, arguments, threads, device, terminal
    work = threading.Thread(target=lambda: outcomes.append(_outcome(*given)), daemon=True)
    try:
        work.start()
        while work.is_alive() and vain < VAIN_LOOKS:
            work.join(LOOK_SECONDS)
            vain = vain + 1 if _waits_in_vain() else 0
    finally:
        hvd.shutdown()  # tells the others: whoever waits for this rank gets HorovodInternalError instead of a hang
    if work.is_alive():
        atexit.register(_exit_at_once)  # the thread still reads what Python would take down before it exits
        return {"stopped": "Horovod ended while its answer was waited for"}
    return outcomes[0]


def _outcome(train: Callable[..., Any], arguments: dict[str, Any], threads: int, device: str, terminal: Address
             ) -> dict[str, Any]:
    from horovod.common.exceptions import HorovodInternalError

    hvd = _horovod()
    try:
        torch.set_num_threads(threads)  # here and in threads made later; like the device, not in the thread that looks on
        stream = connect(terminal) if hvd.rank() == 0 else None
        ranks = HorovodRanks(hvd.rank(), hvd.size(), hvd.local_rank(), take_device(device, hvd.local_rank()), stream)
        return {"result": train(ranks, **arguments)}
    except UmairError as error:
        return {"error": (type(error).__name__, error.where, error.found, error.expected, error.do)}
    except HorovodInternalError as error:  # another rank went away first
        return {"stopped": _first_line(error)}
    except BaseException:  # SystemExit too, of which a thread says nothing
        return {"crash": traceback.format_exc()}


def _waits_in_vain() -> bool:
    """Whether a thread waits for Horovod, which has ended: it shows that only where asked for its sets of processes. Any
    thread: the way back through what was added over the ranks may be one of autograd's."""
    from horovod.torch import mpi_ops

    try:
        mpi_ops._basics._get_process_set_ids_and_ranks()
    except (ValueError, RuntimeError):
        return any(_runs(mpi_ops.synchronize, frame) for frame in sys._current_frames().values())
    return False


def _runs(function: Callable[..., Any], frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None


def _exit_at_once() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def take_device(device: str, local_index: int) -> str:
    """cpu, or the GPU that Spark gave this rank's task (Horovod does not pass CUDA_VISIBLE_DEVICES on since 0.28); where it
    gives none out, each rank of a node has its own."""
    if device == "cpu":
        return device
    from horovod.spark.task import get_available_devices  # TaskContext.resources()["gpu"], asked of the Spark task

    chosen = choose_gpu("device", get_available_devices(), local_index)
    torch.cuda.set_device(chosen)
    return chosen
