"""How many cores this process may really use."""

from __future__ import annotations

import os
from pathlib import Path

from pellucid.executors.cgroup import cgroup_folders


def available_cores() -> int:
    """Cores in the process's affinity mask, less where a cgroup's CPU quota allows fewer; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota()
    return max(1, min(cores, int(quota + 0.5)) if quota else cores)


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """CPU time a period allows, in cores: the least of the process's groups (v2 and v1), or None without a limit."""
    quotas = [
        *map(_quota_v2, cgroup_folders(root=root)),
        *map(_quota_v1, cgroup_folders("cpu", root=root)),
    ]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_v2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(group: Path) -> float | None:
    try:
        limit = int((group / "cpu.cfs_quota_us").read_text())
        return limit / int((group / "cpu.cfs_period_us").read_text()) if limit > 0 else None
    except (OSError, ValueError):
        return None
