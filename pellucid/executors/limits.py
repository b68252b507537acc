"""What this machine can do at most, measured: speeds of the engine are stated beside it."""

from __future__ import annotations

from dataclasses import dataclass

from pellucid.executors.cores import available_cores
from pellucid.executors.cpu import available_isas
from pellucid.native import _native

READ_NBYTES = 256 << 20
NUM_PASSES = 9


@dataclass(frozen=True)
class Limits:
    """Bytes read a second from memory that no cache holds, and multiplications and additions a second, by one thread
    and by `num_threads`: of float32, and of 16-bit integers in pairs, which is what quantised weights take.
    """

    isa: str
    num_threads: int
    read_one: float
    read_all: float
    float_one: float
    float_all: float
    integer_one: float
    integer_all: float


def measure_limits(num_threads: int, isa: str | None = None) -> Limits:
    """All of them, for one instruction set (None: the best of this machine). Takes about a second."""
    isa = isa or available_isas()[-1]
    cores = available_cores()

    def rate(threads: int, *, integers: bool) -> float:
        return _native.measure_arithmetic(isa, threads, cores, integers, NUM_PASSES)

    return Limits(
        isa=isa,
        num_threads=num_threads,
        read_one=measure_read(1, READ_NBYTES),
        read_all=measure_read(num_threads, READ_NBYTES),
        float_one=rate(1, integers=False),
        float_all=rate(num_threads, integers=False),
        integer_one=rate(1, integers=True),
        integer_all=rate(num_threads, integers=True),
    )


def measure_read(num_threads: int, nbytes: int = READ_NBYTES) -> float:
    """Bytes a second, over `nbytes` of memory in huge pages, in the best of NUM_PASSES passes.

    It is what a decode step does to the weights at best. The best pass counts, since it serves as an upper bound: other
    work on the machine only makes passes slower.
    """
    return _native.measure_read(num_threads, available_cores(), nbytes, NUM_PASSES)
