"""Schemathesis over /openapi.json: bodies that the document allows and bodies that it forbids, at a running server.

A body that the document allows may still be refused, where two of its fields contradict each other.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from support.http_client import Http
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


def check_cases(url: str, label: str, mode: Any, count: int) -> Counter[int]:
    """`count` cases of one operation, fewer where there are no more; how many were answered with each status.

    Raises what Schemathesis raises for the first answer that breaks the document. A model that is named by chance is
    never one that is served: two thirds of the cases leave its name away.
    """
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=OPERATIONS[label].as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        if mode == POSITIVE and isinstance(case.body, dict) and sum(statuses.values()) % 3:
            case.body.pop("model", None)
        answer = case.call_and_validate(base_url=url, checks=CHECKS)
        statuses[answer.status_code] += 1

    check()
    return statuses


def check_document(url: str, count: int) -> dict[str, Any]:
    """At least `count` cases of all operations together, every answer as the document says."""
    statuses: Counter[int] = Counter()
    cases: Counter[str] = Counter()
    rounds = 0
    while sum(cases.values()) < count:
        rounds += 1
        for label, mode in CASES:
            found = check_cases(url, label, mode, 1 + count // len(CASES))
            statuses += found
            cases[f"{label} {mode.value}"] += sum(found.values())
    return {"cases": sum(cases.values()), "statuses": {str(s): n for s, n in sorted(statuses.items())}, "by": cases}
