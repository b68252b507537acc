"""Schemathesis over /openapi.json: what the document allows and what it forbids, against the app over a scripted model.

A body that the document allows may still be refused, where two of its fields contradict each other.
"""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from support.http_client import Http
from support.running_app import RunningApp
from support.scripted_client import ScriptedClient

CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
POSITIVE, NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE

with Http(ScriptedClient()) as _http:
    DOCUMENT = _http.get("/openapi.json").json()
OPERATIONS = {
    operation.ok().label: operation.ok() for operation in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()
}
CASES = [(label, mode) for label in OPERATIONS for mode in (POSITIVE, NEGATIVE) if mode == POSITIVE or "POST" in label]


@pytest.fixture(scope="module")
def app() -> Any:
    with RunningApp() as running:
        yield running


@pytest.mark.parametrize(("label", "mode"), CASES, ids=[f"{label} {mode.value}" for label, mode in CASES])
def test_no_case_breaks_the_document(label: str, mode: Any, app: RunningApp, soak: bool) -> None:
    @settings(
        max_examples=150 if soak else 10,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=OPERATIONS[label].as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        case.call_and_validate(base_url=app.url, checks=CHECKS)

    check()
