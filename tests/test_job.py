"""What every job shares: the ledger, keys, exit codes, and errors that reach the user as one clear line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.errors import PythonException
from recommend_illustrations import recommend_illustrations

from umair import cli
from umair.config import load_config
from umair.errors import ClusterError, ConfigError, ContractError, StorageError, UmairError
from umair.evidence import present_commit
from umair.experiments.config import ExperimentConfig
from umair.experiments.search import SearchConfig
from umair.job import PLAN, REJECTED, Config, Job, clear_error, guard, main, parse_arguments, require_finished, run_step
from umair.storage import Store
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


def test_rejects_are_retried_in_a_finished_week_under_the_same_key(tmp_path: Path) -> None:
    calls = []

    def embed_images(job: Job) -> dict[str, Any]:
        calls.append(job.config.embed_images.retry_rejects)
        return {"rows": len(calls)}

    run_step(job_of(tmp_path), embed_images)
    retrying = job_of(tmp_path, "embed_images.retry_rejects=true")
    assert retrying.finished("embed_images") is None
    run_step(retrying, embed_images)
    assert calls == [False, True]
    for job in (retrying, job_of(tmp_path)):  # once is enough, and later steps find what came of it
        assert job.finished("embed_images").outputs["rows"] == 2  # type: ignore[union-attr]
    run_step(retrying, embed_images)
    assert len(calls) == 2


@pytest.mark.parametrize("tolerance", ["pretext.max_reject_share=0.3", "embed_images.max_withdrawn_share=0.5", "raw.lost_columns=accept", "recommend.rejected=true"])
def test_what_a_run_puts_up_with_makes_nothing_anew(tmp_path: Path, tolerance: str) -> None:
    """It changes no weight and no row of what is finished, which would else be trained or embedded again."""
    before, after = job_of(tmp_path), job_of(tmp_path, tolerance)
    assert {step: before.key(step) for step in PLAN} == {step: after.key(step) for step in PLAN}


def test_retry_rejects_is_a_flag_of_every_job_and_hides_no_finished_step_from_others(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cluster/weekly.sh gives the same arguments to every step."""
    def embed_images(job: Job) -> dict[str, Any]:
        return {}

    def train_ranker(job: Job) -> dict[str, Any]:
        require_finished(job, "embed_images")
        return {"exit_code": 7}

    run_step(job_of(tmp_path), embed_images)
    monkeypatch.setattr(sys, "argv", ["job", "--config", str(ROOT / "conf/local.yaml"), "--week", "2026-W10", "--retry-rejects",
                                      f"root={tmp_path}"])
    assert parse_arguments("A job")[0].embed_images.retry_rejects is True
    with pytest.raises(SystemExit) as ended:
        main(train_ranker)
    assert ended.value.code == 7


