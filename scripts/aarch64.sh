#!/bin/sh
# Cross-compiles the native module for aarch64 and runs the op table there, under emulation: `make aarch64`.
#
# Needs Debian or its like, with g++-aarch64-linux-gnu and qemu-user. Python and its libraries for aarch64 are fetched
# with apt and pip into build/aarch64 and unpacked there; nothing is installed. Arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
PY=${PY:-$PWD/.venv/bin/python}
WORK=$PWD/build/aarch64
ROOT=$WORK/root      # a small Debian
SITE=$WORK/site      # NumPy
TRIPLE=aarch64-linux-gnu
MODULE=_native.cpython-311-$TRIPLE.so

for tool in "$TRIPLE-g++:g++-$TRIPLE" qemu-aarch64:qemu-user apt-get:apt dpkg:dpkg; do
    command -v "${tool%%:*}" >/dev/null || { echo "make aarch64 needs ${tool%%:*}: apt-get install ${tool##*:}" >&2; exit 1; }
done

if [ ! -x "$ROOT/usr/bin/python3.11" ]; then
    echo "Fetching Python for aarch64 …"
    rm -rf "$ROOT" "$WORK/apt"
    mkdir -p "$WORK/apt/lists/partial" "$WORK/apt/cache/archives/partial" "$WORK/apt/debs" "$ROOT"
    : >"$WORK/apt/status"
    apt() {
        apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User= \
            -o Dir::State="$WORK/apt" -o Dir::State::status="$WORK/apt/status" -o Dir::State::Lists="$WORK/apt/lists" \
            -o Dir::Cache="$WORK/apt/cache" "$@"
    }
    apt update
    (cd "$WORK/apt/debs" && apt download python3.11-minimal libpython3.11-minimal libpython3.11-stdlib \
        libpython3.11-dev libc6 libstdc++6 libgcc-s1 libexpat1 zlib1g libffi8 libbz2-1.0 liblzma5 libcrypt1 libuuid1)
    for package in "$WORK"/apt/debs/*.deb; do dpkg -x "$package" "$ROOT"; done
fi
if [ ! -d "$SITE/numpy" ]; then
    "$PY" -m pip install --quiet --disable-pip-version-check --target "$SITE" --no-deps --only-binary :all: \
        --platform manylinux2014_aarch64 --platform manylinux_2_27_aarch64 --python-version 3.11 numpy
fi

echo "Building for aarch64 …"
PATH="$(dirname "$PY"):$PATH"
cmake -S . -B "$WORK/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER="$TRIPLE-g++" \
    -DSKBUILD_PROJECT_NAME=pellucid -Dnanobind_DIR="$("$PY" -m nanobind --cmake_dir)" \
    -DPython_EXECUTABLE="$PY" -DPython_INCLUDE_DIR="$ROOT/usr/include/python3.11" \
    -DCMAKE_CXX_FLAGS="-Wno-psabi -isystem $ROOT/usr/include/python3.11 -isystem $ROOT/usr/include" >"$WORK/configure.log" ||
    { tail -20 "$WORK/configure.log"; exit 1; }
cmake --build "$WORK/build"
# Only an interpreter for aarch64 takes a module of this name.
cp "$WORK"/build/_native*.so "pellucid/native/$MODULE"

echo "Running the op table under emulation …"
PURE=$("$PY" -c 'import pytest, pathlib; print(pathlib.Path(pytest.__file__).parents[1])')
[ $# -gt 0 ] || set -- -q tests/executors/test_op_table.py tests/executors/test_packing.py
PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PYTHONHOME=$ROOT/usr PYTHONPATH=$SITE:$PURE PYTHONDONTWRITEBYTECODE=1 OPENBLAS_NUM_THREADS=1 \
    qemu-aarch64 -L "$ROOT" "$ROOT/usr/bin/python3.11" -m pytest -p no:cacheprovider "$@"
