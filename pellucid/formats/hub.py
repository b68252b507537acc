"""Models from a Hugging Face hub: GGUF files and safetensors folders, with progress, resume and checked hashes.

The files live in the hub library's own cache, where other tools find them too. The library resumes a transfer within
one process only, so files are streamed here into `blobs/<etag>.pellucid-part` (kept when interrupted, checked against
the SHA-256 that is the etag of a large file), and the library then does the book-keeping. Token, endpoint and offline
mode are the library's (`hf auth login`, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE). Only named kinds of file are ever asked
for: no pickle, no code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pellucid.errors import DownloadError, ModelNotFound, UnsupportedModel
from pellucid.formats.download import Progress, sha256_file

NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
DEFAULT_QUANT = "Q4_K_M"
FOLDER_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_GGUF_PART = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def is_name(part: str) -> bool:
    """Whether `part` may be one component of a model's name: `[A-Za-z0-9._-]{1,128}`, nothing that climbs."""
    return NAME.fullmatch(part) is not None and ".." not in part and part != "."


@dataclass(frozen=True)
class HubId:
    """`org/name`, with the file or the quantisation tag asked for after a colon, or None."""

    repo: str
    file: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubId | None:
        """The id written `org/name` or `org/name:file.gguf` or `org/name:Q4_K_M`; None when `text` is none of these."""
        repo, colon, file = text.partition(":")
        parts = repo.split("/")
        if len(parts) != 2 or not all(map(is_name, parts)) or (colon and not all(map(is_name, file.split("/")))):
            return None
        return cls(repo, file if colon else None)

    def __str__(self) -> str:
        return f"{self.repo}:{self.file}" if self.file else self.repo


@dataclass(frozen=True)
class Snapshot:
    """What a hub id came to: `path` is what to open, `files` is every file that belongs to it."""

    path: Path
    files: tuple[Path, ...]


def choose_files(hub_id: HubId, sizes: dict[str, int]) -> tuple[str | None, list[str]]:
    """From the repository's files (name → bytes), what to fetch, weights last, and the GGUF to open (None: the folder).

    A named file or tag wins; else safetensors; else the only GGUF, or of several the one Q4_K_M.
    """
    ggufs = {
        name: size
        for name, size in sizes.items()
        if name.lower().endswith(".gguf") and _is_first_part(name) and "mmproj" not in name.lower()
    }
    if hub_id.file is not None:
        wanted = hub_id.file
        matches = [wanted] if wanted in ggufs else [name for name in ggufs if _has_tag(name, wanted)]
        if len(matches) == 1:
            return matches[0], _with_parts(matches[0], sizes)
        raise ModelNotFound(
            f"{hub_id.repo} has {'several files' if matches else 'no GGUF file'} for {wanted!r}. "
            f"{_choice(hub_id, ggufs)}"
        )
    weights = (
        ["model.safetensors"] if "model.safetensors" in sizes else [name for name in sizes if _SHARD.fullmatch(name)]
    )
    if weights and "config.json" in sizes:
        index = ["model.safetensors.index.json"] if "model.safetensors.index.json" in sizes and len(weights) > 1 else []
        return None, [name for name in FOLDER_FILES if name in sizes] + index + sorted(weights)
    matches = list(ggufs) if len(ggufs) == 1 else [name for name in ggufs if _has_tag(name, DEFAULT_QUANT)]
    if len(matches) == 1:
        return matches[0], _with_parts(matches[0], sizes)
    if ggufs:
        raise ModelNotFound(
            f"{hub_id.repo} holds {len(ggufs)} GGUF files and not exactly one {DEFAULT_QUANT}. {_choice(hub_id, ggufs)}"
        )
    if any(name.endswith(_PICKLES) for name in sizes):
        raise UnsupportedModel(
            f"{hub_id.repo} holds its weights only as pickles, which can run code when they are read; "
            "Pellucid never loads them. Look for a repository with .safetensors or .gguf files."
        )
    raise UnsupportedModel(
        f"{hub_id.repo} holds neither a GGUF file nor config.json with model.safetensors; found {_some(sorted(sizes))}"
    )


def fetch(
    hub_id: HubId, *, cache_dir: Path | None = None, endpoint: str | None = None, progress: Progress | None = None
) -> Snapshot:
    """Make the model present on disk, asking the hub what its newest version is, and fetch what is missing.

    `cache_dir` is the hub cache's root and `endpoint` the hub's address; None means the hub library's own. Raises
    ModelNotFound, UnsupportedModel or DownloadError; what was fetched before an error or Ctrl-C is kept and resumed.
    """
    from huggingface_hub import HfApi, constants

    root = Path(constants.HF_HUB_CACHE) if cache_dir is None else cache_dir
    with _hub_errors(hub_id):
        info = HfApi(endpoint=endpoint).model_info(hub_id.repo, files_metadata=True)
        commit = info.sha or ""
        if not _COMMIT.fullmatch(commit):
            raise DownloadError(f"the hub named no commit for {hub_id.repo} (found {commit!r})")
        sizes = {s.rfilename: s.size or 0 for s in info.siblings or () if all(map(is_name, s.rfilename.split("/")))}
        opened, names = choose_files(hub_id, sizes)
        report = _Report(str(hub_id), sum(sizes[name] for name in names), progress)
        files = tuple(_fetch_file(hub_id.repo, name, commit, root, endpoint, report) for name in names)
    folder = files[0].parents[names[0].count("/")]
    return Snapshot(folder / opened if opened else folder, files)


