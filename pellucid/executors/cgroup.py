"""The control groups this process is in: where Linux keeps the limits that a container or a service runs under."""

from __future__ import annotations

from pathlib import Path


def cgroup_folders(controller: str = "", root: Path = Path("/")) -> list[Path]:
    """Folders of the process's own control group and of those above it, innermost first; each one's limits hold.

    `controller` names a hierarchy of cgroup v1 ("cpu"); "" is the single one of v2. Where the system is mounted
    elsewhere or the path is not ours to see, only the root's folder is left. `root` is the file system's.
    Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst of Linux.
    """
    top = root / "sys/fs/cgroup" / controller
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return [top]
    for line in lines:
        _, controllers, path = line.split(":", 2)  # 0::/user.slice/job, or 3:cpu,cpuacct:/docker/1f…
        parts = Path(path).parts[1:]
        if controller in controllers.split(",") and ".." not in parts:
            return [top.joinpath(*parts[:n]) for n in range(len(parts), -1, -1)]
    return [top]
