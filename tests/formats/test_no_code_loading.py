"""Rule R1: nothing in the package can turn a file's bytes into running code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "pellucid"

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "runpy"}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {("torch", "load"), ("np", "load"), ("numpy", "load")}
NAMES = {"allow_pickle", "trust_remote_code", "exec_module", "spec_from_file_location", "SourceFileLoader"}


def offences(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names if alias.name.split(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in MODULES:
                yield module
            case ast.Call(func=ast.Name(id=name)) if name in CALLS:
                yield name
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if (owner, name) in METHODS:
                yield f"{owner}.{name}"
            case ast.keyword(arg=str(name)) | ast.Attribute(attr=name) if name in NAMES:
                yield name


def test_the_package_loads_no_code() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 10
    found = {str(path.relative_to(PACKAGE)): list(offences(path.read_text())) for path in files}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from marshal import loads",
        "import torch\ntorch.load('x')",
        "eval('1')",
        "exec('1')",
        "import yaml\nyaml.load('x')",
        "np.load('x')",
        "f(allow_pickle=True)",
        "spec.loader.exec_module(m)",
        "importlib.util.spec_from_file_location('m', path)",
    ],
)
def test_it_would_notice(source: str) -> None:
    assert list(offences(source))


def test_it_allows_the_rest() -> None:
    allowed = ["import re, json\nre.compile('x')\njson.load(f)", "import_module('pellucid.cli.run')", "model.eval()"]
    assert not any(list(offences(source)) for source in allowed)
