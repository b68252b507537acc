"""A running `pellucid serve`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.server import Server


@pytest.fixture(scope="session")
def story_server(story_path: Path) -> Iterator[Server]:
    """The Story model, for every test that only asks it things."""
    with Server(str(story_path), "--served-model-name", "story") as server:
        yield server


@pytest.fixture(scope="session")
def smollm2_server(smollm2_path: Path) -> Iterator[Server]:
    with Server(str(smollm2_path), "--served-model-name", "smollm2", "-c", "1024") as server:
        yield server
