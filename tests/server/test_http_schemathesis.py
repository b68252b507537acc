"""Schemathesis over /openapi.json, against the app over a scripted model. `make proof` has 3,000 cases against a
running server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.document_cases import CASES, check_cases
from support.running_app import RunningApp


@pytest.fixture(scope="module")
def app() -> Iterator[RunningApp]:
    with RunningApp() as running:
        yield running


@pytest.mark.parametrize(("label", "mode"), CASES, ids=[f"{label} {mode.value}" for label, mode in CASES])
def test_no_case_breaks_the_document(label: str, mode: Any, app: RunningApp) -> None:
    assert check_cases(app.url, label, mode, 10).total() > 0
