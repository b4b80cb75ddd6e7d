"""`umair doctor`: what is installed, what is missing or known to break, and the way out.

Works on a half-installed machine: needs only the standard library. What is known of versions is data (PACKAGES), and
`judge` is a pure function over it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from umair.java import HOW, NEWEST_TRIED, OLDEST, java_version

OK, MISSING, BREAKS = "ok", "missing", "known to break"
BUILD_HOROVOD = "sh cluster/build_horovod.sh VENV (compiles against the torch there), then pip install the wheel it names"
GIB = 2**30


@dataclass(frozen=True)
class Break:
    """Versions from `since` up to, not including, `until` do not work; an empty bound is none."""

    since: str
    until: str
    why: str


@dataclass(frozen=True)
class Package:
    """A package that umair needs: the versions it was tried with, as for pip, and those known to break."""

    name: str
    tried: str
    breaks: tuple[Break, ...] = ()
    note: str = ""
    install: str = ""  # when pip alone does not do

    @property
    def way_out(self) -> str:
        return self.install or f"pip install '{self.name}{self.tried}'"


@dataclass(frozen=True)
class Finding:
    """One line of the report. `note` says why, or what else to know; `way_out` what to type, empty when all is well."""

    name: str
    found: str
    status: str
    note: str = ""
    way_out: str = ""


PACKAGES = (
    Package("pyspark", ">=4.0,<4.1", (
        Break("4.1", "", "needs pyarrow >= 15, which no petastorm release can use"),)),
    Package("petastorm", ">=0.12.1,<0.13", (
        Break("0.13", "", "0.13.1 loses rows in silence: a set of 1,000 rows came whole in 116 of 200 reads"),)),
    Package("pyarrow", ">=14.0.2,<15", (
        Break("", "14.0.1", "CVE-2023-47248: reading an untrusted file can run code"),
        Break("15", "16", "petastorm fails: ParquetDataset has no argument 'validate_schema'"),
        Break("16", "", "petastorm fails at import: no module 'pyarrow.filesystem'"))),
    Package("numpy", ">=1.26,<2", (
        Break("2", "", "pyarrow 14 is built against numpy 1 and fails at import; petastorm uses names that 2 removed"),)),
    Package("pandas", ">=2.2,<2.4", (
        Break("", "2", "Spark 4.0 refuses pandas UDFs with it"),)),
    Package("torch", ">=2.13,<2.14"),
    Package("horovod", ">=0.28.1,<0.29", (), "horovod.spark.run only: its Spark Estimators fail beside pyarrow >= 11",
            BUILD_HOROVOD),
    Package("sentence-transformers", ">=6.2,<7"),
    Package("transformers", ">=5.23,<6"),
    Package("pillow", ">=13,<14"),
    Package("deltalake", ">=1.6,<2"),
    Package("pydantic", ">=2.10,<3", (Break("", "2", "umair's configuration is written for pydantic 2"),)),
    Package("setuptools", ">=77", (Break("", "77", "torch 2.13 refuses it"),),
            "stands in for distutils on Python 3.12, where Spark 3.5, petastorm and Horovod import it"),
)
KNOWN = {package.name: package for package in PACKAGES}


def doctor() -> int:
    """Prints every finding; returns 0 when nothing is missing or known to break, else 2."""
    findings = diagnose()
    sys.stdout.write(as_table(findings))
    return 0 if all(finding.status == OK for finding in findings) else 2


def diagnose() -> list[Finding]:
    """Looks at Python, Java, every package, Horovod's build and the machine. Starts two short Python processes."""
    packages = [judge(package.name, _installed(package.name)) for package in PACKAGES]
    return [judge_python(sys.version_info[:2]), judge_java(java_version()), *packages,
            judge_devices(_ask(DEVICES), shutil.which("nvidia-smi") is not None), judge_horovod(_ask(HOROVOD)),
            judge_spark_submit(shutil.which("spark-submit"), Path(sys.executable).with_name("spark-submit").exists()),
            *_machine()]


# ---------------------------------------------------------------- versions
def judge(package: str, found: str | None) -> Finding:
    """What is known of one version of a package; None means that it is not installed."""
    known = KNOWN[package]
    if found is None:
        return Finding(package, "-", MISSING, known.note, known.way_out)
    for broken in known.breaks:
        if _within(found, broken.since, broken.until):
            return Finding(package, found, BREAKS, broken.why, known.way_out)
    if not _was_tried(known, found):
        return Finding(package, found, OK, f"not tried; tried: {known.tried}")
    return Finding(package, found, OK, known.note)


def judge_python(found: tuple[int, ...]) -> Finding:
    """Python 3.11 or 3.12."""
    text = ".".join(map(str, found))
    if (3, 11) <= found[:2] <= (3, 12):
        return Finding("Python", text, OK)
    why = "transformers and pillow need 3.11" if found < (3, 11) else "no wheel of pyarrow 14, which petastorm needs"
    return Finding("Python", text, BREAKS, why, "make setup PYTHON=python3.11, or a virtual environment of Python 3.11")


