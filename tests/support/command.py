"""The `pellucid` command as a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

Pellucid = Callable[..., "subprocess.CompletedProcess[str]"]
COMMAND = [sys.executable, "-c", "from pellucid.cli.main import main; main()"]
