"""The initial RAM disk of an emulated machine (see emulated_isas.py): Python, NumPy, pytest and this checkout."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
DISTRIBUTIONS = ("numpy", "pytest", "pluggy", "iniconfig", "packaging", "pygments")
LEFT_OUT = {"test", "tests", "idlelib", "tkinter", "ensurepip", "lib2to3", "turtledemo", "site-packages", "pydoc_data"}
LEFT_OUT |= {"f2py", "include", "goldens"}
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "NO_COLOR": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OPENBLAS_CORETYPE": "Haswell",  # its AVX-512 code ends in an illegal instruction under Bochs 3.0
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PELLUCID_EMULATED": "1",  # for what tests expect of a processor and not of Bochs
}


def ram_disk(arguments: list[str], extra: list[Path]) -> bytes:
    """The RAM disk whose first process, emulated_init.py, runs `arguments`; with the files `extra` at their places."""
    files = [*python_files(), *extra, REPOSITORY / "pyproject.toml"]
    for folder in "pellucid", "tests":
        files += files_below(REPOSITORY / folder)
    files += libraries_of(files)
    job = {"arguments": arguments, "folder": str(REPOSITORY), "environment": ENVIRONMENT}
    paths = [str(REPOSITORY), str(importlib.metadata.distribution("numpy").locate_file(""))]
    init = f"#!{Path(sys.executable).resolve()} -ISu\nimport sys\nsys.path += {paths!r}\n"
    init += (REPOSITORY / "scripts" / "emulated_init.py").read_text()
    records = [record_of(path, number) for number, path in enumerate(with_folders(files), 100)]
    records += [record(name, number, 0o40755) for number, name in enumerate(("proc", "sys", "dev", "tmp"), 1)]
    records.append(record("dev/console", 10, 0o20600, device=(5, 1)))
    records.append(record("job.json", 11, 0o100644, json.dumps(job).encode()))
    records.append(record("init", 12, 0o100755, init.encode()))
    records.append(record("TRAILER!!!", 0, 0))
    return b"".join(records)


def python_files() -> list[Path]:
    """The interpreter, its library, and what was installed with the distributions."""
    files = [Path(sys.executable).resolve(), *files_below(Path(sysconfig.get_path("stdlib")))]
    for name in DISTRIBUTIONS:
        installed = importlib.metadata.files(name) or []
        files += [Path(str(f.locate())) for f in installed if not LEFT_OUT.intersection(f.parts) and f.parts[0] != ".."]
    return files


def files_below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name in LEFT_OUT:
            continue
        if path.is_dir() and not path.is_symlink():
            yield from files_below(path)
        elif path.suffix not in (".a", ".h", ".cpp") and ".opt-" not in path.name:
            yield path


def libraries_of(files: Iterable[Path]) -> set[Path]:
    """The shared libraries, and their loader, that the programs and libraries among `files` need."""
    binaries = [f for f in files if f.is_file() and f.open("rb").read(4) == b"\x7fELF"]
    found = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    return {Path(p) for p in re.findall(r"^\t(?:\S+ => )?(/\S+) \(0x", found, re.MULTILINE)}


def with_folders(files: Iterable[Path]) -> list[Path]:
    """`files`, what links among them or on the way to them point to, and all their folders, parents first."""
    wanted: set[Path] = set()
    waiting = list(files)
    while waiting:
        path = waiting.pop()
        waiting += [p for p in path.parents if p.is_symlink()]
        path = path.parent.resolve() / path.name
        if path in wanted or path == path.parent:
            continue
        wanted.add(path)
        waiting.append(path.parent)
        if path.is_symlink():
            waiting.append(path.parent / path.readlink())
    return sorted(wanted)


def record_of(path: Path, number: int) -> bytes:
    """One file, link or folder. It keeps its time, by which Python knows whether compiled code is up to date."""
    stat = path.lstat()
    data = b""
    if path.is_symlink():
        data = str(path.readlink()).encode()
    elif path.is_file():
        data = path.read_bytes()
    return record(str(path), number, stat.st_mode, data, mtime=int(stat.st_mtime))


def record(
    name: str, number: int, mode: int, data: bytes = b"", *, mtime: int = 0, device: tuple[int, int] = (0, 0)
) -> bytes:
    """In cpio's format "newc", as Documentation/driver-api/early-userspace/buffer-format.rst of Linux has it."""
    encoded = name.lstrip("/").encode() + b"\0"
    fields = (number, mode, 0, 0, 1, mtime, len(data), 0, 0, *device, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % f for f in fields) + encoded
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
