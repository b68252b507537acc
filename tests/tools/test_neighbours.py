"""How busy others keep the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from pellucid.tools import neighbours
from pellucid.tools.neighbours import Neighbours


def test_a_busy_neighbour_is_seen() -> None:
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
