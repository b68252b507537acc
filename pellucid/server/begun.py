"""BegunCalls: which calls an engine has begun to compute, in memory that it shares with the front.

What an engine has not sent is lost with it; this is there however it ended, so that a request that may have ended it is
not put to the next one. Standard library only, as spawn.py.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile

NUM_SLOTS = 1 << 12
"""So many more calls may begin before a call that has begun is forgotten: it has its first token long before that."""
NUM_BYTES = 8 * NUM_SLOTS


class BegunCalls:
    """The numbers of the last calls that began. One process adds them, the other reads them when that one is gone."""

    def __init__(self, descriptor: int) -> None:
        """Of `shared_memory`, which may be closed then."""
        self._slots = memoryview(mmap.mmap(descriptor, NUM_BYTES)).cast("Q")
        self._count = 0

    def add(self, call: int) -> None:
        self._slots[self._count % NUM_SLOTS] = call
        self._count += 1

    def calls(self) -> set[int]:
        return set(self._slots) - {0}


def shared_memory() -> int:
    """A descriptor of zeros, for both processes. Raises OSError."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("pellucid-begun")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, NUM_BYTES)
    return descriptor
