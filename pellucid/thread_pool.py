"""Threads that are all there from the start."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor


def started_pool(num_threads: int, name: str) -> ThreadPoolExecutor:
    """A pool whose threads all run when this returns: none is started later, when the machine may have no room for it.

    Raises RuntimeError when the system starts no more threads; none is left then.
    """
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix=name)
    all_started = threading.Barrier(num_threads + 1)  # a thread that waits is not idle, so the pool starts another
    try:
        for _ in range(num_threads):
            pool.submit(all_started.wait)
    except RuntimeError:
        all_started.abort()
        pool.shutdown()
        raise
    all_started.wait()
    return pool
