"""What this machine offers an engine: cores, instruction sets, memory and how fast it is read."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from pellucid.executors.cores import available_cores
from pellucid.executors.cpu import available_isas
from pellucid.executors.limits import READ_NBYTES, measure_read
from pellucid.executors.memory import available_memory

# Features of a processor that matter here, by their names in /proc/cpuinfo, as far as kernels make use of them.
USED = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "amx_bf16")
UNUSED_YET = ("avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "asimd", "asimddp", "i8mm", "sve")


@dataclass(frozen=True)
class Machine:
    """`features` is empty where the system does not tell. `total_memory` is None where it is not known.

    `isas` are the kernel sets that run here, slowest first. `cache_nbytes` is the last-level cache, None if unknown.
    """

    processor: str
    num_cores: int
    num_usable_cores: int
    features: tuple[str, ...]
    isas: tuple[str, ...]
    cache_nbytes: int | None
    total_memory: int
    free_memory: int


@dataclass(frozen=True)
class Bandwidth:
    """Bytes a second when `nbytes` of memory are read by one thread, and by `num_threads` together."""

    nbytes: int
    num_threads: int
    one_thread: float
    all_threads: float


def describe_machine() -> Machine:
    """The facts, without measuring anything."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return Machine(
        processor=info.get("model name") or platform.processor() or platform.machine(),
        num_cores=os.cpu_count() or 1,
        num_usable_cores=available_cores(),
        features=tuple(name for name in USED + UNUSED_YET if name in flags),
        isas=tuple(available_isas()),
        cache_nbytes=_last_level_cache(),
        total_memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        free_memory=available_memory(),
    )


def measure_bandwidth(num_threads: int, nbytes: int = READ_NBYTES) -> Bandwidth:
    """How fast memory is read that no cache holds (executors/limits.py). Takes about a second."""
    return Bandwidth(nbytes, num_threads, measure_read(1, nbytes), measure_read(num_threads, nbytes))


def _cpuinfo() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; nothing where there is no such file."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def _last_level_cache() -> int | None:
    """Bytes of the first core's largest cache."""
    sizes = []
    for size in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        try:
            sizes.append(int(size.read_text().strip().removesuffix("K")) * 1024)
        except (OSError, ValueError):
            continue
    return max(sizes, default=None)
