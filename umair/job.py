"""What every job shares: arguments, configuration, the Spark session, logging, the ledger and exit codes.

Here, and only here, the configuration sections and the order of the steps are put together.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from pydantic import Field, model_validator

from umair.config import PlainPath, Section, fingerprint, load_config, merge
from umair.embedding.images import EmbedImagesConfig
from umair.embedding.texts import EmbedTextsConfig
from umair.errors import ConfigError, ContractError, StorageError, UmairError, error_in
from umair.evaluation.figures import LAST_WEEK
from umair.evaluation.references import BASELINES, CEILING
from umair.evaluation.report import EvaluationConfig
from umair.evidence import present_commit
from umair.model import image_encoder, text_encoder
from umair.model.image_encoder import ImageEncoderConfig
from umair.model.presets import with_preset
from umair.model.ranker import RankerConfig
from umair.model.text_encoder import TextEncoderConfig
from umair.recommendations import RecommendConfig
from umair.storage import Snapshot, Step, Store, digest_path, for_spark, locked
from umair.tables.ingest import RawConfig
from umair.training.loop import MAIN, TrainingConfig
from umair.training.tag_pretext import PretextConfig
from umair.training.text_pairs import TextPairsConfig
from umair.weeks import Week
from umair.windows.build import WindowsConfig
from umair.world.draw import WorldConfig

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

log = logging.getLogger("umair")
ACCEPTED, REJECTED = 0, 3  # exit codes: fine, verdict "reject"; those of errors are in umair/errors.py
TAKEN_NAMES = (MAIN, LAST_WEEK, CEILING, *BASELINES)
MODELS = {"pretrain_image_encoder": "encoders/image", "finetune_text_encoder": "encoders/text",
          "train_ranker": "rankers/{week}"}  # below the root: what a step makes
ANY_WEEK = "any-week"  # the ledger's week of steps that do not belong to one: the encoders


class Config(Section):
    """Every section, each defined beside the code that it configures."""

    root: PlainPath  # folder that all nodes see: tables, encoders, rankers, report
    raw: RawConfig
    image_encoder: ImageEncoderConfig
    pretext: PretextConfig
    text_encoder: TextEncoderConfig
    text_pairs: TextPairsConfig
    embed_images: EmbedImagesConfig
    embed_texts: EmbedTextsConfig
    windows: WindowsConfig
    ranker: RankerConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    recommend: RecommendConfig = RecommendConfig()
    world: WorldConfig = WorldConfig()
    spark: dict[str, str] = Field(default_factory=dict)  # laid over what spark-submit was given

    @model_validator(mode="before")
    @classmethod
    def _rivals_say_what_differs(cls, values: Any) -> Any:
        """A rival under `training.rivals` is the ranker with the keys that it names changed."""
        match values:
            case {"training": {"rivals": dict(rivals)}} if all(isinstance(rival, dict) for rival in rivals.values()):
                ranker = with_preset(values.get("ranker") or {})
                whole = {name: merge(ranker, with_preset(rival)) for name, rival in rivals.items()}
                return {**values, "training": {**values["training"], "rivals": whole}}
        return values

    @model_validator(mode="after")
    def _rivals_have_names_of_their_own(self) -> Config:
        for name in self.training.rivals:
            if name.lower() in TAKEN_NAMES:  # Spark's columns know no case
                raise ValueError(f"rival '{name}': the report means something else by it; taken: {', '.join(TAKEN_NAMES)}")
        return self


@dataclass(frozen=True)
class StepPlan:
    """What a step's result depends on: its config sections, the steps before it, and what a config only names."""

    sections: tuple[str, ...]
    after: tuple[str, ...] = ()
    weekly: bool = True
    writes_tables: bool = False  # whether two at once would be in each other's way
    weights: str | None = None  # section.key that may name a file or folder whose content counts
    preprocessing: str | None = None  # what the code does to its input before anything is learnt


PLAN = {
    "ingest_tables": StepPlan(("raw",), writes_tables=True),
    "pretrain_image_encoder": StepPlan(("image_encoder", "pretext"), weekly=False, weights="image_encoder.weights",
                                       preprocessing=image_encoder.PREPROCESSING),
    "finetune_text_encoder": StepPlan(("text_encoder", "text_pairs"), weekly=False, weights="text_encoder.base",
                                      preprocessing=text_encoder.PREPROCESSING),
    "embed_images": StepPlan(("embed_images",), ("ingest_tables", "pretrain_image_encoder"), writes_tables=True),
    "embed_texts": StepPlan(("embed_texts",), ("ingest_tables", "finetune_text_encoder"), writes_tables=True),
    "build_windows": StepPlan(("windows",), ("ingest_tables",), writes_tables=True),
    "train_ranker": StepPlan(("ranker", "training"), ("build_windows", "embed_images", "embed_texts")),
    "evaluate_ranker": StepPlan(("evaluation",), ("train_ranker",)),
    "recommend_illustrations": StepPlan(("recommend",), ("train_ranker",), writes_tables=True),
}


