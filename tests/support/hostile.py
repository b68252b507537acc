"""Does with a hostile model what a user would, and holds the refusal to its limits: a named reason, 1 s, 64 MiB."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from pellucid.errors import PellucidError
from pellucid.formats.checkpoint import open_checkpoint
from pellucid.formats.finite import check_finite
from pellucid.models.registry import build_model
from pellucid.text.tokenizer import Tokenizer

MAX_SECONDS = 1.0
MAX_NBYTES = 64 << 20


def open_only(path: Path) -> None:
    open_checkpoint(path).close()


def build(path: Path) -> None:
    with open_checkpoint(path) as ckpt:
        build_model(ckpt)


def tokenizer(path: Path) -> None:
    with open_checkpoint(path) as ckpt:
        Tokenizer.from_checkpoint(ckpt)


def weights(path: Path) -> None:
    with open_checkpoint(path) as ckpt:
        for tensor in ckpt.tensors.values():
            check_finite(tensor)


def assert_refused(path: Path, error: type[PellucidError], match: str, run: Callable[[Path], None] = open_only) -> None:
    """`run(path)` is done twice: for the time, then for the memory, as `tracemalloc` (which also counts NumPy's, but
    not that of the `tokenizers` library) costs time itself. A mapped file is no memory: its pages are the file's. Time
    is the process's, whatever else the machine does."""
    start = time.process_time()
    with pytest.raises(error, match=match) as raised:
        run(path)
    seconds = time.process_time() - start
    assert raised.type is error
    assert len(str(raised.value)) < 1000
    assert str(raised.value).isprintable()
    assert seconds < MAX_SECONDS
    tracemalloc.start()
    try:
        with pytest.raises(error):
            run(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MAX_NBYTES