def judge_java(found: tuple[str, int] | None) -> Finding:
    """The (program, major version) that Spark would start."""
    if found is None:
        return Finding("Java", "-", MISSING, "Spark runs on it", HOW)
    program, major = found
    if major < OLDEST:
        return Finding("Java", str(major), BREAKS, f"{program}; Spark 4.0 needs {OLDEST}", HOW)
    tried = "" if major <= NEWEST_TRIED else f"; not tried; tried: {OLDEST} to {NEWEST_TRIED}"
    return Finding("Java", str(major), OK, program + tried)


def _within(found: str, since: str, until: str) -> bool:
    numbers = _numbers(found)
    return (not since or numbers >= _numbers(since)) and (not until or numbers < _numbers(until))


def _was_tried(known: Package, found: str) -> bool:
    since, _, until = known.tried.removeprefix(">=").partition(",<")
    return _within(found, since, until)


def _numbers(text: str) -> tuple[int, ...]:
    """'2.13.0+cpu' -> (2, 13); zeros at the end say nothing, and what is no number ends it."""
    numbers = [int(part) for part in re.match(r"[0-9.]*", text)[0].split(".") if part]  # type: ignore[index]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# ---------------------------------------------------------------- what only an import can tell
DEVICES = """
import json, torch
print(json.dumps({"devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
                  "cuda": torch.version.cuda}))
"""
HOROVOD = """
import json, horovod.torch as hvd
print(json.dumps({"torch": True, "gloo": bool(hvd.gloo_built()), "mpi": bool(hvd.mpi_built()),
                  "nccl": bool(hvd.nccl_built()), "cuda": bool(hvd.cuda_built())}))
"""


def judge_devices(told: dict[str, Any] | str, driver: bool) -> Finding:
    """What torch sees; `driver` says whether this machine has NVIDIA's driver. A text is the error of the import."""
    name, install = "CUDA devices", "install a torch of the same version that is built for CUDA"
    if isinstance(told, str):
        return Finding(name, "-", BREAKS, f"torch does not import: {told}", KNOWN["torch"].way_out)
    if told["devices"]:
        return Finding(name, str(len(told["devices"])), OK, ", ".join(told["devices"]))
    if driver and told["cuda"] is None:
        return Finding(name, "0", BREAKS, "there is an NVIDIA driver, but torch is built without CUDA", install)
    return Finding(name, "0", OK, "everything runs on the CPU")


def judge_horovod(told: dict[str, Any] | str) -> Finding:
    """Horovod's build: torch and gloo are needed, NCCL only between GPUs. A text is the error of the import."""
    name = "Horovod's build"
    if isinstance(told, str):
        return Finding(name, "-", BREAKS, f"horovod.torch does not import: {told}", BUILD_HOROVOD)
    built = ", ".join(part for part, there in told.items() if there)
    if not told["gloo"]:
        return Finding(name, built, BREAKS, "without gloo, horovod.spark.run needs MPI on every node", BUILD_HOROVOD)
    if told["cuda"] and not told["nccl"]:
        return Finding(name, built, OK, "no NCCL: gradients travel through the CPU; build with HOROVOD_GPU_OPERATIONS=NCCL")
    return Finding(name, built, OK)


def _ask(code: str) -> dict[str, Any] | str:
    """The JSON that `code` prints last in a Python process of its own, or the last line of its error."""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    if ran.returncode:
        said = ran.stderr.strip().splitlines()
        return said[-1] if said else f"it died with code {ran.returncode}"
    answer: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
    return answer


# ---------------------------------------------------------------- the machine
def judge_spark_submit(on_path: str | None, beside_python: bool) -> Finding:
    """Whether the jobs can be submitted from this shell."""
    if on_path:
        return Finding("spark-submit", "on PATH", OK, on_path)
    if beside_python:
        return Finding("spark-submit", "not on PATH", OK, "make targets find it; else activate the virtual environment")
    return Finding("spark-submit", "-", MISSING, "", KNOWN["pyspark"].way_out)


def _machine() -> list[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = shutil.disk_usage(Path.cwd()).free
    return [Finding("cores", str(len(os.sched_getaffinity(0))), OK),
            judge_amount("memory", memory, 4 * GIB), judge_amount("free disk", free, 4 * GIB)]


def judge_amount(name: str, amount: int, enough: int) -> Finding:
    """Bytes of memory or disk; less than `enough` is tight for the demo."""
    note = "" if amount >= enough else f"tight for `make demo`; {enough // GIB} GiB are enough"
    return Finding(name, f"{amount / GIB:.1f} GiB", OK, note)


# ---------------------------------------------------------------- the report
def as_table(findings: list[Finding]) -> str:
    """Aligned lines of text; below each finding that is not ok, the way out."""
    cells: list[Callable[[Finding], str]] = [lambda one: one.status, lambda one: one.name, lambda one: one.found]
    widths = [max(len(cell(finding)) for finding in findings) for cell in cells]
    lines = []
    for finding in findings:
        columns = [cell(finding).ljust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join([*columns, finding.note]).rstrip())
        if finding.way_out:
            lines.append(f"{'':{widths[0]}}  -> {finding.way_out}")
    bad = sum(finding.status != OK for finding in findings)
    lines.append(f"{bad} of {len(findings)} to mend" if bad else "nothing is missing or known to break")
    return "\n".join(lines) + "\n"