class Job:
    """One step's surroundings. `job.spark` starts Spark at its first use, so that finished steps cost nothing."""

    def __init__(self, config: Config, week: Week) -> None:
        self.config, self.week, self.store = config, week, Store(config.root)
        self.phases: dict[str, float] = {}  # seconds by phase of the current step
        self.made_by = present_commit()  # of umair; asked now, as a checkout may change while a job runs
        self.again = {"embed_images"} if config.embed_images.retry_rejects else set[str]()  # steps to run though finished

    @cached_property
    def spark(self) -> SparkSession:
        return start_spark(self.config.spark)

    @property
    def versions(self) -> dict[str, int]:
        """By table: the version that this week's finished steps left, whatever other weeks or configurations wrote since."""
        done = [self.finished(step) for step in PLAN]
        return {name: version for step in done if step for name, version in step.outputs.get("versions", {}).items()}

    def snapshot(self, name: str) -> Snapshot:
        """A table as this week's finished steps left it. Raises ConfigError when none of them made it."""
        if name not in self.versions:
            raise ConfigError(f"week {self.week}", f"no finished step that made table '{name}'",
                              "the step that makes it before this one", "run jobs/weekly.py, which keeps the order")
        return self.store.snapshot(name, self.versions[name])

    def read(self, name: str) -> DataFrame:
        """The same as a Spark frame over its explicit list of files."""
        return self.spark.read.parquet(*for_spark(*self.snapshot(name).files))

    def read_newest(self, name: str) -> DataFrame | None:
        """A table that grows from week to week as it now is, or None before its first version."""
        return self.spark.read.parquet(*for_spark(*self.store.snapshot(name).files)) if self.store.exists(name) else None

    def commit(self, name: str, frame: DataFrame, *, append: bool = False, **facts: Any) -> Snapshot:
        """Writes a Spark frame and makes it the table's new version (or adds it), in one transaction."""
        folder = self.store.staging(name)
        with self.phase(f"write {name}"):
            with contextlib.ExitStack() as on_error:  # over before the commit: a committed file is never removed
                on_error.callback(shutil.rmtree, folder, ignore_errors=True)  # what a full disk took is given back
                frame.write.option("compression", "zstd").parquet(*for_spark(folder))
                on_error.pop_all()
            snapshot = self.store.commit(name, folder, {"week": str(self.week), **facts}, append=append)
        log.info("%s: version %d, %s rows", name, snapshot.version, f"{snapshot.rows:,}")
        return snapshot

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to `phases[name]`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.perf_counter() - started

    def key(self, step: str) -> str:
        """Stands for everything that the step's result depends on, but the raw data of its week."""
        plan = PLAN[step]
        return fingerprint([step, [getattr(self.config, section) for section in plan.sections], plan.preprocessing,
                            self._digest(plan.weights), [self.key(before) for before in plan.after]])

    def _digest(self, named: str | None) -> str | None:
        """Stands for the file or folder that a config key names; None for none, or a name that is none on this machine."""
        if named is None:
            return None
        section, key = named.split(".")
        path = getattr(getattr(self.config, section), key)
        return digest_path(Path(path)) if path and Path(path).exists() else None

    def ledger_week(self, step: str) -> str:
        return str(self.week) if PLAN[step].weekly else ANY_WEEK

    def finished(self, step: str) -> Step | None:
        if step in self.again:
            return None
        return self.store.finished(step, self.ledger_week(step), self.key(step))

    def encoder_before(self, step: str, encoder: str) -> str | None:
        """The encoder that this one replaces in `step`; None where there is none, or once a finished run compared them."""
        known = [line.outputs["encoder"] for line in self.store.all_finished(step)]
        return known[-1] if known and encoder not in known else None

    def model_folder(self, step: str) -> Any:
        """The folder of the encoder or ranker that `step` makes, whether or not it is there yet."""
        return self.store.model_folder(MODELS[step].format(week=self.week), self.key(step))


StepFunction = Callable[[Job], dict[str, Any]]


def run_step(job: Job, step: StepFunction) -> Step:
    """Runs one step unless the ledger has it, and records it. The step must be safe to run again after a kill."""
    name = step.__name__
    done = job.finished(name)
    if done:
        made = f"; its ranker: {done.outputs['ranker']}" if "ranker" in done.outputs else ""
        log.info("%s %s: already finished, nothing to do%s", name, job.week, made)
        return done
    with _sole_run(job, name):
        done = job.finished(name)  # by another run, between the question above and the lock
        if done:
            return done
        log.info("%s %s: start", name, job.week)
        started, job.phases = time.time(), {}
        outputs = step(job)
        phases = {phase: round(seconds, 3) for phase, seconds in job.phases.items()}
        record = Step(name, job.ledger_week(name), job.key(name), round(time.time() - started, 3),
                      {**outputs, "phases": phases, "commit": job.made_by}, time.time())
        job.store.record(record)
    job.again.discard(name)
    log.info("%s %s: done in %.1f s", name, job.week, record.seconds)
    return record


