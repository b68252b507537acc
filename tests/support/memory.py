"""How much memory of its own a process holds (Linux)."""

from __future__ import annotations

from pathlib import Path


def anonymous_nbytes(pid: int | str = "self") -> int:
    """RssAnon + VmSwap: what files cannot give back, swapped out or not."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "VmSwap:")))
