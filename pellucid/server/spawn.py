"""Starts an engine process: Python with one end of a socket pair and shared memory, in a session of its own.

Standard library only: the command line starts the engine before it imports anything of the server.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from pellucid.server.begun import BegunCalls, shared_memory

ENGINE_COMMAND = (sys.executable, "-m", "pellucid.server.engine_process")


@dataclass(frozen=True)
class EngineChild:
    """A process, this side's end of the channel to it, for a Channel to take over or the owner to close, and what it
    has begun."""

    process: subprocess.Popen[bytes]
    end: socket.socket
    begun: BegunCalls

    def kill(self) -> None:
        """End it at once, and wait until it is gone. Twice is fine."""
        self.process.kill()
        self.process.wait()


def spawn(command: Sequence[str] = ENGINE_COMMAND) -> EngineChild:
    """Start `command`; its last arguments are the numbers of two file descriptors: BegunCalls' and the channel's.

    In a session of its own: what is typed at the terminal (Ctrl-C) reaches the front only. Raises OSError.
    """
    memory = shared_memory()
    try:
        begun = BegunCalls(memory)
        process, end = _start(command, memory)
    finally:
        os.close(memory)
    return EngineChild(process, end, begun)


def _start(command: Sequence[str], memory: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        process = subprocess.Popen(
            [*command, str(memory), str(theirs.fileno())],
            pass_fds=[memory, theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, ours
