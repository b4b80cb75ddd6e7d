#!/bin/sh
# Makes sure that a Java 17 runtime (or newer) is there: uses what it finds, else asks the package manager, else says
# which command to type. Usage: cluster/java.sh [--check]     with --check it installs nothing
set -eu

major() { "$1" -version 2>&1 | sed -n 's/.*version "\(1\.\)\{0,1\}\([0-9]*\).*/\2/p' | head -n 1; }

java=java
[ -z "${JAVA_HOME:-}" ] || java="$JAVA_HOME/bin/java"
if command -v "$java" >/dev/null 2>&1; then
    found=$(major "$java")
    if [ "${found:-0}" -ge 17 ]; then exit 0; fi
    echo "Java: found version ${found:-unknown} at $(command -v "$java"); expected 17 or newer." >&2
    if [ -n "${JAVA_HOME:-}" ]; then  # Spark would go on taking it, whatever were installed
        echo "What to do: set JAVA_HOME to a Java 17 runtime, or unset it to use the one on PATH, and run this again." >&2
        exit 2
    fi
fi

if [ "${1:-}" = --check ]; then
    echo "Java: found no runtime of version 17 or newer in JAVA_HOME or on PATH; expected one, which Spark runs on." >&2
    echo "What to do: run 'make setup' or cluster/java.sh, which install one, or set JAVA_HOME." >&2
    exit 2
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then as_root="sudo -n"; else as_root=no; fi
fi
if command -v apt-get >/dev/null 2>&1; then
    command="apt-get update -q && apt-get install -y -q --no-install-recommends openjdk-17-jre-headless"
elif command -v dnf >/dev/null 2>&1; then command="dnf install -y java-17-openjdk-headless"
elif command -v yum >/dev/null 2>&1; then command="yum install -y java-17-openjdk-headless"
elif command -v apk >/dev/null 2>&1; then command="apk add openjdk17-jre-headless"
elif command -v zypper >/dev/null 2>&1; then command="zypper install -y java-17-openjdk-headless"
elif command -v pacman >/dev/null 2>&1; then command="pacman -S --noconfirm jre17-openjdk-headless"
else command=
fi
if [ -z "$command" ] || [ "$as_root" = no ]; then
    echo "Java: no Java 17 runtime, and it cannot be installed from here. What to do: type" >&2
    echo "    sudo sh -c '${command:-(your package manager) install a Java 17 runtime}'" >&2
    echo "or set JAVA_HOME to one, then run make again." >&2
    exit 2
fi
echo "Java: installing a Java 17 runtime ($command)" >&2
$as_root sh -c "DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND; $command" >&2
