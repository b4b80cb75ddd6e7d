"""What every job shares: the ledger, keys, exit codes, and errors that reach the user as one clear line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyspark.errors import PythonException

from umair.config import load_config
from umair.errors import ClusterError, ConfigError, ContractError
from umair.job import PLAN, Config, Job, clear_error, guard, require_finished, run_step
from umair.weeks import Week

ROOT = Path(__file__).parent.parent


def job_of(root: Path, *overrides: str, week: str = "2026-W10") -> Job:
    return Job(load_config(ROOT / "conf/local.yaml", [f"root={root}", *overrides], Config), Week.parse(week))


def test_a_step_runs_once_and_its_outputs_are_kept(tmp_path: Path) -> None:
    calls = []

    def build_windows(job: Job) -> dict[str, Any]:
        calls.append(job.week)
        with job.phase("build"):
            return {"rows": 7}

    first = run_step(job_of(tmp_path), build_windows)
    again = run_step(job_of(tmp_path), build_windows)
    assert len(calls) == 1
    assert first == again
    assert again.outputs["rows"] == 7
    assert set(again.outputs["phases"]) == {"build"}
    run_step(job_of(tmp_path, week="2026-W11"), build_windows)  # another week is another run
    run_step(job_of(tmp_path, "windows.train_days=7"), build_windows)  # so is another configuration
    assert len(calls) == 3


def test_a_step_that_fails_is_not_finished(tmp_path: Path) -> None:
    def build_windows(job: Job) -> dict[str, Any]:
        raise ContractError("window_test", "0 rows", "some", "choose another --week")

    with pytest.raises(ContractError):
        run_step(job_of(tmp_path), build_windows)
    assert job_of(tmp_path).finished("build_windows") is None


def test_keys_change_with_their_own_sections_and_those_before_them(tmp_path: Path) -> None:
    before, after = job_of(tmp_path), job_of(tmp_path, "windows.train_days=7")
    changed = {step for step in PLAN if before.key(step) != after.key(step)}
    assert changed == {"build_windows", "train_ranker", "evaluate_ranker"}
    assert len({before.key(step) for step in PLAN}) == len(PLAN)
    assert before.key("ingest_tables") == job_of(tmp_path, week="2026-W11").key("ingest_tables")


def test_encoders_belong_to_no_week(tmp_path: Path) -> None:
    def pretrain_image_encoder(job: Job) -> dict[str, Any]:
        return {}

    run_step(job_of(tmp_path), pretrain_image_encoder)
    assert job_of(tmp_path, week="2026-W11").finished("pretrain_image_encoder")


def test_a_missing_step_is_named_with_the_job_to_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no finished 'ingest_tables'.*run jobs/ingest_tables.py, or jobs/weekly.py"):
        require_finished(job_of(tmp_path), "ingest_tables")


def test_a_rival_is_the_ranker_with_the_keys_that_it_names_changed(tmp_path: Path) -> None:
    job = job_of(tmp_path, "training.rivals.narrow.match=false")
    assert job.config.training.rivals["narrow"] == job.config.ranker.model_copy(update={"match": ()})


# ---------------------------------------------------------------- errors and exit codes
def test_an_error_of_ours_is_one_line_and_exit_code_2(caplog: pytest.LogCaptureFixture) -> None:
    def body() -> int:
        raise ConfigError("conf/local.yaml", "unknown key 'x'", "one of root", "remove it")

    with pytest.raises(SystemExit) as ended:
        guard(body)
    assert ended.value.code == 2
    assert caplog.messages[-1] == ("conf/local.yaml: found unknown key 'x'; expected one of root. What to do: remove it")


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        guard(lambda: 1 // 0)


def test_an_error_raised_in_a_spark_worker_is_found_again(spark: Any) -> None:
    def fail(batches: Any) -> Any:
        yield from batches
        raise ClusterError("embed_images", "no GPU", "device cuda", "submit with spark.task.resource.gpu.amount")

    with pytest.raises(PythonException) as raised:
        spark.range(3).mapInArrow(fail, "id bigint").collect()
    assert clear_error(raised.value) == ("embed_images: found no GPU; expected device cuda. What to do: submit with "
                                         "spark.task.resource.gpu.amount")


def test_a_full_disk_is_told_as_such_and_other_failures_are_not() -> None:
    told = clear_error(OSError("java.io.IOException: No space left on device"))
    assert told is not None
    assert "what is committed is untouched" in told
    assert clear_error(ValueError("column not found")) is None


def test_a_job_that_cannot_write_leaves_the_committed_version(spark: Any, tmp_path: Path) -> None:
    """A real failing write: the process may write no file above 4 kB, as on a disk that is full."""
    job = job_of(tmp_path)
    job.spark = spark
    committed = job.commit("numbers", spark.range(5).coalesce(1))
    limit = ("import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); sys.path.insert(0, sys.argv[1])\n"
             "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
             "from umair.storage import Store\nimport pyarrow as pa, pyarrow.parquet as pq\n"
             "store = Store(sys.argv[2]); folder = store.staging('numbers'); folder.mkdir(parents=True)\n"
             "pq.write_table(pa.table({'id': list(range(100_000))}), folder / 'a.parquet')\n"
             "store.commit('numbers', folder, {})")
    failed = subprocess.run([sys.executable, "-c", limit, str(ROOT), str(tmp_path)], capture_output=True, text=True, check=False)
    assert failed.returncode != 0
    assert clear_error(OSError(failed.stderr)) is not None, failed.stderr
    assert job.store.snapshot("numbers") == committed


def test_without_java_the_way_out_is_named(tmp_path: Path) -> None:
    code = "from umair.java import require_java; require_java()"
    bare = {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    failed = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=False)
    assert "found no `java` in JAVA_HOME or on PATH" in failed.stderr
    assert "apt-get install openjdk-17-jre-headless" in failed.stderr


def test_an_old_java_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "bin" / "java"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_392\"' >&2\n", encoding="utf-8")
    old.chmod(0o755)
    failed = subprocess.run([sys.executable, "-c", "from umair.java import require_java; require_java()"], check=False,
                            env={"PATH": "/usr/bin:/bin", "JAVA_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
                            capture_output=True, text=True)
    assert "found version 8" in failed.stderr
    assert "expected Java 17 or newer" in failed.stderr
