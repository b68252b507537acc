"""Mixed requests by the hundred, and by tens of thousands in `make soak-server`: each is answered as it should be, and
a server at rest afterwards holds what it held before."""

from __future__ import annotations

from pathlib import Path

from support.leaky_server import LeakyServer
from support.server import Server
from support.soak import arguments, soak

LEAK_NBYTES = 128 << 10
"""A request. `make soak-server` has 1 KiB; among so few requests as here that is less than what caches take."""


def test_nothing_stays_behind(story_path: Path, tmp_path: Path) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    with Server(*arguments(story_path, tmp_path), TMPDIR=str(temporary)) as server:
        report = soak(server, temporary, warm_up=200, count=200, num_looks=4)
    assert max(report.growth) < LEAK_NBYTES / 8


def test_an_injected_leak_is_found(story_path: Path, tmp_path: Path) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    with LeakyServer(LEAK_NBYTES, *arguments(story_path, tmp_path), TMPDIR=str(temporary)) as server:
        front, *engines = soak(server, temporary, warm_up=60, count=80, num_looks=4).growth
    assert front > LEAK_NBYTES * 0.7
    assert max(engines) > LEAK_NBYTES * 0.3
