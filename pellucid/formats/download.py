"""What every download shares: the progress callback, the checked hash, and a wheel fetched by pip."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pellucid.config import child_environment
from pellucid.errors import DownloadError

Progress = Callable[[str, int, int | None], None]
"""`progress(what, done, total)`: bytes done so far, and in all where that is known."""


def sha256_file(path: Path) -> str:
    """The file's SHA-256 in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_wheel(requirement: str, into: Path, *, total: int, progress: Progress | None = None) -> Path:
    """Let pip download the wheel of `requirement` (`name==version`), without dependencies, into the empty folder.

    pip brings the user's own settings (index, proxy, certificates) and installs nothing here. Progress is read off the
    file that grows under `into`; `total` is the wheel's size in bytes. Raises DownloadError with pip's own last words.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(into), requirement]
    work = str(into)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        environment = child_environment(TMPDIR=work, TEMP=work, TMP=work)
        pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            done = 0
            while pip.poll() is None:
                time.sleep(0.05)
                done = max(done, min(_largest_file(into), total))
                if progress is not None:
                    progress(requirement, done, total)
        finally:
            if pip.poll() is None:
                pip.terminate()
                pip.wait()
        if pip.returncode != 0:
            log.seek(0)
            words = [line.strip() for line in log.read().splitlines() if line.strip()]
            raise DownloadError(
                f"pip could not fetch {requirement}: {' '.join(words[-2:]) or f'exit code {pip.returncode}'}. "
                "Check the network and pip's index settings, or give the path of a model file instead."
            )
    wheels = list(into.glob("*.whl"))
    if len(wheels) != 1:
        raise DownloadError(f"pip reported success for {requirement} but left {len(wheels)} wheels, expected one")
    if progress is not None:
        progress(requirement, total, total)
    return wheels[0]


def _largest_file(folder: Path) -> int:
    """Size in bytes of the largest file under `folder`, which pip changes while we look."""
    largest = 0
    for path in folder.rglob("*"):
        try:
            largest = max(largest, path.stat().st_size)
        except OSError:
            continue  # pip moved or removed it
    return largest
