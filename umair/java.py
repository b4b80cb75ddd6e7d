"""Spark needs Java 17 or newer; this says so before Spark fails with a page of text."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from umair.errors import ClusterError

OLDEST, NEWEST_TRIED = 17, 21
HOW = ("install a Java 17 runtime: `apt-get install openjdk-17-jre-headless` (Debian, Ubuntu), "
       "`dnf install java-17-openjdk-headless` (Fedora, RHEL), `apk add openjdk17-jre-headless` (Alpine), "
       "or set JAVA_HOME to one")


def java_version() -> tuple[str, int] | None:
    """Path and major version of the Java that Spark would start, or None."""
    home = os.environ.get("JAVA_HOME")
    program = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if not program or not Path(program).exists():
        return None
    said = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
    match = re.search(r'version "(?:1\.)?(\d+)', said)
    return (program, int(match[1])) if match else None


def require_java() -> None:
    """Raises ClusterError when there is no Java, or one that Spark 4.0 does not run on."""
    found = java_version()
    if found is None:
        raise ClusterError("Java", "no `java` in JAVA_HOME or on PATH", f"Java {OLDEST} or newer, which Spark runs on", HOW)
    if found[1] < OLDEST:
        raise ClusterError("Java", f"version {found[1]} at {found[0]}", f"Java {OLDEST} or newer", HOW)
