"""What is known of versions, checked on versions chosen by hand, and the report of this very machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from umair import doctor
from umair.doctor import BREAKS, KNOWN, MISSING, OK, Finding, as_table, diagnose, judge

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("package", "version", "status", "note"), [
    ("petastorm", "0.12.1", OK, ""), ("petastorm", "0.13.1", BREAKS, "loses rows"), ("petastorm", "0.13.0", BREAKS, "loses rows"),
    ("petastorm", "0.12.0", OK, "not tried"), ("petastorm", None, MISSING, ""),
    ("pyarrow", "14.0.2", OK, ""), ("pyarrow", "14.0.0", BREAKS, "CVE-2023-47248"), ("pyarrow", "10.0.1", BREAKS, "CVE-2023-47248"),
    ("pyarrow", "14.0.1", OK, "not tried"), ("pyarrow", "15.0.0", BREAKS, "validate_schema"), ("pyarrow", "15.0.2", BREAKS, "validate_schema"),
    ("pyarrow", "16.0", BREAKS, "pyarrow.filesystem"), ("pyarrow", "21.0.0", BREAKS, "pyarrow.filesystem"),
    ("numpy", "1.26.4", OK, ""), ("numpy", "2.0.0rc1", BREAKS, "numpy 1"), ("numpy", "2", BREAKS, "numpy 1"),
    ("pyspark", "4.0.5", OK, ""), ("pyspark", "4.1.0", BREAKS, "pyarrow >= 15"), ("pyspark", "3.5.6", OK, "not tried"),
    ("pyspark", "4.0.0.dev1", OK, ""), ("pyspark", "4.10", BREAKS, "pyarrow >= 15"),  # 4.10 is not 4.1.0, and newer
    ("pandas", "2.3.3", OK, ""), ("pandas", "1.5.3", BREAKS, "pandas UDFs"), ("pandas", "3.0.6", OK, "not tried"),
    ("torch", "2.13.0+cpu", OK, ""), ("torch", "2.12.1", OK, "not tried"), ("horovod", "0.28.1", OK, "Estimators fail"),
    ("pydantic", "1.10.2", BREAKS, "pydantic 2"), ("setuptools", "69.0", BREAKS, "torch 2.13"),
])
def test_versions_by_hand(package, version, status, note):
    finding = judge(package, version)
    assert finding.status == status
    assert note in finding.note
    assert bool(finding.way_out) == (status != OK)


def test_every_way_out_leads_to_a_version_that_works():
    for known in KNOWN.values():
        oldest = re.match(r">=([0-9.]+)", known.tried)[1]
        assert judge(known.name, oldest).status == OK
        assert "not tried" not in judge(known.name, oldest).note
        assert judge(known.name, None).way_out == (known.install or f"pip install '{known.name}{known.tried}'")


def test_what_is_asked_for_is_what_setup_asks_for():
    asked = dict(re.findall(r'"([a-z-]+)>=([0-9.]+)', (ROOT / "setup.py").read_text()))
    assert set(KNOWN) <= set(asked)
    pinned = dict(re.findall(r"^([a-z-]+)==([0-9.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    for name in set(KNOWN) & set(pinned):
        finding = judge(name, pinned[name])
        assert (finding.status, "not tried" in finding.note) == (OK, False), finding


@pytest.mark.parametrize(("found", "status"), [((3, 10), BREAKS), ((3, 11), OK), ((3, 12), OK), ((3, 13), BREAKS)])
def test_python(found, status):
    assert doctor.judge_python(found).status == status


@pytest.mark.parametrize(("found", "status"), [
    (None, MISSING), (("/j", 11), BREAKS), (("/j", 17), OK), (("/j", 21), OK), (("/j", 25), OK)])
def test_java(found, status):
    finding = doctor.judge_java(found)
    assert finding.status == status
    assert ("apt-get install openjdk-17" in finding.way_out) == (status != OK)
    assert ("not tried" in finding.note) == (found == ("/j", 25))


BUILT = {"torch": True, "gloo": True, "mpi": False, "nccl": False, "cuda": False}


@pytest.mark.parametrize(("told", "status", "found", "note"), [
    (BUILT, OK, "torch, gloo", ""), ({**BUILT, "cuda": True}, OK, "torch, gloo, cuda", "HOROVOD_GPU_OPERATIONS=NCCL"),
    ({**BUILT, "cuda": True, "nccl": True}, OK, "torch, gloo, nccl, cuda", ""),
    ({**BUILT, "gloo": False}, BREAKS, "torch", "needs MPI"), ("ImportError: undefined symbol", BREAKS, "-", "undefined symbol"),
])
def test_builds_of_horovod(told, status, found, note):
    finding = doctor.judge_horovod(told)
    assert (finding.status, finding.found) == (status, found)
    assert note in finding.note


@pytest.mark.parametrize(("told", "driver", "status", "found"), [
    ({"devices": ["NVIDIA H200"], "cuda": "12.8"}, True, OK, "1"), ({"devices": [], "cuda": None}, False, OK, "0"),
    ({"devices": [], "cuda": None}, True, BREAKS, "0"), ({"devices": [], "cuda": "12.8"}, False, OK, "0"),
    ("ModuleNotFoundError: No module named 'torch'", False, BREAKS, "-"),
])
def test_devices(told, driver, status, found):
    finding = doctor.judge_devices(told, driver)
    assert (finding.status, finding.found) == (status, found)


def test_spark_submit_and_amounts():
    assert doctor.judge_spark_submit("/bin/spark-submit", False).status == OK
    assert "activate" in doctor.judge_spark_submit(None, True).note
    assert doctor.judge_spark_submit(None, False).status == MISSING
    assert doctor.judge_amount("memory", 3 * doctor.GIB, 4 * doctor.GIB).note == "tight for `make demo`; 4 GiB are enough"
    assert doctor.judge_amount("memory", 4 * doctor.GIB, 4 * doctor.GIB) == Finding("memory", "4.0 GiB", OK)


def test_an_answer_is_json_or_an_error():
    assert doctor._ask("import json; print('noise'); print(json.dumps({'a': 1}))") == {"a": 1}
    assert doctor._ask("import no_such_module") == "ModuleNotFoundError: No module named 'no_such_module'"
    assert doctor._ask("import os; os._exit(9)") == "it died with code 9"


def test_the_table_by_hand():
    assert as_table([Finding("numpy", "1.26.4", OK), Finding("pyarrow", "15.0", BREAKS, "petastorm fails", "pip install it")]) == (
        "ok              numpy    1.26.4\n"
        "known to break  pyarrow  15.0    petastorm fails\n"
        "                -> pip install it\n"
        "1 of 2 to mend\n")


def test_this_machine_as_a_whole():
    findings = {finding.name: finding for finding in diagnose()}
    assert set(KNOWN) | {"Python", "Java", "cores", "memory", "free disk", "CUDA devices", "spark-submit", "Horovod's build"} == set(findings)
    assert findings["numpy"].found == __import__("numpy").__version__
    assert "gloo" in findings["Horovod's build"].found
    bad = [finding for finding in findings.values() if finding.status != OK]
    assert bad == [], "the tests run where everything works"


def test_without_third_party_packages_it_still_speaks():
    code = "import sys; sys.path.insert(0, sys.argv[1]); from umair.doctor import doctor; sys.exit(doctor())"
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", code, str(ROOT)], capture_output=True, text=True, check=False)
    assert ran.returncode == 2, ran.stderr
    assert re.search(r"^missing +petastorm +-$", ran.stdout, re.MULTILINE)
    assert "-> pip install 'petastorm>=0.12.1,<0.13'" in ran.stdout
    assert json.dumps(ran.stdout.splitlines()[-1]).endswith('to mend"')
