"""The benchmark's own arithmetic, and that it refuses to time a command which did nothing."""

from __future__ import annotations

import sys
from pathlib import Path

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
