"""The benchmark's own arithmetic, and that it refuses to time a command which did nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_a_command_that_prints_nothing_is_not_timed() -> None:
    """Once, a module without an entry point was timed: it exits with 0 at once and looked like a fast cold start."""
    import commands

    with pytest.raises(commands.CommandFailed, match="printed nothing"):
        commands.run([sys.executable, "-c", "pass"])
    with pytest.raises(commands.CommandFailed, match="exited with 3"):
        commands.run([sys.executable, "-c", "print('work'); raise SystemExit(3)"])


def test_peak_memory_is_the_commands_and_not_the_drivers() -> None:
    """Linux hands a parent's peak down; this process is larger than the command measured here."""
    import commands

    ballast = bytearray(b"\1" * (120 << 20))
    found = commands.run([sys.executable, "-I", "-c", "x = bytearray(b'\\1' * (32 << 20)); print(len(x))"])
    assert found.stdout == f"{32 << 20}\n"
    assert 32 < found.peak_mib < 100 < len(ballast) / 2**20


def test_a_peak_below_the_launchers_is_refused() -> None:
    import commands

    with pytest.raises(commands.CommandFailed, match="not measurable"):
        commands.run(["/bin/echo", "hi"])


def test_ratios_say_how_many_times_better() -> None:
    import report

    assert report._ratio([20, 30, 40], [10, 10, 10], lower_is_better=False) == "3.00× (2.00 to 4.00)"
    assert report._ratio([2, 2, 2], [1, 1, 1], lower_is_better=True) == "0.50× (0.50 to 0.50)"


def test_achieved_rates() -> None:
    import report

    program = {"weight_nbytes": 10**8, "flops_per_token": 10**8, "flops_per_logit_row": 10**8}
    assert report.achieved(program, "decode_1", 50) == "5.0 GB/s"
    assert report.achieved(program, "decode_8", 80) == "1.0 GB/s, 16 Gflop/s"  # ten steps a second
    assert report.achieved(program, "prefill", 1000) == "100 Gflop/s"


def test_a_busy_neighbour_is_seen() -> None:
    from neighbours import Neighbours

    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with Neighbours() as others:
            time.sleep(0.6)
    finally:
        child.kill()
        child.wait()
    # On a machine that is busy anyway the child gets only a part of a core, and the rest is others' as well.
    assert others.share > 0.3 / (os.cpu_count() or 1)


def test_own_work_is_not_counted_as_a_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    import neighbours

    usage = SimpleNamespace(ru_utime=0.0, ru_stime=0.0)
    ticks = {"busy": 1000, "idle": 1000}

    class Stat:
        def __init__(self, path: str) -> None:
            assert path == "/proc/stat"

        def read_text(self) -> str:
            mine = f"cpu7 {ticks['busy']} 0 0 {ticks['idle']} 0 0 0 0 0 0"
            return f"cpu  9 9 9 9 9 9 9 9 9 9\ncpu6 5 5 5 5 5 5 5 5 5 5\n{mine}\nintr 1 2 3"

    monkeypatch.setattr(neighbours, "Path", Stat)
    monkeypatch.setattr(neighbours.os, "sched_getaffinity", lambda process: {7})
    monkeypatch.setattr(neighbours.resource, "getrusage", lambda who: usage)
    hz = os.sysconf("SC_CLK_TCK")
    with neighbours.Neighbours() as others:
        ticks["busy"] += 3 * hz
        ticks["idle"] += 1 * hz
        usage.ru_utime += 1.0  # for itself and for its children, as the fake answers both alike: two of the three
    assert others.share == 0.25


@pytest.mark.parametrize(("share", "warned"), [(0.02, False), (0.4, True)])
def test_a_busy_machine_is_reported(share: float, warned: bool) -> None:
    import report

    line = report.others_line({"models": [{"rounds": [{"others": 0.01}, {"others": share}]}]})
    assert ("TOO BUSY" in line) is warned


def test_the_performance_page_is_what_its_results_say() -> None:
    import make_performance_doc

    text = make_performance_doc.DOC.read_text(encoding="utf-8")
    [name] = set(re.findall(r"benchmarks/results/(\S+?\.json)", text))
    assert text == make_performance_doc.page(BENCHMARKS / "results" / name)


def test_jobs_are_the_same_for_every_engine() -> None:
    """A peer's worker makes them anew in its own process, so they must follow from the seed alone."""
    from many_requests import NEW_TOKENS, SHARED_TOKENS, USER_TOKENS, jobs

    work = jobs(64, 1000)
    assert work == jobs(64, 1000)
    assert work[:8] == jobs(8, 1000), "fewer jobs are the first of the same ones"
    assert len({tuple(job.prompt[:SHARED_TOKENS]) for job in work}) == 1
    assert len({tuple(job.prompt) for job in work}) == 64
    lengths = [len(job.prompt) - SHARED_TOKENS for job in work]
    assert USER_TOKENS[0] <= min(lengths) < max(lengths) <= USER_TOKENS[1]
    assert all(NEW_TOKENS[0] <= job.num_new <= NEW_TOKENS[1] for job in work)
