"""Ranks: real Horovod processes inside Spark tasks; sums and means worked out by hand; failures come back as one error."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import cloudpickle
import pytest
import torch

from umair.errors import DEFECT, SURROUNDINGS, ClusterError, ConfigError, ContractError
from umair.training.ranks import LOOK_SECONDS, VAIN_LOOKS, Ranks, gathered_buffers, run_ranks, take_device
from umair.training.terminal import Terminal, connect

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # ranks cannot import a test file


def line(weight: float) -> torch.nn.Linear:
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, weight)
    return module


def learn_together(ranks: Ranks) -> list[float]:
    """Three Adam steps on eight rows that the ranks share; what the first rank's optimiser has learnt before is shared."""
    torch.manual_seed(ranks.index)  # weights differ until they are shared
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    ranks.share_weights(module)
    optimizer = ranks.distribute(torch.optim.Adam(module.parameters(), lr=0.1, fused=True), module, "together")
    ranks.share_optimizer(optimizer)  # nothing yet: must not count as a step
    rows, label = torch.linspace(-1, 1, 32).reshape(8, 4)[ranks.index::ranks.count], torch.arange(8.0)[ranks.index::ranks.count]
    for step in range(3):
        optimizer.zero_grad()
        (module(rows)[:, 0] - label).square().mean().backward()
        optimizer.step()
        if step == 1 and ranks.index == 1:  # this rank's optimiser forgets; the first rank's is shared
            for state in optimizer.state.values():
                state["exp_avg"].zero_()
        ranks.share_optimizer(optimizer)
    return torch.cat([weight.flatten() for weight in module.parameters()]).tolist()


def exercise(ranks: Ranks, offset: int) -> dict:
    """Everything that a Ranks offers, once."""
    ranks.say(f"rank {ranks.index} of {ranks.count} speaks")
    module = line(5.0 + ranks.index)
    ranks.share_weights(module)
    optimizer = ranks.distribute(torch.optim.SGD(module.parameters(), lr=1.0, momentum=0.5), module, "line")
    ranks.share_optimizer(optimizer)
    (module(torch.tensor([[1.0 + 2 * ranks.index]]))).sum().backward()  # gradients 1 and 3, mean 2
    optimizer.step()
    statistics = torch.nn.BatchNorm1d(1)
    statistics.running_mean.fill_(4.0 * ranks.index)
    ranks.share_statistics(statistics)
    rows = ranks.gather_rows(torch.full((ranks.index + 1, 2), float(ranks.index)))
    ranks.barrier()
    return {"weight": module.weight.item(), "mean": ranks.mean({"b": ranks.index, "a": 10.0 + offset}),
            "all": ranks.gather({"rank": ranks.index}), "rows": rows[:, 0].tolist(),
            "statistics": statistics.running_mean.item(), "threads": torch.get_num_threads(), "device": ranks.device, "learnt": learn_together(ranks)}


def test_two_ranks_average_share_and_gather(spark, capfd):
    first, second = run_ranks(spark, exercise, {"offset": 1}, 2, threads=1)
    assert first.pop("learnt") == second["learnt"] == pytest.approx(learn_together(Ranks()), abs=1e-5)
    second.pop("learnt")
    assert first == second == {
        "weight": 3.0,  # 5 - 1.0 * mean(1, 3)
        "mean": {"a": 11.0, "b": 0.5}, "all": [{"rank": 0}, {"rank": 1}], "rows": [0.0, 1.0, 1.0],
        "statistics": 2.0, "threads": 1, "device": "cpu"}
    said = capfd.readouterr().out
    assert "rank 0 of 2 speaks\n" in said
    assert "rank 1" not in said


def test_one_process_is_the_default_and_needs_no_horovod():
    alone = exercise(Ranks(), offset=0)
    assert (alone["weight"], alone["rows"], alone["all"]) == (4.0, [0.0], [{"rank": 0}])  # 5 - 1.0 * 1
    assert alone["mean"] == {"a": 10.0, "b": 0}


def refuse_in_one(ranks: Ranks) -> None:
    if ranks.index == 1:
        raise ContractError("here", "this", "that", "mend it")
    ranks.mean({"never": 1.0})  # would wait for ever


def test_an_error_in_one_rank_comes_back_whole_and_the_other_stops(spark):
    before = signal.getsignal(signal.SIGINT)
    started = time.monotonic()
    with pytest.raises(ContractError, match=r"here: found this; expected that\. What to do: mend it"):
        run_ranks(spark, refuse_in_one, {}, 2)
    assert time.monotonic() - started < 60
    assert signal.getsignal(signal.SIGINT) is before  # Ctrl-C still works


def crash_or_die(ranks: Ranks, how: str) -> None:
    if ranks.index == 1:
        if how == "crash":
            raise KeyError("lost")
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.mean({"never": 1.0})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # Horovod's own thread
@pytest.mark.parametrize(("how", "match", "code"), [
    ("crash", "KeyError: 'lost'", DEFECT), ("die", "a rank that did not start or died", SURROUNDINGS)])