def test_half_an_option_is_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Else --retry-reject would start a run."""
    for arguments in (["--config", "conf/local.yaml", "--week", "2026-W10", "--retry-reject"], ["--conf", "c", "--week", "w"]):
        monkeypatch.setattr(sys, "argv", ["job", *arguments])
        with pytest.raises(SystemExit) as ended:
            parse_arguments("A job")
        assert ended.value.code == 2
    with pytest.raises(SystemExit):
        cli.main(["tidy", "--conf", "conf/local.yaml"])
    said = capsys.readouterr().err
    assert "unrecognized arguments: --retry-reject" in said
    assert said.count("the following arguments are required: --config") == 2


def test_a_dry_run_says_what_would_run_and_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                        caplog: pytest.LogCaptureFixture) -> None:
    def build_windows(job: Job) -> dict[str, Any]:
        return {"made_by": "a real run"}

    told = []
    for flag in ("--dry-run", None, "--dry-run"):
        given = ["build_windows.py", "--config", str(ROOT / "conf/local.yaml"), "--week", "2026-W10", f"root={tmp_path}/root", flag]
        monkeypatch.setattr(sys, "argv", [each for each in given if each])
        with pytest.raises(SystemExit) as ended:
            main(build_windows)
        told.append((ended.value.code, (tmp_path / "root").exists(), caplog.messages[-1]))
    assert told[0] == (0, False, "build_windows 2026-W10: would run")
    assert told[2] == (0, True, "build_windows 2026-W10: finished")
    commit = job_of(tmp_path / "root").finished("build_windows").outputs["commit"]  # type: ignore[union-attr]
    assert commit == present_commit()


def test_a_step_that_fails_is_not_finished(tmp_path: Path) -> None:
    def build_windows(job: Job) -> dict[str, Any]:
        raise ContractError("window_test", "0 rows", "some", "choose another --week")

    with pytest.raises(ContractError):
        run_step(job_of(tmp_path), build_windows)
    assert job_of(tmp_path).finished("build_windows") is None


def test_keys_change_with_their_own_sections_and_those_before_them(tmp_path: Path) -> None:
    before, after = job_of(tmp_path), job_of(tmp_path, "windows.train_days=7")
    changed = {step for step in PLAN if before.key(step) != after.key(step)}
    assert changed == {"build_windows", "train_ranker", "evaluate_ranker", "recommend_illustrations"}
    assert len({before.key(step) for step in PLAN}) == len(PLAN)
    assert before.key("ingest_tables") == job_of(tmp_path, week="2026-W11").key("ingest_tables")


def test_a_rejected_ranker_recommends_nothing_unless_it_is_asked_for(tmp_path: Path) -> None:
    def evaluate_ranker(job: Job) -> dict[str, Any]:
        return {"exit_code": REJECTED}

    run_step(job_of(tmp_path), evaluate_ranker)
    with pytest.raises(ConfigError, match=r"week 2026-W10: found a ranker that the evaluation rejected; expected an accepted one.*"
                                          r"recommend\.rejected=true"):
        run_step(job_of(tmp_path), recommend_illustrations)
    with pytest.raises(StorageError, match=r"found no usable config\.json"):  # it goes on, to the ranker that nobody has trained here
        run_step(job_of(tmp_path, "recommend.rejected=true"), recommend_illustrations)


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
@pytest.mark.parametrize(("kind", "code"), [(ConfigError, 2), (ContractError, 2), (StorageError, 4), (ClusterError, 4)])
def test_an_error_of_ours_is_one_line_and_an_exit_code_that_says_who_must_act(
        kind: type[UmairError], code: int, caplog: pytest.LogCaptureFixture) -> None:
    """Or cron could not tell a disk that is full for an hour from an export that somebody must mend."""
    def body() -> int:
        raise kind("conf/local.yaml", "unknown key 'x'", "one of root", "remove it")

    with pytest.raises(SystemExit) as ended:
        guard(body)
    assert ended.value.code == code
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
    told = clear_error(raised.value)
    assert isinstance(told, ClusterError)
    assert str(told) == "embed_images: found no GPU; expected device cuda. What to do: submit with spark.task.resource.gpu.amount"


def test_a_full_disk_is_told_as_such_and_other_failures_are_not() -> None:
    told = clear_error(OSError("java.io.IOException: No space left on device"))
    assert isinstance(told, StorageError)
    assert "what is committed is untouched" in str(told)
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


# ---------------------------------------------------------------- what later steps read
def test_a_step_reads_what_its_own_configuration_made(tmp_path: Path) -> None:
    """Windows of 49 days, then others of 7: whoever asks for 49 again gets those, though 7 are newer."""
    def build_windows(job: Job) -> dict[str, Any]:
        folder = job.store.staging("window_train")
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"days": [job.config.windows.train_days]}), folder / "part.parquet")
        return {"versions": {"window_train": job.store.commit("window_train", folder, {}).version}}

    long, short = job_of(tmp_path), job_of(tmp_path, "windows.train_days=7")
    for job in (long, short, long):
        run_step(job, build_windows)
    assert (long.versions, short.versions) == ({"window_train": 0}, {"window_train": 1})
    assert [pq.read_table(job.snapshot("window_train").files[0])["days"][0].as_py() for job in (long, short)] == [49, 7]
    with pytest.raises(ConfigError, match="week 2026-W11: found no finished step that made table 'window_train'"):
        job_of(tmp_path, week="2026-W11").snapshot("window_train")


def test_tables_are_local_files_whatever_spark_s_default_file_system_is(spark: Any, tmp_path: Path) -> None:
    """On YARN it is HDFS: written there, a table would be missing for everybody who reads it as a file."""
    job, hadoop = job_of(tmp_path), spark.sparkContext._jsc.hadoopConfiguration()
    job.spark, before = spark, hadoop.get("fs.defaultFS")
    hadoop.set("fs.defaultFS", "hdfs://nowhere.invalid:1")
    try:
        committed = job.commit("numbers", spark.range(5).coalesce(1))
        newest = job.read_newest("numbers")
        assert newest is not None
        assert sorted(row.id for row in newest.collect()) == [0, 1, 2, 3, 4]
    finally:
        hadoop.set("fs.defaultFS", before)
    assert pq.read_table(committed.files[0]).num_rows == 5


def test_weights_that_a_config_names_count_by_their_content(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    keys = []
    for content in (b"one", b"other", b"one"):
        weights.write_bytes(content)
        keys.append(job_of(tmp_path, f"image_encoder.weights={weights}").key("embed_images"))
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize("name", ["popularity", "ceiling", "last_week", "Main", "Constant"])
def test_a_rival_cannot_take_a_name_that_the_report_has(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"rival '{name}': the report means something else by it"):
        job_of(tmp_path, f"training.rivals.{name}.match=false")


# ---------------------------------------------------------------- one writer at a time
def test_two_runs_cannot_write_the_tables_of_one_root(tmp_path: Path) -> None:
    def build_windows(job: Job) -> dict[str, Any]:
        return {}

    def train_ranker(job: Job) -> dict[str, Any]:
        return {}

    held = "import sys, umair.storage as s\nwith s.Store(sys.argv[1]).sole_writer(): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", held, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True, cwd=ROOT) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ClusterError, match=rf"another run that writes its tables \(process {other.pid} on .*wait until it"):
            run_step(job_of(tmp_path), build_windows)
        assert run_step(job_of(tmp_path), train_ranker).outputs["phases"] == {}  # which writes no table
        other.kill()
    assert run_step(job_of(tmp_path), build_windows).outputs["phases"] == {}  # the lock died with its holder


def test_two_runs_cannot_train_one_ranker(tmp_path: Path) -> None:
    """They would go on from each other's checkpoints, and the first to finish would delete those of the other."""
    def train_ranker(job: Job) -> dict[str, Any]:
        with pytest.raises(ClusterError, match=rf"step train_ranker of week 2026-W10: found another run of it \(process {os.getpid()} on"):
            run_step(job_of(tmp_path), train_ranker)
        run_step(job_of(tmp_path, week="2026-W11"), another_week)
        return {}

    def another_week(job: Job) -> dict[str, Any]:
        return {}

    another_week.__name__ = "train_ranker"
    run_step(job_of(tmp_path), train_ranker)
    assert run_step(job_of(tmp_path), train_ranker).outputs["phases"] == {}  # the lock is free again


