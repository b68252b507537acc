"""How much memory this process may still take."""

from __future__ import annotations

import os
from pathlib import Path

from pellucid.executors.cgroup import cgroup_folders


def available_memory(root: Path = Path("/")) -> int:
    """Bytes this process could still take: the machine's, or what its control groups leave if that is less.

    `root` is the file system's, where Linux's /proc and /sys are looked for.
    """
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = root / "proc/meminfo"
    if meminfo.is_file():
        free = _fields(meminfo)["MemAvailable:"] * 1024
    return min([free, *(left for group in cgroup_folders(root=root) if (left := _left_in(group)) is not None)])


def _left_in(group: Path) -> int | None:
    """Bytes that a control group may still take, or None without a limit."""
    try:
        limit, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
        reclaimable = _fields(group / "memory.stat").get("inactive_file", 0)  # file pages the kernel drops first
    except OSError:
        return None
    return None if limit == "max" else max(0, int(limit) - max(0, used - reclaimable))


def _fields(path: Path) -> dict[str, int]:
    """The first number after each name of a file with one name a line."""
    return {words[0]: int(words[1]) for line in path.read_text().splitlines() if len(words := line.split()) > 1}
