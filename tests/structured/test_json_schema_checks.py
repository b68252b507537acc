"""Keywords that are not enforced are refused by name; what is handed to llguidance is what was meant."""

import json
from decimal import Decimal
from typing import Any

import pytest

from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.structured.json_keywords import ANNOTATIONS, ENFORCED
from pellucid.structured.json_schema import prepare_schema
from pellucid.structured.json_text import parse_json

DRAFT_4 = "http://json-schema.org/draft-04/schema#"
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
DRAFT_2020 = "https://json-schema.org/draft/2020-12/schema"


def prepare(text: str) -> str:
    return prepare_schema(parse_json(text, param="json"))


def prepared(schema: Any) -> Any:
    """The first definition of the result."""
    return json.loads(prepare(json.dumps(schema)))["$defs"]["0"]


@pytest.mark.parametrize(
    "keyword",
    [
        "not", "if", "then", "else", "dependencies", "dependentRequired", "dependentSchemas", "contains", "minContains",
        "maxContains", "uniqueItems", "propertyNames", "unevaluatedItems", "unevaluatedProperties", "contentEncoding",
        "contentMediaType", "contentSchema", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$vocabulary",
        "nullable",         "x-guidance", "x-order", "typo", "minlength", "divisibleBy",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "place", [lambda s: s, lambda s: {"properties": {"a": {"items": s}}}, lambda s: {"anyOf": [s]}]
)
def test_other_keywords_are_refused_by_name_wherever_they_stand(keyword: str, place: Any) -> None:
    with pytest.raises(UnsupportedParameter, match=f"{keyword.replace('$', '[$]')}"):
        prepare(json.dumps(place({"type": "object", keyword: {}})))


def test_annotations_go_and_every_enforced_keyword_is_known() -> None:
    assert prepared({"type": "string", **{name: {} for name in ANNOTATIONS}}) == {"type": ["string"]}
    assert len(set(ENFORCED)) == 27
    assert not ANNOTATIONS & set(ENFORCED)


@pytest.mark.parametrize(
    "format", ["int32", "binary", "uri-reference", "iri", "idn-email", "json-pointer", "regex", "unknown", "Date", ""]
)
def test_unknown_formats_are_refused_by_name(format: str) -> None:
    with pytest.raises(UnsupportedParameter, match=f"format: {format}"):
        prepare(json.dumps({"type": "string", "format": format}))


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"$ref": "http://example.com/schema.json"}, "nothing is ever fetched"),
        ({"$ref": "file:///etc/passwd"}, "nothing is ever fetched"),
        ({"$ref": "#anchor"}, "may point inside"),
        ({"$ref": "#/$defs/missing"}, "nothing at #/[$]defs/missing"),
        ({"$ref": "#"}, "refers back to itself"),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "refers back to itself"),
        (
            {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}},
            "itself",
        ),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "contains itself"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "contains itself"),
        (
            {"$schema": DRAFT_7, "$ref": "#/definitions/a", "minimum": 1, "definitions": {"a": {}}},
            "ignores the keywords",
        ),
        ({"$schema": "http://example.com/my-dialect"}, "dialects are"),
        ({"properties": {"a": {"$id": "http://example.com"}}}, "at the top only"),
        ({"$schema": DRAFT_2020, "items": [{}]}, "prefixItems"),
        ({"additionalItems": False}, "additionalItems"),
        ({"$schema": DRAFT_7, "prefixItems": [{}]}, "prefixItems"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, "oneOf"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"minimum": 9007199254740993}, "cannot be enforced exactly"),
        ({"const": 0.12345678901234567}, "cannot be enforced exactly"),
        ({"maximum": 1e-12}, "cannot be enforced exactly"),
        ({"pattern": "(?=a)"}, "look-ahead"),
        ({"patternProperties": {"(a)\\1": {}}}, "back-reference"),
    ],
)
def test_what_is_not_enforced_is_named(schema: Any, named: str) -> None:
    with pytest.raises(InvalidParameter, match=named):
        prepare(json.dumps(schema))