def test_a_root_that_is_a_file_is_said_before_any_work(tmp_path: Path) -> None:
    def ingest_tables(job: Job) -> dict[str, Any]:
        raise AssertionError("never called")

    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/\.writer: found a write that failed .*expected a writable folder"):
        run_step(job_of(tmp_path / "file"), ingest_tables)


def test_a_verdict_of_reject_is_exit_code_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate_ranker(job: Job) -> dict[str, Any]:
        return {"exit_code": REJECTED}

    monkeypatch.setattr(sys, "argv", ["evaluate_ranker", "--config", str(ROOT / "conf/local.yaml"), "--week", "2026-W10",
                                      f"root={tmp_path}"])
    for _ in range(2):  # and again when there is nothing to do
        with pytest.raises(SystemExit) as ended:
            main(evaluate_ranker)
        assert ended.value.code == 3


def test_a_commit_that_fails_leaves_no_part_behind(spark: Any, tmp_path: Path) -> None:
    job = job_of(tmp_path)
    job.commit("events", spark.range(3))
    with pytest.raises(Exception, match="the disk is full"):
        job.commit("events", spark.range(3).selectExpr("CAST(raise_error('the disk is full') AS BIGINT) AS id"))
    assert job.store.snapshot("events").rows == 3
    assert len(list((tmp_path / "tables" / "events").glob("part-*"))) == 1


def test_a_file_that_spark_cannot_read_is_named(spark: Any, tmp_path: Path) -> None:
    spark.range(1000).write.parquet(str(tmp_path / "table"))
    file = next((tmp_path / "table").glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:4] + bytes(500) + file.read_bytes()[504:])
    with pytest.raises(Exception, match="FAILED_READ_FILE") as raised:
        spark.read.parquet(str(file)).selectExpr("sum(id)").collect()
    told = clear_error(raised.value)
    assert isinstance(told, ContractError)
    assert str(told).startswith(f"{file}: found a file that breaks off or is damaged; expected a whole file")


