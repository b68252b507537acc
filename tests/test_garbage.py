from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc
from pellucid.garbage import uncollected
kept = gc.get_freeze_count()
try:
    with uncollected():
        assert not gc.isenabled()
        lasting = [[] for _ in range(10_000)]
        raise KeyError
except KeyError:
    pass
assert gc.isenabled()
assert gc.get_freeze_count() - kept >= 10_000
"""


def test_what_is_made_without_collections_is_never_looked_at_again() -> None:
    """In a process of its own: it changes what the whole process collects."""
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)
