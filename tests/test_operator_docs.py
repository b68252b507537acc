"""docs/operators.md is made from the code and is current."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pellucid.executors.reference import OPERATORS

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "make_operator_docs.py"


def test_operator_page_is_current_and_complete() -> None:
    spec = importlib.util.spec_from_file_location("make_operator_docs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = script.PAGE.read_text(encoding="utf-8")
    assert page == script.render(), "docs/operators.md is out of date; run `make docs`"
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == list(OPERATORS)
