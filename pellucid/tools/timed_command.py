"""Run a command once and measure it from outside: time to its first output and to its end, and peak resident memory.

Linux counts the memory of the process that starts a command into the command's own peak. So a bare interpreter starts
it, of about 10 MiB, and a peak that is not above that interpreter's is refused. (Its VmHWM is compared: its ru_maxrss
holds the driver's memory in turn.)
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pellucid.errors import PellucidError

_LAUNCHER = """
import os, sys, time
report, program = sys.argv[1], sys.argv[2:]
reader, writer = os.pipe()
actions = [(os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_CLOSE, reader), (os.POSIX_SPAWN_CLOSE, writer)]
start = time.perf_counter()
pid = os.posix_spawn(program[0], program, os.environ, file_actions=actions)
os.close(writer)
first = None
while data := os.read(reader, 65536):
    first = first or time.perf_counter() - start
    os.write(1, data)
_, status, usage = os.wait4(pid, 0)
seconds = time.perf_counter() - start
own = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
with open(report, "w") as file:
    numbers = (first or seconds, seconds, usage.ru_maxrss, own, os.waitstatus_to_exitcode(status))
    file.write("[%r, %r, %d, %d, %d]" % numbers)
"""


class CommandFailed(PellucidError):
    """A measured command did not do its work; the message holds the end of its output."""


@dataclass(frozen=True)
class Finished:
    """`first_output` and `seconds` (to the end) count from the start of the process."""

    first_output: float
    seconds: float
    peak_mib: float
    stdout: str


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Finished:
    """Run `command` (its program given by path) to its end; `environment`: None for this process's own.

    Raises CommandFailed when it exits with anything but 0, and when it prints nothing: every command that is measured
    here has something to say, and one that says nothing has not done the work that the clock would be read for.
    """
    arguments = [str(argument) for argument in command]
    with tempfile.NamedTemporaryFile("r") as report:
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, report.name, *arguments]
        done = subprocess.run(
            launcher, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=environment
        )
        output = (done.stdout + done.stderr)[-2000:]
        if done.returncode != 0:
            raise CommandFailed(f"{' '.join(arguments)} could not be started:\n{output}")
        first, seconds, peak, launcher_peak, exit_code = json.loads(report.read())
    if exit_code != 0:
        raise CommandFailed(f"{' '.join(arguments)} exited with {exit_code}:\n{output}")
    if not done.stdout.strip():
        raise CommandFailed(f"{' '.join(arguments)} printed nothing:\n{output}")
    if peak <= launcher_peak:
        raise CommandFailed(f"{' '.join(arguments)} took {peak} KiB, no more than its launcher: not measurable")
    return Finished(first, seconds, peak / 1024, done.stdout)
