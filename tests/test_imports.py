"""Imports point one way, stay inside what each package may use, and cost nothing until something is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pellucid"

BASE = {
    "errors", "fields", "config", "sampling", "sampling_fields", "stop_regex", "structured_outputs", "thread_pool",
    "garbage",
}  # fmt: skip
CHAIN = ["formats", "graph", "models", "executors", "cache", "engine"]
FACES = ["api", "server", "tools", "cli"]

# What each part of the package may import from the others, besides itself.
ALLOWED: dict[str, set[str]] = {
    **dict.fromkeys(BASE, BASE),
    **{name: BASE | set(CHAIN[:i]) for i, name in enumerate(CHAIN)},
    "text": BASE | {"formats"},
    "structured": BASE | {"text"},
    "chat": BASE | {"text"},
    "native": set(),
    "api": BASE | {"engine", "chat", "text"},
    "server": BASE | {*CHAIN, "text", "chat", "api"},
    "tools": BASE | {*CHAIN, "text", "chat", "api"},
    "cli": BASE | {*CHAIN, "text", "chat", "api", "server", "tools"},
    "__main__": {"cli"},
}
ALLOWED["executors"] |= {"native"}
ALLOWED["text"] |= {"native"}
ALLOWED["engine"] |= {"text", "structured", "chat"}

# What they may import from elsewhere, besides the standard library. Nothing that is not named here.
LIBRARIES: dict[str, set[str]] = {
    **{name: set() for name in BASE},
    **{name: {"numpy"} for name in ALLOWED if name not in BASE},
    "formats": {"numpy", "huggingface_hub"},
    "text": {"numpy", "tokenizers", "jinja2"},
    "structured": {"numpy", "llguidance"},
    "api": set(),
    "server": {
        "numpy", "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "msgspec", "prometheus_client",
        "opentelemetry",  # only where tracing is on
    },
    "engine": {"numpy", "rich"},  # rich only when a progress bar is shown
    "cli": {"numpy", "rich", "prompt_toolkit"},
}  # fmt: skip

# Modules and builtins that run code found in data.
UNSAFE_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "code", "runpy"}
UNSAFE_CALLS = {"eval", "exec", "__import__"}

FILES = sorted(PACKAGE.rglob("*.py"))


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Full names of everything imported anywhere in a file, functions and TYPE_CHECKING blocks included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "." * node.level + (node.module or "")
            elif node.module == "pellucid":
                yield from (f"pellucid.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def violations(part: str, source: str) -> list[str]:
    """What is wrong with a file of `part`: a package like "graph", or a module like "errors" at the top."""
    found = []
    tree = ast.parse(source)
    for name in imported_modules(tree):
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if top == "":
            found.append(f"relative import {name}")
        elif top == "pellucid":
            if target not in ALLOWED[part] | {part, "__version__", ""}:
                found.append(f"{part} imports {name}")
        elif top in UNSAFE_MODULES or (top not in sys.stdlib_module_names and top not in LIBRARIES[part]):
            found.append(f"{part} imports {name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in UNSAFE_CALLS:
            found.append(f"line {node.lineno} calls {node.func.id}")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found.append(f"line {node.value.lineno} sets allow_pickle")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part == "__init__":  # the public names, each imported when it is used
        assert not [name for name in imported_modules(ast.parse(path.read_text())) if "numpy" in name]
        return
    assert part in ALLOWED, f"{part} is new: say in this test what it may import"
    assert violations(part, path.read_text()) == []


@pytest.mark.parametrize(
    ("part", "source", "message"),
    [
        ("graph", "from pellucid.engine.request import Request", "graph imports pellucid.engine.request"),
        ("graph", "from pellucid import models", "graph imports pellucid.models"),
        ("formats", "import pellucid.text.tokenizer", "formats imports pellucid.text.tokenizer"),
        ("models", "def f():\n    from pellucid.executors import base", "models imports pellucid.executors"),
        ("cache", "import pellucid.engine.scheduler as s", "cache imports pellucid.engine.scheduler"),
        ("engine", "from pellucid.native import _core", "engine imports pellucid.native"),
        ("errors", "import numpy", "errors imports numpy"),
        ("executors", "import torch.nn", "executors imports torch.nn"),
        ("formats", "from gguf import GGUFReader", "formats imports gguf"),
        ("text", "import transformers", "text imports transformers"),
        ("formats", "import pickle", "formats imports pickle"),
        ("graph", "from . import ir", "relative import ."),
        ("text", "eval('1')", "line 1 calls eval"),
        ("formats", "import numpy as np\nnp.load(f, allow_pickle=True)", "line 2 sets allow_pickle"),
    ],
)
def test_the_check_finds(part: str, source: str, message: str) -> None:
    assert violations(part, source) == [message]


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("pellucid", "numpy tokenizers jinja2 rich typer prompt_toolkit huggingface_hub fastapi uvicorn msgspec httpx"),
        (
            "pellucid.engine.llm",
            "rich typer prompt_toolkit huggingface_hub fastapi uvicorn msgspec torch transformers gguf",
        ),
        # The front of the server: a second copy of what the engine's process has would delay its start by 90 ms.
        ("pellucid.server.serve", "numpy tokenizers jinja2 llguidance rich huggingface_hub torch"),
        ("pellucid.models.registry", "tokenizers jinja2 rich typer huggingface_hub torch transformers gguf"),
    ],
)
def test_importing_loads_only_what_is_used(module: str, unwanted: str) -> None:
    script = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.split()) & set(unwanted.split()) == set()