class _Report:
    """Adds up the bytes of several files for one progress callback."""

    def __init__(self, what: str, total: int, progress: Progress | None) -> None:
        self.what, self.total, self.done, self._progress = what, total, 0, progress

    def add(self, nbytes: int) -> None:
        self.done += nbytes
        if self._progress is not None:
            self._progress(self.what, self.done, max(self.total, self.done))

    def bar(self) -> type:
        """A stand-in for tqdm that the hub library feeds."""
        report = self

        class Bar:
            def __init__(self, *_: object, initial: int = 0, **__: object) -> None:
                report.add(initial)

            def update(self, nbytes: int | float | None = 1) -> None:
                report.add(int(nbytes or 0))

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *_: object) -> None:
                pass

        return Bar


def _fetch_file(repo: str, name: str, commit: str, root: Path, endpoint: str | None, report: _Report) -> Path:
    """The path of one file of one commit in the hub cache under `root`, fetched if it is missing."""
    from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.file_download import get_hf_file_metadata, http_get, repo_folder_name
    from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

    present = try_to_load_from_cache(repo, name, cache_dir=root, revision=commit)
    if isinstance(present, str):
        path = Path(present)
        report.add(path.stat().st_size)
        return path
    url = hf_hub_url(repo, name, revision=commit, endpoint=endpoint)
    remote = get_hf_file_metadata(url, endpoint=endpoint, retry_on_errors=True)
    etag = remote.etag or ""
    if not is_name(etag):
        raise DownloadError(f"{repo}: the hub gave no usable ETag for {name} (found {etag!r})")
    blobs = root / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    if not (blobs / etag).exists():
        part = blobs / f"{etag}.pellucid-part"
        headers = build_hf_headers()
        if urlsplit(remote.location).netloc != urlsplit(url).netloc:
            headers.pop("authorization", None)  # a storage address is signed; the token is the hub's alone
        # The lock file stays: whoever waits on a removed one would not keep the next one out.
        with WeakFileLock(blobs / f"{etag}.pellucid-lock"):
            if (blobs / etag).exists():  # whoever held the lock has fetched it
                report.add((blobs / etag).stat().st_size)
            else:
                _stream(http_get, remote.location, headers, part, etag, remote.size, report)
                part.replace(blobs / etag)
    else:
        report.add((blobs / etag).stat().st_size)
    return Path(hf_hub_download(repo, name, revision=commit, cache_dir=root, endpoint=endpoint))


def _stream(
    http_get: Any, url: str, headers: dict[str, str], part: Path, etag: str, size: int | None, report: _Report
) -> None:
    """Fill `part` from `url`, going on where an earlier try stopped when the contents can be checked afterwards."""
    checkable = _SHA256.fullmatch(etag) is not None
    with part.open("ab") as out:
        if not checkable or (size is not None and out.tell() > size):
            out.truncate(0)
        http_get(url, out, resume_size=out.tell(), headers=headers, expected_size=size, tqdm_class=report.bar())
    if checkable and (found := sha256_file(part)) != etag:
        part.unlink()
        raise DownloadError(
            f"{url}: SHA-256 is {found}, the hub promised {etag}. The damaged file was removed; try again."
        )


@contextmanager
def _hub_errors(hub_id: HubId) -> Iterator[None]:
    """Turns the hub library's exceptions into ours."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
    from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]

    try:
        yield
    except GatedRepoError as error:
        raise DownloadError(
            f"{hub_id.repo} is gated: accept its terms on its page, then log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"the hub knows no model {hub_id.repo!r}, or it is private. "
            "Check the spelling; for a private one log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except OfflineModeIsEnabled as error:
        raise DownloadError(f"{hub_id} is not on this machine, and HF_HUB_OFFLINE forbids asking the hub") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = "log in with `hf auth login` or set HF_TOKEN" if status in (401, 403) else "try again later"
        raise DownloadError(f"the hub answered {status} for {hub_id}; {hint}") from error
    except (TransportError, OSError) as error:
        raise DownloadError(
            f"{hub_id} could not be fetched: {error or type(error).__name__}. Check the network and the space left on "
            "disk, and run the same command again: it goes on where it stopped"
        ) from error


def _is_first_part(name: str) -> bool:
    return not _GGUF_PART.fullmatch(name) or "-00001-of-" in name


def _has_tag(name: str, tag: str) -> bool:
    """Whether a file name carries a quantisation tag, as `SmolLM2-Q4_K_M.gguf` carries `Q4_K_M`."""
    return re.search(rf"(?<![a-z0-9]){re.escape(tag.lower())}(?![a-z0-9_])", name.lower()) is not None


def _with_parts(name: str, sizes: dict[str, int]) -> list[str]:
    """`name` with the other parts of a split file; all of them must be there."""
    split = _GGUF_PART.fullmatch(name)
    if split is None:
        return [name]
    count = split["count"]
    parts = [f"{split['stem']}-{i:05d}-of-{count}{name[-5:]}" for i in range(1, int(count) + 1)]
    if missing := [part for part in parts if part not in sizes]:
        raise UnsupportedModel(f"the hub lacks {len(missing)} of the {len(parts)} parts of {name}: {_some(missing)}")
    return parts


def _choice(hub_id: HubId, ggufs: dict[str, int]) -> str:
    files = ", ".join(f"{name} ({size / 1e6:,.0f} MB)" for name, size in sorted(ggufs.items()))
    return f"Name one as {hub_id.repo}:FILE; there are: {files}" if files else "There is none at all."


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "no file"
