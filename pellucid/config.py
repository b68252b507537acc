"""What the user sets: the engine's configuration, and the few environment variables that are read (only here)."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """Folder for downloaded models and records: `$XDG_CACHE_HOME/pellucid`, else the platform's cache folder. Not created here."""
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / "pellucid"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "pellucid"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "pellucid" / "cache"
    return Path.home() / ".cache" / "pellucid"


def child_environment(**changes: str) -> dict[str, str]:
    """This process's environment with `changes`, for a child process."""
    return {**os.environ, **changes}
