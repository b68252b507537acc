"""How much of the machine other processes took while something was measured. A busy machine makes figures worthless."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from types import TracebackType

TOLERABLE = 0.1
"""Above this share of all cores, results carry a warning."""


class Neighbours:
    """`with Neighbours() as others: …`, then `others.share`: 0 to 1, of all cores, over that time.

    Busy time of the machine, stolen time included, less that of this process and of its children that have ended.
    """

    share = 0.0

    def __enter__(self) -> Neighbours:
        self._total, self._others = _seconds()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        total, others = _seconds()
        self.share = round(max(0.0, (others - self._others) / max(total - self._total, 1e-9)), 3)


def _seconds() -> tuple[float, float]:
    """Core-seconds that have passed since boot on the cores we may use, and those of them that went to others."""
    # Of the cores that we may use: on a large host the sum over all would hide a busy neighbour on ours.
    mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    ticks = [sum(column) for column in zip(*(map(int, line[1:9]) for line in lines if line[0] in mine), strict=True)]
    user, nice, system, idle, iowait, irq, softirq, steal = (tick / os.sysconf("SC_CLK_TCK") for tick in ticks)
    busy = user + nice + system + irq + softirq + steal
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return busy + idle + iowait, busy - own
