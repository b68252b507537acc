"""A server for as long as it is measured: one that runs already, or `pellucid serve MODEL` as a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pellucid.errors import ResourceError

STOP_TIME = 20.0


@contextmanager
def served(server: str, options: Sequence[str] = ()) -> Iterator[str]:
    """The URL of `server`, if it is one; otherwise it is a model, served with `options` until the block ends.

    Raises ResourceError with what the server said when it does not start.
    """
    if server.startswith(("http://", "https://")):
        yield server
        return
    command = [sys.executable, "-m", "pellucid", "serve", server, "--port", "0", *options]
    with tempfile.TemporaryFile("w+b") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if found := re.search(r"is ready: (\S+)", line):
                    break
            else:
                log.seek(0)
                raise ResourceError(f"the server did not start: {log.read().decode(errors='replace').strip()[-500:]}")
            yield found[1]
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIME)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