@pytest.mark.parametrize(
    "schema",
    [
        [], 3, "text", None, {"type": "text"}, {"type": []}, {"type": 3}, {"type": [["string"]]}, {"enum": []},
        {"enum": 3}, {"minLength": -1}, {"minLength": 1.5}, {"minLength": True}, {"maxLength": 10**9}, {"maximum": "3"},
        {"maxItems": 10**9}, {"pattern": 3}, {"pattern": "("}, {"format": 3}, {"items": 3}, {"properties": []},
        {"required": "a"}, {"required": [1]}, {"multipleOf": 0}, {"multipleOf": -1}, {"multipleOf": 50021},
        {"anyOf": []}, {"allOf": {}}, {"exclusiveMinimum": True}, {"$ref": 3}, {"prefixItems": []},
        {"patternProperties": {"a": {}, "(a)": {}}}, {"$ref": "#/examples/00", "examples": [{}]},
        {"allOf": [{"multipleOf": 99991}, {"multipleOf": 99989}]},
    ],
)  # fmt: skip
def test_wrong_values_are_refused(schema: Any) -> None:
    with pytest.raises(InvalidParameter):
        prepare(json.dumps(schema))


@pytest.mark.parametrize(
    "text",
    ["", "{", "{'a': 1}", '{"a": NaN}', '{"minimum": 1e999999999}', '{"minimum": 1' + "0" * 5000 + "}", '{"a":1,"a":2}',
     "[" * 100_000, '{"title": "\\ud800"}', '{"minimum": Infinity}'],
)  # fmt: skip
def test_damaged_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter):
        prepare(text)


def test_older_drafts_are_written_anew() -> None:
    assert prepared({"$schema": DRAFT_4, "minimum": 3, "exclusiveMinimum": True}) == {
        "minimum": 3,
        "exclusiveMinimum": 3,
    }
    assert prepared({"items": [{"type": "null"}, True], "additionalItems": False}) == {
        "prefixItems": [{"type": ["null"]}, True],
        "items": False,
    }


def test_references_are_numbered_whatever_they_are_called() -> None:
    schema = {"properties": {"a/b~": {"$ref": "#/$defs/ü%25~1"}}, "$defs": {"ü%/": {"items": {"$ref": "#"}}}}
    text = json.loads(prepare(json.dumps(schema)))
    assert text["$defs"] == {
        "0": {"properties": {"a/b~": {"$ref": "#/$defs/1"}}},
        "1": {"items": {"$ref": "#/$defs/0"}},
    }
    assert text["$ref"] == "#/$defs/0"


def test_one_of_becomes_any_of_where_its_parts_exclude_each_other() -> None:
    def kind(name: str, **more: Any) -> dict[str, Any]:
        return {"type": "object", "properties": {"kind": {"const": name}, **more}, "required": ["kind"]}

    for parts in (
        [{"type": "string"}, {"type": ["integer", "null"]}],
        [{"const": 1}, {"enum": [2, "1"]}, {"const": True}],
        [kind("a"), kind("b", next={"$ref": "#"})],
        [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
        [kind("a"), {"allOf": [kind("b"), {"type": "object"}]}],
        [{"type": "object", "required": ["x"]}, {"type": "object", "additionalProperties": False}],
    ):
        result = prepared({"oneOf": parts, "$defs": {"a": kind("a"), "b": kind("b")}})
        assert "oneOf" not in result
        assert len(result["anyOf"]) == len(parts)
    for parts in (
        [{"const": 1}, {"const": 1.0}],
        [kind("a"), kind("a")],
        [{"properties": {"kind": {"const": "a"}}}, {"properties": {"kind": {"const": "b"}}}],
        [{"maxLength": 3}, {"minLength": 5}],
    ):
        with pytest.raises(UnsupportedParameter, match="oneOf"):
            prepared({"oneOf": parts})


def test_preparing_twice_changes_nothing_but_numbers() -> None:
    schema = {
        "type": "object",
        "properties": {"d": {"type": "string", "format": "date", "pattern": "^2"}, "n": {"const": 1.5}},
        "patternProperties": {"^x": {"type": "integer", "multipleOf": 5}},
        "additionalProperties": False,
    }
    first = json.loads(prepare(json.dumps(schema)), parse_float=Decimal)
    del first["x-guidance"]
    again = json.loads(prepare(json.dumps(first, default=float)))
    assert set(again["$defs"]["1"]) == set(first["$defs"]["0"])


def test_a_schema_of_many_references_is_bounded() -> None:
    deep: dict[str, Any] = {"properties": {}}
    for i in range(40):
        deep = {"properties": {"a": deep, **{f"r{i}_{j}": {"type": "null"} for j in range(100)}}}
    path, refs = "#", []
    for _ in range(40):
        path += "/properties/a"
        refs += [{"$ref": path}]
    with pytest.raises(InvalidParameter, match="more than"):
        prepare(json.dumps({**deep, "prefixItems": refs}))