def _sole_run(job: Job, name: str) -> contextlib.AbstractContextManager[None]:
    """Keeps other runs from what the step writes: the tables of the root, or the folder of its encoder or ranker, beside
    which its checkpoints lie. Raises ClusterError while another run holds it."""
    if PLAN[name].writes_tables:
        return job.store.sole_writer()
    if name not in MODELS:
        return contextlib.nullcontext()
    folder = job.model_folder(name)
    return locked(folder.with_name(f".{folder.name}.lock"), f"step {name} of week {job.week}", "another run of it")


def start_spark(settings: dict[str, str]) -> SparkSession:
    """The Spark session, in UTC and with Arrow. Raises ClusterError without Java."""
    from pyspark.sql import SparkSession

    from umair.java import require_java

    require_java()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    builder = SparkSession.builder.appName("umair")
    fixed = {"spark.sql.session.timeZone": "UTC", "spark.sql.execution.arrow.pyspark.enabled": "true",
             "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS"}  # Spark's default, INT96, is Spark's alone
    for key, value in {**settings, **fixed}.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


class Arguments(NamedTuple):
    """What every job is given."""

    config: Config
    week: Week
    dry_run: bool = False


def parse_arguments(description: str) -> Arguments:
    """`--config FILE --week 2026-W10 [--retry-rejects] [--dry-run] [section.key=value ...]`, the same for every job."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)  # a slip of the pen starts no work
    parser.add_argument("--config", required=True, help="YAML file, for example conf/local.yaml")
    parser.add_argument("--week", required=True, help="ISO week whose end bounds what may be known, for example 2026-W10")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="laid over the file")
    parser.add_argument("--retry-rejects", action="store_true", help="try pictures again that were set aside, also in a "
                        "finished week; the same as embed_images.retry_rejects=true; says nothing to steps that embed none")
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and do nothing: after an upgrade or a "
                        "change of the configuration")
    given = parser.parse_intermixed_args()
    retry = ["embed_images.retry_rejects=true"] if given.retry_rejects else []
    return Arguments(load_config(given.config, [*given.overrides, *retry], Config), Week.parse(given.week), given.dry_run)


def main(step: StepFunction) -> NoReturn:
    """Runs one job from the command line and ends the process with its exit code."""
    guard(lambda: _single(step))


def _single(step: StepFunction) -> int:
    description = (step.__doc__ or step.__name__).splitlines()[0]
    given = parse_arguments(description)
    job = Job(given.config, given.week)
    job.again &= {step.__name__}  # what another job is to do again is finished for this one
    if given.dry_run:
        log.info("%s %s: %s", step.__name__, job.week, "finished" if job.finished(step.__name__) else "would run")
        return ACCEPTED
    return int(run_step(job, step).outputs.get("exit_code", ACCEPTED))


def guard(body: Callable[[], int]) -> NoReturn:
    """Runs `body`; turns a UmairError into one clear line and its exit code. Other errors keep their traceback."""
    start_logging()
    try:
        code = body()
    except Exception as error:
        clear = clear_error(error)
        if clear is None:
            raise
        log.error("%s", clear)
        code = clear.exit_code
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def clear_error(error: BaseException) -> UmairError | None:
    """The error that a user can act on, printed as one line, or None for one that needs its traceback.

    An error raised inside a Spark worker arrives as text within Spark's own: it is found again.
    """
    if isinstance(error, UmairError):
        return error
    text = str(error)
    raised = error_in(text)
    if raised is not None:
        return raised
    unreadable = re.search(r"FAILED_READ_FILE.*?file:/*(/\S+?)[\s.]*(?:\n|$| SQLSTATE)", text)
    if unreadable:
        return ContractError(unreadable[1], "a file that breaks off or is damaged", "a whole file",
                             "export it again; below `root`, restore it or run the step that made it again")
    if re.search(r"No space left on device|File too large|Disk quota exceeded", text):
        return StorageError("writing a table", "no space left on the device", "room for the new version",
                            "free some space or choose another `root`, then run again; what is committed is untouched")
    return None


def start_logging() -> None:
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    log.setLevel(logging.INFO)


def require_finished(job: Job, *steps: str) -> None:
    """Raises ConfigError naming the job to run first."""
    for step in steps:
        if not job.finished(step):
            raise ConfigError(f"week {job.week}", f"no finished '{step}' for this configuration",
                              f"'{step}' before this job", f"run jobs/{step}.py, or jobs/weekly.py for all of them in order")
