"""It measures the command and nothing else, and refuses to time one which did nothing."""

from __future__ import annotations

import sys

import pytest

from pellucid.tools import timed_command


def test_a_command_that_prints_nothing_is_not_timed() -> None:
    """Once, a module without an entry point was timed: it exits with 0 at once and looked like a fast cold start."""
    with pytest.raises(timed_command.CommandFailed, match="printed nothing"):
        timed_command.run([sys.executable, "-c", "pass"])
    with pytest.raises(timed_command.CommandFailed, match="exited with 3"):
        timed_command.run([sys.executable, "-c", "print('work'); raise SystemExit(3)"])


def test_peak_memory_is_the_commands_and_not_the_drivers() -> None:
    """Linux hands a parent's peak down; this process is larger than the command measured here."""
    ballast = bytearray(b"\1" * (120 << 20))
    found = timed_command.run([sys.executable, "-I", "-c", "x = bytearray(b'\\1' * (32 << 20)); print(len(x))"])
    assert found.stdout == f"{32 << 20}\n"
    assert 32 < found.peak_mib < 100 < len(ballast) / 2**20


def test_a_peak_below_the_launchers_is_refused() -> None:
    with pytest.raises(timed_command.CommandFailed, match="not measurable"):
        timed_command.run(["/bin/echo", "hi"])


def test_the_first_output_comes_before_the_end() -> None:
    script = "import sys, time; time.sleep(0.2); print('first', flush=True); time.sleep(0.5); print('last')"
    found = timed_command.run([sys.executable, "-I", "-c", f"x = bytearray(b'1' * (32 << 20)); {script}"])
    assert found.stdout == "first\nlast\n"
    assert 0.2 < found.first_output < found.seconds - 0.4


def test_the_command_runs_in_the_environment_given() -> None:
    script = "import os; x = bytearray(b'1' * (32 << 20)); print('ONLY' in os.environ, 'PATH' in os.environ)"
    assert timed_command.run([sys.executable, "-I", "-c", script], {"ONLY": "this"}).stdout == "True False\n"
