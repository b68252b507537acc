"""How many cores this process may really use."""

from __future__ import annotations

import os
from pathlib import Path


def available_cores() -> int:
    """Cores in the process's affinity mask, less where a cgroup's CPU quota allows fewer; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cores, int(quota + 0.5)) if quota else cores)


def _cgroup_quota() -> float | None:
    """CPU time a period allows, in cores (cgroup v2, then v1), or None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        root = Path("/sys/fs/cgroup/cpu")
        limit = int((root / "cpu.cfs_quota_us").read_text())
        return limit / int((root / "cpu.cfs_period_us").read_text()) if limit > 0 else None
    except (OSError, ValueError):
        return None
