"""The command line as a person meets it: a process with its own cache folder and the tiny model."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.command import COMMAND, Pellucid
from support.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    mine = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "COLUMNS": "100", "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    return {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "HF_TOKEN")} | mine


@pytest.fixture
def pellucid(environment: dict[str, str]) -> Pellucid:
    def run(*arguments: str | Path, **settings: str | None) -> subprocess.CompletedProcess[str]:
        """`stdin`: what to pipe in (nothing by default); other settings are environment variables."""
        stdin = settings.pop("stdin", None)
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            input=stdin or "",
            capture_output=True,
            encoding="utf-8",
            env=environment | {name: value or "" for name, value in settings.items()},
            timeout=60,
            check=False,
        )

    return run
