"""Whose memory bytes are: a mapped file's may be given back, other memory may not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pellucid.formats.mapped import is_mapped, map_file


def test_views_of_a_mapped_file_are_told_from_other_memory(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(100))
    view = np.frombuffer(map_file(path), np.uint8)
    assert is_mapped(view)
    assert is_mapped(view[50:].reshape(5, 10)[1:])
    assert is_mapped(np.frombuffer(memoryview(view[1:])[2:], np.uint8))
    assert not is_mapped(view.copy())
    assert not is_mapped(np.frombuffer(path.read_bytes(), np.uint8))
