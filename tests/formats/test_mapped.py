"""Giving mapped memory back: the bytes stay what they were, and other memory is left alone."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from pellucid.formats.mapped import map_file, release

SMAPS = Path("/proc/self/smaps")


def resident(path: Path) -> int:
    """KiB of `path`'s mapping that are in memory."""
    found, inside = 0, False
    for line in SMAPS.read_text().splitlines():
        if "-" in line.split(" ")[0]:
            inside = line.endswith(path.name)
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


@pytest.mark.skipif(not SMAPS.exists(), reason="reads /proc/self/smaps, which only Linux has")
def test_released_pages_leave_memory_and_come_back_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    content = np.random.default_rng(0).integers(0, 256, 64 * mmap.PAGESIZE + 100, dtype=np.uint8)
    path.write_bytes(content.tobytes())
    view = np.frombuffer(map_file(path), np.uint8)[50:]
    total = int(view.sum())
    touched = resident(path)
    release(view[1000:])
    assert resident(path) <= touched - 60 * mmap.PAGESIZE // 1024
    assert int(view.sum()) == total
    np.testing.assert_array_equal(view, content[50:])


def test_memory_that_is_not_a_file_is_left_alone() -> None:
    data = np.arange(1 << 16, dtype=np.uint16).view(np.uint8)
    release(data)
    np.testing.assert_array_equal(data, np.arange(1 << 16, dtype=np.uint16).view(np.uint8))
