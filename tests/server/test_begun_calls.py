from __future__ import annotations

import os
import subprocess
import sys

from pellucid.server.begun import NUM_SLOTS, BegunCalls, shared_memory

WRITER = """
import os, signal, sys
from pellucid.server.begun import BegunCalls
begun = BegunCalls(int(sys.argv[1]))
begun.add(7)
begun.add(2**40)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_had_begun_is_known() -> None:
    memory = shared_memory()
    begun = BegunCalls(memory)
    assert begun.calls() == set()
    writer = subprocess.run([sys.executable, "-c", WRITER, str(memory)], pass_fds=[memory], timeout=60)
    os.close(memory)
    assert writer.returncode < 0
    assert begun.calls() == {7, 2**40}


def test_the_last_ones_are_kept() -> None:
    memory = shared_memory()
    begun, reader = BegunCalls(memory), BegunCalls(memory)
    os.close(memory)
    for call in range(1, NUM_SLOTS + 11):
        begun.add(call)
    assert reader.calls() == set(range(11, NUM_SLOTS + 11))
