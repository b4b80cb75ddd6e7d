#!/bin/sh
# Makes the virtual environment that everything runs in, with the exact versions of constraints.txt, Horovod included.
# Usage: cluster/setup.sh VENV   (called by make; does nothing twice: make keeps VENV/.ready)
set -eu
venv=$1
here=$(cd "$(dirname "$0")/.." && pwd)
sh "$here/cluster/java.sh"

python=
for candidate in "${PYTHON:-python3.11}" python3.11 python3.12 python3; do
    if command -v "$candidate" >/dev/null 2>&1 &&
       "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "Python: found $(python3 --version 2>&1 || echo none); expected 3.11 or 3.12 (transformers and pillow need 3.11, pyarrow 14 has wheels up to 3.12)." >&2
    echo "What to do: install python3.11, or name one: make PYTHON=/path/to/python3.11" >&2
    exit 2
fi
if ! "$python" -m venv --clear "$venv" 2>"/tmp/umair-venv-$$"; then
    cat "/tmp/umair-venv-$$" >&2
    echo "What to do: apt-get install python3-venv (Debian, Ubuntu), then run make again." >&2
    exit 2
fi
rm -f "/tmp/umair-venv-$$"
echo "Set-up: installing the packages of constraints.txt into $venv (once, about 2 minutes)" >&2
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$here/constraints.txt" pip setuptools wheel
# torch first, as Horovod is built beside it; where pip would bring several GB of CUDA packages with it, see docs/setup.md
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$here/constraints.txt" \
    torch "cmake" cloudpickle psutil pyyaml packaging cffi numpy
horovod=$(sh "$here/cluster/build_horovod.sh" "$venv")
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$horovod"
PYTHONWARNINGS=ignore "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-build-isolation \
    --constraint "$here/constraints.txt" --editable "$here[horovod,search,dev]"
touch "$venv/.ready"
echo "Set-up: done; '$venv/bin/umair doctor' prints what is installed" >&2
