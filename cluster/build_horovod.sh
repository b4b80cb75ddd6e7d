#!/bin/sh
# Builds a Horovod wheel for the Python and torch of a virtual environment, once, and keeps it.
# Usage: cluster/build_horovod.sh VENV   (prints the wheel's path last; HOROVOD_GPU_OPERATIONS=NCCL for a GPU cluster)
#
# Horovod 0.28.1 is the last release. Its CMake files ask for C++14 while torch >= 2.1 needs C++17, and CMake 4 refuses
# its bundled gloo. No patch is needed: a compiler wrapper that appends the later flag, and one CMake variable.
set -eu
venv=$1
version=0.28.1
python="$venv/bin/python"
tag=$("$python" -c 'import platform, sys, torch
print(f"py{sys.version_info[0]}{sys.version_info[1]}-torch{torch.__version__}-{platform.machine()}")')
cache="${UMAIR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/umair}/wheels/horovod-$version-$tag-${HOROVOD_GPU_OPERATIONS:-cpu}"
if ls "$cache"/horovod-*.whl >/dev/null 2>&1; then ls "$cache"/horovod-*.whl; exit 0; fi

compiler=${CXX:-g++}
if ! command -v "$compiler" >/dev/null 2>&1; then
    echo "Horovod: found no C++ compiler '$compiler'; expected g++ 9 or newer. What to do: apt-get install g++ (Debian," >&2
    echo "Ubuntu), dnf install gcc-c++ (Fedora, RHEL), then run make again." >&2
    exit 2
fi
header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
if [ ! -f "$header" ]; then
    echo "Horovod: found no $header; expected Python's headers. What to do: apt-get install python3-dev (Debian, Ubuntu)," >&2
    echo "dnf install python3-devel (Fedora, RHEL), then run make again." >&2
    exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '#!/bin/sh\nexec %s "$@" -std=c++17\n' "$compiler" > "$work/cxx17"
chmod +x "$work/cxx17"
cores=$(getconf _NPROCESSORS_ONLN)
path=$PATH
if [ -z "${HOROVOD_GPU_OPERATIONS:-}" ]; then  # a torch with CUDA beside an nvcc makes Horovod look for a whole CUDA toolkit
    path=$(printf '%s\n' "$PATH" | tr ':' '\n' | while read -r folder; do [ -x "$folder/nvcc" ] || printf '%s:' "$folder"; done)
    path=${path%:}
    unset CUDA_HOME CUDA_PATH
    # and torch looks into this folder unasked; a build for the CPU must not see it
    printf 'import os.path\nthere = os.path.exists\nos.path.exists = lambda path: path != "/usr/local/cuda" and there(path)\n' > "$work/sitecustomize.py"
fi
echo "Horovod: building $version for $tag on $cores cores, 1 to 3 minutes; kept in $cache" >&2
PYTHONPATH="$work" PATH="$(cd "$venv/bin" && pwd):$path" CXX="$work/cxx17" CMAKE_POLICY_VERSION_MINIMUM=3.5 MAKEFLAGS="-j$cores" \
HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITHOUT_MPI=1 HOROVOD_WITH_GLOO=1 \
    "$python" -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir "$work/wheel" "horovod==$version" > "$work/log" 2>&1 || {
    cat "$work/log" >&2
    echo "Horovod: the build above failed. What to do: look for its first error; docs/setup.md lists the known ones." >&2
    exit 2
}
mkdir -p "$cache"
mv "$work"/wheel/horovod-*.whl "$cache/"
ls "$cache"/horovod-*.whl
