"""Starts an engine process: Python with one end of a socket pair, in a session of its own.

Standard library only: the command line starts the engine before it imports anything of the server.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

ENGINE_COMMAND = (sys.executable, "-m", "pellucid.server.engine_process")


@dataclass(frozen=True)
class EngineChild:
    """A process, and this side's end of the channel to it, for a Channel to take over or the owner to close."""

    process: subprocess.Popen[bytes]
    end: socket.socket

    def kill(self) -> None:
        """End it at once, and wait until it is gone. Twice is fine."""
        self.process.kill()
        self.process.wait()


def spawn(command: Sequence[str] = ENGINE_COMMAND) -> EngineChild:
    """Start `command` with the number of its file descriptor as the last argument.

    In a session of its own: what is typed at the terminal (Ctrl-C) reaches the front only. Raises OSError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        process = subprocess.Popen(
            [*command, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return EngineChild(process, ours)
