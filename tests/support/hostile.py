"""Opens a hostile model the way a user would, and holds the refusal to its limits: a named reason, 1 s, 64 MiB."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest

from pellucid.errors import PellucidError
from pellucid.formats.checkpoint import open_checkpoint

MAX_SECONDS = 1.0
MAX_NBYTES = 64 << 20


def assert_refused(path: Path, error: type[PellucidError], match: str) -> None:
    """Opened twice: for the time, then for the memory, as `tracemalloc` (which also counts NumPy's) costs time itself.
    A mapped file is no memory: its pages are the file's. Time is the process's, whatever else the machine does."""
    start = time.process_time()
    with pytest.raises(error, match=match) as raised:
        open_checkpoint(path)
    seconds = time.process_time() - start
    assert raised.type is error
    assert len(str(raised.value)) < 1000
    assert str(raised.value).isprintable()
    assert seconds < MAX_SECONDS
    tracemalloc.start()
    try:
        with pytest.raises(error):
            open_checkpoint(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MAX_NBYTES
