"""`pellucid serve` as a process on loopback, at a free port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from support.command import COMMAND

from pellucid.config import child_environment

START_TIME = 60.0
STOP_TIME = 30.0


class Server:
    """`url` is where it answers, `log` what it has written to standard error so far."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.arguments = [*COMMAND, "serve", *arguments, "--port", "0"]
        self.environment = child_environment(**environment)

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile("w+b")
        self.process = subprocess.Popen(
            self.arguments, stdout=subprocess.PIPE, stderr=self._log, text=True, env=self.environment
        )
        self.banner = ""
        assert self.process.stdout is not None
        until = time.monotonic() + START_TIME
        while "open to" not in self.banner:
            line = self.process.stdout.readline()
            if not line or time.monotonic() > until:
                self.stop(signal.SIGKILL)
                raise AssertionError(f"the server did not start: {self.banner}{self.log}")
            self.banner += line
        [self.url] = re.findall(r"is ready: (\S+)", self.banner)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()
        self._log.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_TIME)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()

    @property
    def log(self) -> str:
        file = self._log.fileno()  # without moving the place at which the server writes
        return os.pread(file, os.fstat(file).st_size, 0).decode()

    def children(self) -> list[int]:
        """The process ids of its engines (Linux)."""
        return children_of(self.process.pid)


def children_of(pid: int) -> list[int]:
    """The process ids of its children (Linux)."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]
