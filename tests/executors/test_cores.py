"""How many cores a CPU quota leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from pellucid.executors.cores import cgroup_quota


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


V2, V1, OWN = "sys/fs/cgroup", "sys/fs/cgroup/cpu", "proc/self/cgroup"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({OWN: "0::/"}, None),
        ({f"{V2}/cpu.max": "150000 100000"}, 1.5),  # a container that cannot see its group's name
        ({OWN: "0::/a/b", f"{V2}/a/b/cpu.max": "max 100000"}, None),
        ({OWN: "0::/a/b", f"{V2}/a/b/cpu.max": "400000 100000", f"{V2}/a/cpu.max": "200000 100000"}, 2.0),
        ({OWN: "0::/a/b", f"{V2}/a/b/cpu.max": "50000 100000", f"{V2}/a/cpu.max": "max 100000"}, 0.5),
        ({OWN: "0::/a", f"{V2}/b/cpu.max": "100000 100000"}, None),
        ({OWN: "0::/a", f"{V2}/a/cpu.max": "what is this"}, None),
        (
            {
                OWN: "5:cpuset:/\n3:cpu,cpuacct:/docker/x\n0::/",
                f"{V1}/docker/x/cpu.cfs_quota_us": "300000",
                f"{V1}/docker/x/cpu.cfs_period_us": "100000",
                f"{V1}/cpu.cfs_quota_us": "-1",
                f"{V1}/cpu.cfs_period_us": "100000",
            },
            3.0,
        ),
    ],
)
def test_the_smallest_quota_from_the_own_group_to_the_root(
    tmp_path: Path, files: dict[str, str], expected: float | None
) -> None:
    assert cgroup_quota(write(tmp_path, files)) == expected
