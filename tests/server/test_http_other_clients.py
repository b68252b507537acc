"""docs/clients.md is true: every recipe on it is run, with the client it is for, against a running server."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.server import Server

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "clients.md").read_text("utf-8")
RECIPES = re.findall(r"^## (\w+)\n.*?```(bash|python)\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
PRINTED = {"langchain_openai": "get_weather"}


def test_every_recipe_is_found() -> None:
    assert [name for name, _, _ in RECIPES] == ["curl", "openai", "anthropic", "langchain_openai", "litellm", "llm"]


@pytest.mark.parametrize(("client", "language", "code"), RECIPES, ids=[name for name, _, _ in RECIPES])
def test_a_recipe(client: str, language: str, code: str, smollm2_server: Server, tmp_path: Path) -> None:
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = shutil.which(client, path=programs) if language == "bash" else importlib.util.find_spec(client)
    if found is None:
        pytest.skip(f"{client} is not installed: `make clients` installs and tries it")
    # What a client remembers between runs goes to an empty folder, and LiteLLM is not to look for prices.
    environment = {"PATH": programs, "HOME": str(tmp_path), "LLM_USER_PATH": str(tmp_path)}
    environment["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    code = code.replace("http://127.0.0.1:8000", smollm2_server.url)
    command = ["bash", "-e", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=90)
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout
    assert PRINTED.get(client, "") in result.stdout
