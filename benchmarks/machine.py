"""What the machine is and what it can do at most: read bandwidth and float32 arithmetic. `python machine.py THREADS`.

The limits are measured with NumPy: bitwise-or and dot product over more memory than any cache holds, and OpenBLAS's
matrix product. They are proxies: a hand-written loop may read a little faster, and the matrix product is near the FMA
rate only for the instruction set that OpenBLAS chose.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 7


def describe() -> dict[str, Any]:
    """Processor, cores that may be used, memory, vector instruction sets, and system."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in cpuinfo)}
    flags = set(fields.get("flags", "").split())
    wanted = ("avx2", "f16c", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")
    return {
        "cpu": fields.get("model name", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "instruction_sets": [flag for flag in wanted if flag in flags],
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def commit() -> str:
    """Short hash of the checkout, with "+" when tracked files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "pellucid", "benchmarks", "CMakeLists.txt")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def today() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")


def measured_limits(threads: int) -> dict[str, float]:
    """`limits` in a process of its own: see commands.py on why the memory of this one must stay small."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    limits: dict[str, float] = json.loads(done.stdout)
    return limits


def limits(threads: int) -> dict[str, float]:
    """Best of REPEATS: GB/s of reading with `threads` threads, and Gflop/s of float32 matrix products."""
    import numpy as np

    parts = [np.ones((256 << 20) // 8 // threads, np.uint64) for _ in range(threads)]
    halves = [np.split(part.view(np.float32), 2) for part in parts]
    nbytes = sum(part.nbytes for part in parts)
    readers: list[list[Callable[[], Any]]] = [
        [lambda part=part: np.bitwise_or.reduce(part) for part in parts],
        [lambda a=a, b=b: np.dot(a, b) for a, b in halves],
    ]
    read = max(nbytes / _seconds_together(tasks) for tasks in readers for _ in range(REPEATS))
    n = 1536
    a = np.ones((n, n), np.float32)
    multiply = max(2 * n**3 / _seconds_together([lambda: a @ a]) for _ in range(REPEATS))
    return {"read_gb_s": round(read / 1e9, 2), "sgemm_gflop_s": round(multiply / 1e9, 1)}


def _seconds_together(tasks: list[Callable[[], Any]]) -> float:
    from threading import Thread

    threads = [Thread(target=task) for task in tasks]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


if __name__ == "__main__":
    print(json.dumps(limits(int(sys.argv[1]))))
