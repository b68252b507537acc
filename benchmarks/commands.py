"""Run a command once and measure it from outside: wall time from start to exit, and peak resident memory.

Linux counts the memory of the process that starts a command into the command's own peak, so benchmark drivers must
stay small: they import neither NumPy nor Pellucid, and leave all measuring to child processes.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class CommandFailed(Exception):
    """A measured command did not exit with 0; the message holds the end of its output."""


@dataclass(frozen=True)
class Finished:
    seconds: float
    peak_mib: float
    stdout: str


def run(command: Sequence[str | Path]) -> Finished:
    """Run `command` to its end. Raises CommandFailed."""
    arguments = [str(argument) for argument in command]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        stdout, stderr = out.read(), err.read()
    if process.returncode != 0:
        raise CommandFailed(f"{' '.join(arguments)} exited with {process.returncode}:\n{(stdout + stderr)[-2000:]}")
    return Finished(seconds, usage.ru_maxrss / 1024, stdout)
