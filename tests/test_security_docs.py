"""docs/security.md is tied to tests: each promise names some, each of which is there and is collected."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
PROMISES = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| promise ")]
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", "\n".join(PROMISES))


def test_every_promise_names_a_test() -> None:
    assert len(PROMISES) > 20
    for line in PROMISES:
        promise, shown = line.strip("| ").split(" | ")
        assert re.fullmatch(r"(`tests/[\w/]+\.py::test_\w+`(, |$))+", shown), promise


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED)), ids=[name for _, name in sorted(set(NAMED))])
def test_it_is_there(path: str, name: str) -> None:
    """As a function of a file that pytest collects."""
    assert Path(path).name.startswith("test_")
    module = ast.parse((ROOT / path).read_text("utf-8"))
    [found] = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == name]
    skipped = [ast.unparse(mark) for mark in found.decorator_list if "skip" in ast.unparse(mark)]
    assert skipped == []
