"""The schemas say what SamplingParams does: the same names and defaults, and both sides of every limit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from pellucid.api.sampling_schema import SAMPLING
from pellucid.errors import InvalidParameter
from pellucid.sampling import SamplingParams
from pellucid.structured_outputs import StructuredOutputs

NEEDS = {
    "dynatemp_range": {"temperature": 100},
    "min_tokens": {"max_tokens": 2**31 - 1},
    "length_penalty": {"beam_width": 1},
}


def test_every_parameter_has_a_schema_with_its_default() -> None:
    not_for_all = {"logits_processors", "echo"}  # Python functions are for the library, echo for completions
    assert SAMPLING.keys() == {f.name for f in fields(SamplingParams)} - not_for_all
    defaults = SamplingParams()
    for name, schema in SAMPLING.items():
        if "default" in schema:
            value = getattr(defaults, name)
            assert schema["default"] == (list(value) if isinstance(value, tuple) else value), name
    structured = SAMPLING["structured_outputs"]["properties"]
    assert structured.keys() == {f.name for f in fields(StructuredOutputs)}


def limits() -> Iterator[tuple[str, Any, bool]]:
    """(name, value, whether it is allowed) at both sides of every limit of the schemas of numbers."""
    for name, schema in SAMPLING.items():
        for variant in [schema, *schema.get("anyOf", [])]:
            if variant.get("type") not in ("number", "integer"):
                continue
            whole = variant["type"] == "integer"
            low = variant.get("minimum", variant.get("exclusiveMinimum"))
            yield name, variant["maximum"], True
            yield name, variant["maximum"] + 1 if whole else math.nextafter(variant["maximum"], math.inf), False
            yield name, low, "minimum" in variant
            if variant is schema:
                yield name, low - 1 if whole else math.nextafter(low, -math.inf), False
        for variant in schema.get("anyOf", []):
            if "const" in variant:
                yield name, variant["const"], True


@pytest.mark.parametrize(("name", "value", "allowed"), list(limits()))
def test_limits(name: str, value: Any, allowed: bool) -> None:
    given = {**NEEDS.get(name, {}), name: value}
    if allowed:
        SamplingParams(**given)
    else:
        with pytest.raises(InvalidParameter) as caught:
            SamplingParams(**given)
        assert caught.value.param == name