def test_a_crash_and_a_killed_rank_are_cluster_errors(spark, how, match, code):
    with pytest.raises(ClusterError, match=match) as raised:
        run_ranks(spark, crash_or_die, {"how": how}, 2)
    assert raised.value.exit_code == code


def crash_unheard(ranks: Ranks) -> None:
    """What Horovod does to a rank that asks it in the very instant in which another's crash ends it: the wait never returns.
    Horovod's own lets other threads run meanwhile, as this one does; it cannot be brought about at will."""
    from horovod.torch import mpi_ops

    if ranks.index == 1:
        raise KeyError("lost")
    mpi_ops._handle_map[-1] = (None, None)
    mpi_ops.mpi_lib.horovod_torch_wait_and_clear = lambda handle: time.sleep(3600)
    waiting = threading.Thread(target=mpi_ops.synchronize, args=(-1,), daemon=True)  # as in autograd's own threads
    waiting.start()
    waiting.join()


@pytest.mark.timeout(120)
def test_a_rank_that_horovod_never_answers_is_given_up(spark):
    with pytest.raises(ClusterError, match="rank 1 of 2: found KeyError: 'lost'"):
        run_ranks(spark, crash_unheard, {}, 2)


def finish_late(ranks: Ranks) -> str:
    if ranks.index == 0:
        time.sleep(LOOK_SECONDS * (VAIN_LOOKS + 2))  # Horovod has ended, as the other rank has; this one waits for nothing
    return f"{ranks.index} of {ranks.count}"


def test_a_rank_may_work_on_when_the_others_are_done(spark):
    assert run_ranks(spark, finish_late, {}, 2) == ["0 of 2", "1 of 2"]


def leave(ranks: Ranks) -> None:
    raise SystemExit(f"rank {ranks.index} leaves")


def test_a_rank_that_exits_is_no_rank_that_is_done(spark):
    with pytest.raises(ClusterError, match="rank 0 of 1: found SystemExit: rank 0 leaves"):
        run_ranks(spark, leave, {}, 1)


class JavaError(Exception):
    """As py4j's own: its text is asked of the JVM."""

    def __str__(self) -> str:
        raise ConnectionRefusedError(111, "Connection refused")


def test_an_error_whose_jvm_has_gone_is_told_by_its_name(spark, monkeypatch):
    def run(*arguments, **settings):
        raise JavaError
    monkeypatch.setattr("horovod.spark.run", run)
    with pytest.raises(ClusterError, match=r"a rank that did not start or died \(JavaError\); expected 1 ranks"):
        run_ranks(spark, exercise, {"offset": 0}, 1)


def test_too_few_slots_fail_before_horovod_waits(spark):
    started = time.monotonic()
    with pytest.raises(ClusterError, match="found 2 slots, so no free slots for every rank; expected 3 slots"):
        run_ranks(spark, exercise, {"offset": 0}, 3)
    assert time.monotonic() - started < 1


def test_seconds_with_a_unit_are_refused(spark):
    settings = spark.sparkContext._conf
    settings.set("spark.umair.startSeconds", "10min")
    try:
        with pytest.raises(ConfigError, match=r"spark.umair.startSeconds: found '10min'; expected whole seconds"):
            run_ranks(spark, exercise, {"offset": 0}, 1)
    finally:
        settings.set("spark.umair.startSeconds", "120")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_named():
    with pytest.raises(ClusterError, match="device=cuda: found 0 visible GPUs, none with index 0; expected a GPU for each task"):
        take_device("cuda", local_index=0)
    assert take_device("cpu", local_index=0) == "cpu"


def test_a_line_reaches_the_terminal_at_once_and_not_when_a_buffer_is_full(capfd: pytest.CaptureFixture[str]) -> None:
    with Terminal("127.0.0.1") as terminal:
        stream = connect(terminal.address)
        assert stream is not None
        stream.write("half way\n")
        said, until = "", time.monotonic() + 10
        while "half way" not in said and time.monotonic() < until:
            time.sleep(0.05)
            said += capfd.readouterr().out
        stream.close()
    assert said == "half way\n"


def test_what_is_fixed_is_not_averaged_and_statistics_are():
    """A mean of equal numbers over three or eight ranks rounds them: axes and scales must stay as they are, bit by bit."""
    from batches import WIDTHS, small

    from umair.model.ranker import UmairRanker

    ranker = UmairRanker(small(match=True, id_dropout=0.5, standardise=True), WIDTHS)
    gathered = {name for name, _ in gathered_buffers(ranker)}
    kinds = {name.rsplit(".", 1)[-1] for name in gathered}
    assert {"running_mean", "running_var"} < kinds
    assert any(kind.startswith("met_") for kind in kinds)
    assert not kinds & {"mean_D", "scale_D", "axes_DC"}
    fixed = {name for name, buffer in ranker.named_buffers() if buffer.is_floating_point()} - gathered
    assert {name.rsplit(".", 1)[-1] for name in fixed} == {"mean_D", "scale_D", "axes_DC"}
