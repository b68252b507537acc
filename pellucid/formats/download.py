"""What every download shares: the progress callback and the checked hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

Progress = Callable[[str, int, int | None], None]
"""`progress(what, done, total)`: bytes done so far, and in all where that is known."""


def sha256_file(path: Path) -> str:
    """The file's SHA-256 in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
