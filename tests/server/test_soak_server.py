"""Mixed requests by the hundred, or by tens of thousands in `make soak-server`: each is answered as it should be, and a
server at rest afterwards holds what it held before."""

from __future__ import annotations

from pathlib import Path

from support.leaky_server import LeakyServer
from support.server import Server
from support.soak import LARGE, Report, arguments, soak

MAX_GROWTH = 200.0
"""Bytes a request, of all processes together."""
POOLS = 18
"""Threads of pools that a small run has not filled when it first looks."""


def check(report: Report, folder: Path) -> None:
    tally, before, after = report.tally, report.before, report.after
    assert not tally.wrong, (len(tally.wrong), tally.wrong[:3])
    assert min(tally.answered, tally.refused, tally.cancelled) > 0
    assert after.files == before.files
    assert after.threads <= before.threads + (1 if report.num_between >= LARGE else POOLS)
    assert after.temporary == before.temporary == len(list(folder.iterdir()))
    print(f"{tally.total} requests: {tally.answered} answered, {tally.refused} refused, {tally.cancelled} cancelled")
    print(f"growth {[round(nbytes) for nbytes in report.growth]} bytes a request; {after}")


def test_nothing_stays_behind(story_path: Path, tmp_path: Path, soak_count: tuple[int, int]) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    warm_up, count = soak_count
    with Server(*arguments(story_path, tmp_path), TMPDIR=str(temporary)) as server:
        report = soak(server, temporary, warm_up, count)
    check(report, temporary)
    if count >= LARGE:
        assert sum(report.growth) <= MAX_GROWTH


def test_an_injected_leak_is_found(story_path: Path, tmp_path: Path, soak_count: tuple[int, int]) -> None:
    """1 KiB a request, as `make soak-server` has it. A hundred requests show a leak of 128 KiB only."""
    (temporary := tmp_path / "temporary").mkdir()
    large = soak_count[1] >= LARGE
    nbytes, warm_up, count = (1 << 10, 5_000, 10_000) if large else (128 << 10, 60, 80)
    with LeakyServer(nbytes, *arguments(story_path, tmp_path), TMPDIR=str(temporary)) as server:
        report = soak(server, temporary, warm_up, count)
    check(report, temporary)
    front, *engines = report.growth
    assert front > max(MAX_GROWTH, nbytes / 3)
    assert max(engines) > max(MAX_GROWTH, nbytes / 3)
