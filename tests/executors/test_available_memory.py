"""How much memory is free: the machine's, or what control groups leave."""

from pathlib import Path

import pytest

from pellucid.executors.memory import available_memory

MIB = 1 << 20


def test_available_memory_is_plausible() -> None:
    assert 16 * MIB < available_memory() < 2**50


def fake_system(root: Path, own: str, groups: dict[str, tuple[str, int, int]]) -> Path:
    """A file system with 1000 MiB available and cgroup v2; groups map a path to (limit, MiB used, MiB reclaimable)."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal:  2048000 kB\nMemAvailable:  1024000 kB\nHugePages_Total:  0\n")
    (root / "proc/self/cgroup").write_text(f"4:memory:/elsewhere\n0::{own}\n")
    for path, (limit, used, reclaimable) in groups.items():
        folder = root / "sys/fs/cgroup" / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text(f"{used * MIB}\n")
        (folder / "memory.stat").write_text(f"anon 1\nfile 9\ninactive_file {reclaimable * MIB}\nactive_file 8\n")
    return root


@pytest.mark.parametrize(
    ("own", "groups", "expected"),
    [
        ("/", {}, 1000),
        ("/a/b", {"a": ("max", 500, 0), "a/b": ("max", 500, 0)}, 1000),
        ("/a/b", {"a/b": (str(300 * MIB), 250, 200)}, 250),  # cached pages of a model file are given back when needed
        ("/a/b", {"a": (str(300 * MIB), 100, 0), "a/b": (str(600 * MIB), 100, 0)}, 200),  # the group above is tighter
        ("/a/b", {"a": (str(900 * MIB), 0, 0), "c": (str(MIB), 0, 0)}, 900),  # another's limit is not ours
        ("/a", {"a": (str(100 * MIB), 150, 0)}, 0),
        ("/../a", {"": (str(70 * MIB), 0, 0), "a": (str(MIB), 0, 0)}, 70),  # outside of what is mounted here
    ],
)
def test_available_memory_heeds_every_control_group(
    tmp_path: Path, own: str, groups: dict[str, tuple[str, int, int]], expected: int
) -> None:
    assert available_memory(fake_system(tmp_path, own, groups)) == expected * MIB
