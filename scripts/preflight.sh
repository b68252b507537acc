#!/bin/sh
# Says plainly what is missing before anything is installed. Usage: preflight.sh PYTHON
python=$1
fail() { printf 'pellucid: %s\n' "$1" >&2; exit 1; }

command -v "$python" >/dev/null 2>&1 || fail "no '$python' found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version 2>&1) is too old: Python 3.11 or newer is needed. Name one: make PYTHON=/path/to/python3.12"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "this Python cannot make a virtual environment with pip (on Debian and Ubuntu: apt install python3-venv)."
"$python" -c 'import pathlib, sys, sysconfig; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file())' ||
    fail "Python's C headers are missing (on Debian and Ubuntu: apt install python3-dev; on Fedora: dnf install python3-devel)."

for compiler in ${CXX:-c++ g++ clang++}; do
    if command -v "$compiler" >/dev/null 2>&1; then
        echo 'int main() { return 0; }' | "$compiler" -std=c++20 -fsyntax-only -x c++ - 2>/dev/null && exit 0
        old="$old $compiler"
    fi
done
[ -n "$old" ] && fail "this compiler does not know C++20:$old. Install GCC 11 or Clang 14, or newer, or name one: make CXX=/path/to/g++"
fail "no C++ compiler found (on Debian and Ubuntu: apt install g++; on macOS: xcode-select --install), or name one: make CXX=/path/to/g++"