# ---------------------------------------------------------------- Java, before spark-submit is even started
def test_make_and_the_cluster_s_script_say_that_java_is_missing(tmp_path: Path) -> None:
    told = subprocess.run(["/bin/sh", str(ROOT / "cluster/java.sh"), "--check"], capture_output=True, text=True, check=False,
                          env={"PATH": str(tmp_path)})
    assert told.returncode == 2
    assert told.stderr.startswith("Java: found no runtime of version 17 or newer in JAVA_HOME or on PATH; expected one")
    assert "What to do: run 'make setup'" in told.stderr
    fine = subprocess.run(["/bin/sh", str(ROOT / "cluster/java.sh"), "--check"], check=False)
    assert fine.returncode == 0
    for script in ("Makefile", "cluster/weekly.sh"):
        assert "cluster/java.sh --check" in (ROOT / script).read_text(encoding="utf-8")


def test_an_old_java_home_is_not_helped_by_another_java(tmp_path: Path) -> None:
    """Spark takes JAVA_HOME's whatever there is on PATH: so nothing is installed."""
    old = tmp_path / "bin/java"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_392\"' >&2\n", encoding="utf-8")
    old.chmod(0o755)
    told = subprocess.run(["/bin/sh", str(ROOT / "cluster/java.sh")], capture_output=True, text=True, check=False,
                          env={"PATH": os.environ["PATH"], "JAVA_HOME": str(tmp_path)})
    assert told.returncode == 2
    assert told.stderr.splitlines() == [
        f"Java: found version 8 at {old}; expected 17 or newer.",
        "What to do: set JAVA_HOME to a Java 17 runtime, or unset it to use the one on PATH, and run this again."]


def test_the_cluster_s_script_lets_spark_read_the_shared_secret(tmp_path: Path) -> None:
    """Beside a properties file spark-submit leaves out spark-defaults.conf, unless it is told not to."""
    flags = re.findall(r"^ +spark-submit (.*?)--master", (ROOT / "cluster/weekly.sh").read_text("utf-8"), re.M)
    (tmp_path / "spark-defaults.conf").write_text("spark.authenticate.secret told\n", encoding="utf-8")
    (tmp_path / "step.properties").write_text("spark.authenticate true\nspark.ui.enabled false\n", encoding="utf-8")
    (tmp_path / "app.py").write_text("from pyspark.sql import SparkSession\nspark = SparkSession.builder.getOrCreate()\n"
                                     "print(spark.sparkContext.getConf().get('spark.authenticate.secret'))\n", encoding="utf-8")
    done = subprocess.run([str(Path(sys.executable).parent / "spark-submit"), *flags[0].split(), "--master", "local[1]", "--properties-file",
                           str(tmp_path / "step.properties"), str(tmp_path / "app.py")], capture_output=True, text=True, check=False,
                          env={**os.environ, "SPARK_CONF_DIR": str(tmp_path)})
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["told"]), done.stderr[-2000:]


def test_what_goes_wrong_inside_a_step_is_not_taken_for_its_lock(tmp_path: Path) -> None:
    def ingest_tables(job: Job) -> dict[str, Any]:
        raise FileNotFoundError("a defect of the step")

    with pytest.raises(FileNotFoundError, match="a defect of the step"):
        run_step(job_of(tmp_path), ingest_tables)


def test_an_error_after_the_commit_removes_no_committed_file(spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(tmp_path)

    def committed_then_interrupted(*given: Any, **named: Any) -> Any:
        Store.commit(job.store, *given, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(job.store, "commit", committed_then_interrupted)
    with pytest.raises(KeyboardInterrupt):
        job.commit("events", spark.range(3))
    assert spark.read.parquet(*job.store.snapshot("events").files).count() == 3


@pytest.mark.parametrize("path", sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("conf/**/*.yaml")))
def test_every_configuration_in_the_tree_loads(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = Path(path).read_text(encoding="utf-8")
    if "\nclaim:" in text:
        assert load_config(path, [], ExperimentConfig).rankers
    elif "\nspace:" in text:
        assert load_config(path, [], SearchConfig).space
    else:
        assert load_config(path, [], Config).root
