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
    """`tracemalloc` also counts NumPy's memory. A mapped file is none: its pages are the file's."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(error, match=match) as raised:
            open_checkpoint(path)
        seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert raised.type is error
    assert seconds < MAX_SECONDS
    assert peak < MAX_NBYTES
    assert len(str(raised.value)) < 1000
    assert str(raised.value).isprintable()
