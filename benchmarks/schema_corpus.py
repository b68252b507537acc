"""Over 300 JSON schemas, written for Pellucid: families made by rule, and a file of whole documents.

    from schema_corpus import schemas        # name → schema

Names say the family. Each schema is different from all others, and some cannot be enforced: those are to be refused.
`hand-written/…` come from data/schemas.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HAND_WRITTEN = Path(__file__).resolve().parent / "data" / "schemas.json"

Schema = dict[str, Any]


def schemas() -> dict[str, Any]:
    """All of them by name, in a fixed order."""
    found: dict[str, Any] = {}
    for family in (
        plain_types, numbers, multiples, strings, patterns, formats, constants, enumerations, arrays, tuples, objects,
        additional, pattern_properties, unions, one_of, all_of, references, recursion, nesting, unicode_keys, drafts,
        annotations, refused,
    ):  # fmt: skip
        for number, schema in enumerate(family()):
            found[f"{family.__name__}/{number}"] = schema
    for name, schema in json.loads(HAND_WRITTEN.read_text("utf-8")).items():
        found[f"hand-written/{name}"] = schema
    return found


def closed(properties: Schema, required: list[str] | None = None) -> Schema:
    """An object with these properties and no others; all required unless said otherwise."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }


def plain_types() -> Iterator[Any]:
    yield True
    for name in ("null", "boolean", "integer", "number", "string", "array", "object"):
        yield {"type": name}
    for pair in (["string", "null"], ["integer", "boolean"], ["array", "object"], ["number", "string", "null"]):
        yield {"type": pair}
        yield closed({"value": {"type": pair}})


def numbers() -> Iterator[Schema]:
    bounds: list[Schema] = [
        {"minimum": 0},
        {"maximum": 0},
        {"minimum": 1, "maximum": 5},
        {"minimum": -5, "maximum": -1},
        {"minimum": -17, "maximum": 1234},
        {"exclusiveMinimum": 0},
        {"exclusiveMaximum": 10},
        {"exclusiveMinimum": 0, "exclusiveMaximum": 2},
        {"minimum": 99, "exclusiveMaximum": 101},
        {"minimum": 1_000_000, "maximum": 1_000_001},
        {"minimum": -(2**53), "maximum": 2**53},
    ]
    for bound in bounds:
        yield {"type": "integer", **bound}
        yield {"type": "number", **bound}
    for low, high in ((0.5, 0.75), (-0.001, 0.001), (-1.5, 2.25), (3.14, 3.15), (0.000001, 0.00001), (99.9, 100.1)):
        yield {"type": "number", "minimum": low, "maximum": high}
        yield {"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high}
    yield closed({"share": {"type": "number", "minimum": 0, "maximum": 1}, "count": {"type": "integer", "minimum": 0}})
    yield {"type": ["integer", "null"], "minimum": 3, "maximum": 7}


def multiples() -> Iterator[Schema]:
    for factor in (1, 2, 3, 7, 10, 60, 100, 0.5, 0.25, 0.01, 1.5, 0.1):
        yield {"type": "number", "multipleOf": factor, "minimum": 0, "maximum": 1000}
    for factor in (1, 5, 12, 25):
        yield {"type": "integer", "multipleOf": factor}
    yield {"type": "integer", "multipleOf": 7, "minimum": 10, "maximum": 20}
    yield {"allOf": [{"type": "integer", "multipleOf": 4}, {"multipleOf": 6, "minimum": 1, "maximum": 200}]}
    yield closed({"minute": {"type": "integer", "multipleOf": 15, "minimum": 0, "exclusiveMaximum": 60}})


def strings() -> Iterator[Schema]:
    for low, high in ((0, 0), (0, 1), (1, 1), (1, 10), (5, 5), (3, 40), (20, 60), (0, 200)):
        yield {"type": "string", "minLength": low, "maxLength": high}
    yield {"type": "string", "minLength": 3}
    yield {"type": "string", "maxLength": 12}
    for size in (2, 8, 30):
        yield closed({"title": {"type": "string", "minLength": 1, "maxLength": size}, "note": {"type": "string"}})
    yield {"type": "array", "items": {"type": "string", "minLength": 2, "maxLength": 6}, "minItems": 2, "maxItems": 4}


def patterns() -> Iterator[Schema]:
    for expression in (
        "^[a-z]+$", "^[A-Z]{3}-[0-9]{4}$", "^#[0-9a-fA-F]{6}$", r"^\d{3}-\d{2}-\d{4}$", "^(yes|no|maybe)$",
        r"^[\w.]+@[\w]+\.(com|org)$", "^a*b+c?$", r"^\+?[1-9]\d{1,14}$", "^(red|green|blue)(, (red|green|blue))*$",
        r"^v\d+\.\d+\.\d+(-[a-z]+)?$", "^[^\\s]{1,20}$", "^.{4,8}$", "^(0|1)+$", r"^\S+ \S+$", "^[äöüß]+$",
        "^[\\u0400-\\u04ff]{1,12}$", r"^(\d{1,3}\.){3}\d{1,3}$", "^$", r'^"[a-z]*"$', r"^C:\\[a-z]+\\$",
        "^(?:[01]\\d|2[0-3]):[0-5]\\d$", "^(M{0,3})(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})$",
    ):  # fmt: skip
        yield {"type": "string", "pattern": expression}
    yield {"type": "string", "pattern": "ab"}  # anywhere in the text
    yield {"type": "string", "pattern": "^[a-z]+$", "minLength": 3, "maxLength": 5}
    yield {"type": "string", "allOf": [{"pattern": "^[a-c]+$"}, {"pattern": "^[b-d]+$"}], "maxLength": 9}
    yield closed(
        {"id": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{6}$"}, "lang": {"pattern": "^[a-z]{2}$", "type": "string"}}
    )


def formats() -> Iterator[Schema]:
    for name in ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"):
        yield {"type": "string", "format": name}
        yield closed({"kind": {"const": name}, "value": {"type": "string", "format": name}})
    yield {"type": "array", "items": {"type": "string", "format": "date"}, "minItems": 1, "maxItems": 3}
    yield {"type": "string", "format": "email", "maxLength": 30}
    yield {"type": "string", "format": "hostname", "pattern": "^[a-z.]+$"}


def constants() -> Iterator[Schema]:
    for value in (
        None, True, 0, -1, 3.5, 1e20 / 1e20, "", "x", 'quote " and \\', "line\nbreak", "émoji 😀", [], {},
        [1, [2, [3]]], {"a": {"b": [None, False, "c"]}}, "</tag>", "\t\u0001",
    ):  # fmt: skip
        yield {"const": value}
    yield closed({"type": {"const": "circle"}, "radius": {"type": "number", "minimum": 0, "maximum": 10}})


def enumerations() -> Iterator[Schema]:
    yield {"enum": ["a", "b", "c"]}
    yield {"enum": [1, 2, 3]}
    yield {"enum": [None, True, 0, "0", [0], {"0": 0}]}
    yield {"enum": ["only"]}
    yield {"enum": ["ab", "abc", "abcd", "a"]}
    yield {"type": "string", "enum": ["x", 1, None]}
    yield {"enum": [f"option {i}" for i in range(500)]}
    yield {"enum": [i * 37 for i in range(200)]}
    yield {"enum": ["日本", "日本語", "中文", "한국어", "ไทย"]}
    yield {"enum": [-0.5, 0.5, 1.5]}
    yield {"type": "array", "items": {"enum": ["N", "E", "S", "W"]}, "minItems": 4, "maxItems": 4}
    yield closed({"size": {"enum": ["S", "M", "L", "XL"]}, "colour": {"enum": ["red", "green", None]}})


def arrays() -> Iterator[Schema]:
    items: list[Any] = [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "boolean"}, {"enum": ["a", "b"]}]
    for item in items:
        for low, high in ((0, 0), (1, 1), (0, 3), (2, 5), (10, 12)):
            yield {"type": "array", "items": item, "minItems": low, "maxItems": high}
    yield {"type": "array", "items": {"type": "null"}}
    yield {"type": "array", "items": False}
    yield {"type": "array", "minItems": 1, "maxItems": 2}
    yield {"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "maxItems": 2}, "maxItems": 3}
    yield {"type": "array", "items": closed({"x": {"type": "integer"}, "y": {"type": "integer"}}), "maxItems": 4}


def tuples() -> Iterator[Schema]:
    first, second = {"type": "integer", "minimum": 0, "maximum": 99}, {"type": "string", "maxLength": 5}
    yield {"type": "array", "prefixItems": [first, second], "items": False}
    yield {"type": "array", "prefixItems": [first, second], "items": False, "minItems": 2}
    yield {"type": "array", "prefixItems": [first], "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4}
    yield {"type": "array", "prefixItems": [first, second], "minItems": 1, "maxItems": 3}
    yield {
        "type": "array",
        "prefixItems": [{"const": "rgb"}, *[{"type": "integer", "minimum": 0, "maximum": 255}] * 3],
        "items": False,
        "minItems": 4,
    }
    yield {"type": "array", "items": [first, second], "additionalItems": False, "minItems": 2}
    yield {"type": "array", "items": [second], "additionalItems": {"type": "null"}, "maxItems": 3}
    yield closed({"pair": {"type": "array", "prefixItems": [{"type": "null"}, {"type": "null"}], "items": False}})


def objects() -> Iterator[Schema]:
    integer, text = {"type": "integer", "minimum": 0, "maximum": 999}, {"type": "string", "maxLength": 8}
    for count in (1, 2, 5, 12, 30):
        yield closed({f"field_{i}": integer if i % 2 else text for i in range(count)})
        yield closed({f"field_{i}": text if i % 3 else integer for i in range(count)}, [])
    yield closed({})
    yield closed({"a": integer, "b": text, "c": {"type": "boolean"}}, ["b"])
    yield closed({"a": integer, "ab": integer, "abc": integer}, ["abc"])
    yield {"type": "object", "properties": {"a": integer}, "required": ["a"]}
    yield {"type": "object", "properties": {"a": text}, "required": ["b"]}
    yield {"type": "object", "required": ["x", "y"], "additionalProperties": integer}
    yield {**closed({"a": integer, "b": integer, "c": integer}, []), "maxProperties": 2}
    yield {**closed({"a": integer, "b": integer, "c": integer}, ["a"]), "minProperties": 2}
    yield {"properties": {"only if it is an object": integer}, "type": ["object", "integer"]}
    yield closed({"": text, " ": text, 'a"b': text, "back\\slash": text, "new\nline": text})


def additional() -> Iterator[Schema]:
    integer = {"type": "integer", "minimum": 0, "maximum": 9}
    yield {"type": "object", "additionalProperties": integer}
    yield {"type": "object", "additionalProperties": integer, "maxProperties": 3}
    yield {"type": "object", "additionalProperties": integer, "minProperties": 1}
    yield {
        "type": "object",
        "properties": {"kind": {"const": "k"}},
        "required": ["kind"],
        "additionalProperties": integer,
    }
    yield {"type": "object", "additionalProperties": {"type": "array", "items": integer, "maxItems": 2}}
    yield {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": integer}}
    yield {"type": "object", "additionalProperties": False}
    yield {"type": "object", "additionalProperties": True, "properties": {"n": integer}}


def pattern_properties() -> Iterator[Schema]:
    integer, text = {"type": "integer", "minimum": 0, "maximum": 9}, {"type": "string", "maxLength": 4}
    yield {"type": "object", "patternProperties": {"^x-": text}, "additionalProperties": False}
    yield {
        "type": "object",
        "patternProperties": {"^n_[a-z]{1,3}$": integer, "^s_[a-z]{1,3}$": text},
        "additionalProperties": False,
    }
    yield {
        "type": "object",
        "patternProperties": {"^[0-9]{1,2}$": integer},
        "additionalProperties": False,
        "maxProperties": 3,
    }
    yield {
        "type": "object",
        "properties": {"name": text},
        "required": ["name"],
        "patternProperties": {"^[A-Z]$": integer},
        "additionalProperties": False,
    }


def unions() -> Iterator[Schema]:
    a, b = closed({"a": {"type": "integer"}}), closed({"b": {"type": "string", "maxLength": 6}})
    yield {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 5}]}
    yield {"anyOf": [a, b]}
    yield {"anyOf": [a, b, {"type": "null"}]}
    yield {"anyOf": [{"const": 1}, {"const": "1"}]}
    yield {"anyOf": [{"type": "array", "items": a, "maxItems": 2}, a]}
    yield {"type": "integer", "anyOf": [{"minimum": 100, "maximum": 105}, {"minimum": -5, "maximum": -1}]}
    yield closed({"value": {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"enum": ["unknown", "none"]}]}})
    yield {"anyOf": [{"anyOf": [{"const": 1}, {"const": 2}]}, {"anyOf": [{"const": 3}, {"const": 4}]}]}
    yield {"anyOf": [{"type": "string", "pattern": "^a+$"}, {"type": "string", "pattern": "^ab*$"}]}
    yield {"type": "array", "items": {"anyOf": [a, b]}, "minItems": 1, "maxItems": 3}
    yield {"anyOf": [closed({"kind": {"const": k}, k: {"type": "boolean"}}) for k in ("one", "two", "three", "four")]}
    yield {"anyOf": [{"type": "string", "format": "date"}, {"type": "string", "format": "ipv4"}]}


def one_of() -> Iterator[Schema]:
    yield {"oneOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "boolean"}]}
    yield {"oneOf": [closed({"kind": {"const": k}, "size": {"type": "integer"}}) for k in ("cat", "dog", "bird")]}
    yield {"oneOf": [{"const": i} for i in range(6)]}
    yield {"oneOf": [{"type": "null"}, {"type": "array", "items": {"type": "null"}, "maxItems": 2}]}
    yield {"oneOf": [{"enum": ["a", "b"]}, {"enum": ["c", 1]}]}
    yield {"oneOf": [{"type": "number"}, {"minimum": 0}]}  # both may hold
    yield {"oneOf": [{"type": "integer", "multipleOf": 3}, {"type": "integer", "multipleOf": 5}]}  # both may hold
    yield closed(
        {
            "shape": {
                "oneOf": [
                    closed({"t": {"const": "c"}, "r": {"type": "number", "minimum": 1, "maximum": 2}}),
                    closed({"t": {"const": "s"}, "a": {"type": "integer"}}),
                ]
            }
        }
    )
    yield {
        "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
        "$defs": {"a": closed({"v": {"const": 1}}), "b": closed({"v": {"const": 2}, "w": {"type": "null"}})},
    }


def all_of() -> Iterator[Schema]:
    yield {"allOf": [{"type": "integer"}, {"minimum": 5}, {"maximum": 8}]}
    yield {"allOf": [{"type": "string", "minLength": 2}, {"maxLength": 4}]}
    yield {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"b": {"type": "boolean"}}, "required": ["b"]},
        ]
    }
    yield {"type": "object", "allOf": [{"required": ["x"]}, {"properties": {"x": {"const": 1}}}]}
    yield {
        "allOf": [{"$ref": "#/$defs/small"}, {"multipleOf": 3}],
        "$defs": {"small": {"type": "integer", "minimum": 1, "maximum": 20}},
    }
    yield {"allOf": [{"enum": [1, 2, 3, 4]}, {"enum": [3, 4, 5]}]}
    yield {"allOf": [{"anyOf": [{"const": 1}, {"const": 2}]}, {"anyOf": [{"const": 2}, {"const": 3}]}]}
    yield {
        "allOf": [
            {"type": "array", "items": {"type": "integer", "minimum": 0}},
            {"items": {"maximum": 3}, "maxItems": 3},
        ]
    }
    yield {"allOf": [{"const": 1}, {"const": 2}]}  # nothing satisfies it


def references() -> Iterator[Schema]:
    point = closed({"x": {"type": "integer"}, "y": {"type": "integer"}})
    yield {"$ref": "#/$defs/point", "$defs": {"point": point}}
    yield {**closed({"from": {"$ref": "#/$defs/point"}, "to": {"$ref": "#/$defs/point"}}), "$defs": {"point": point}}
    yield {
        **closed({"a": {"$ref": "#/definitions/b"}}),
        "definitions": {"b": {"$ref": "#/definitions/c"}, "c": {"type": "boolean"}},
    }
    yield {
        **closed({"first": {"type": "integer", "minimum": 1, "maximum": 3}, "second": {"$ref": "#/properties/first"}})
    }
    yield {**closed({"e": {"$ref": "#/$defs/a~1b~0c"}}), "$defs": {"a/b~c": {"enum": ["slash", "tilde"]}}}
    yield {**closed({"e": {"$ref": "#/$defs/%C3%BC"}}), "$defs": {"ü": {"const": "umlaut"}}}
    yield {
        "type": "array",
        "items": {"$ref": "#/$defs/i", "maximum": 5},
        "maxItems": 3,
        "$defs": {"i": {"type": "integer", "minimum": 0}},
    }
    chain = {f"s{i}": {"$ref": f"#/$defs/s{i + 1}"} for i in range(20)}
    yield {"$ref": "#/$defs/s0", "$defs": {**chain, "s20": {"type": "null"}}}
    yield {"$ref": "https://example.org/schema.json"}  # nothing is fetched
    yield {"$ref": "#/$defs/missing"}


def recursion() -> Iterator[Schema]:
    tree = closed({"value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}})
    yield tree
    yield {
        "$defs": {
            "list": closed(
                {"head": {"type": "integer"}, "tail": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/list"}]}}
            )
        },
        "$ref": "#/$defs/list",
    }
    operand = {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"$ref": "#/$defs/expression"}]}
    yield {
        "$ref": "#/$defs/expression",
        "$defs": {"expression": closed({"op": {"enum": ["+", "-", "*"]}, "left": operand, "right": operand})},
    }
    yield {"type": "array", "items": {"$ref": "#"}, "maxItems": 3}
    yield closed({"name": {"type": "string", "maxLength": 5}, "next": {"$ref": "#"}}, ["name"])
    yield {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}]}
    yield {
        **closed({"even": {"$ref": "#/$defs/even"}}),
        "$defs": {
            "even": closed({"odd": {"$ref": "#/$defs/odd"}}, []),
            "odd": closed({"even": {"$ref": "#/$defs/even"}}, []),
        },
    }
    yield {"type": "object", "additionalProperties": {"$ref": "#"}, "maxProperties": 2}
    yield closed({"self": {"$ref": "#"}})  # never ends
    yield {"$ref": "#"}  # says nothing


def nesting() -> Iterator[Schema]:
    for depth in (2, 4, 8, 12):
        schema: Schema = {"type": "integer", "minimum": 0, "maximum": 9}
        array: Schema = {"type": "boolean"}
        for level in range(depth):
            schema = closed({f"level_{level}": schema})
            array = {"type": "array", "items": array, "minItems": 1, "maxItems": 2}
        yield schema
        yield array
    yield closed(
        {
            "a": closed(
                {
                    "b": {
                        "type": "array",
                        "items": closed(
                            {"c": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2}}
                        ),
                        "maxItems": 2,
                    }
                }
            )
        }
    )
    yield closed({f"group_{i}": closed({f"item_{j}": {"type": "integer"} for j in range(3)}) for i in range(4)})


def unicode_keys() -> Iterator[Schema]:
    integer = {"type": "integer", "minimum": 0, "maximum": 9}
    for names in (
        ["größe", "straße"],
        ["名前", "年齢"],
        ["😀", "👍🏽"],
        ["имя", "возраст"],
        ["a\u0301", "\u00e1"],
        ["اسم", "عمر"],
        ["emoji 😀 key", "tab\tkey"],
        ["\u200b", "\ufeff"],
    ):
        yield closed(dict.fromkeys(names, integer))
    yield {
        "type": "string",
        "pattern": "^[\\U0001F600-\\U0001F64F]{1,3}$".replace("\\U0001F600", "😀").replace("\\U0001F64F", "🙏"),
    }
    yield {"type": "string", "enum": ["ﬁ", "fi", "ſ", "s"]}


def drafts() -> Iterator[Schema]:
    draft_4 = "http://json-schema.org/draft-04/schema#"
    for uri in (
        draft_4,
        "http://json-schema.org/draft-06/schema#",
        "http://json-schema.org/draft-07/schema#",
        "https://json-schema.org/draft/2019-09/schema",
        "https://json-schema.org/draft/2020-12/schema",
    ):
        yield {"$schema": uri, **closed({"a": {"type": "integer", "minimum": 0, "maximum": 50}})}
    yield {"$schema": draft_4, "type": "integer", "minimum": 0, "exclusiveMinimum": True, "maximum": 9}
    yield {"$schema": draft_4, "type": "array", "items": [{"type": "null"}], "additionalItems": False}
    yield {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **closed({"p": {"$ref": "#/definitions/q"}}),
        "definitions": {"q": {"type": "boolean"}},
    }
    yield {"$schema": "http://json-schema.org/draft-03/schema#", "type": "integer"}


def annotations() -> Iterator[Schema]:
    yield {"title": "T", "description": "D", "type": "integer", "default": 3, "examples": [1, 2], "minimum": 0}
    yield {"$comment": "nothing", "type": "boolean", "deprecated": True, "readOnly": True}
    yield {"$id": "https://example.org/id", "type": "null", "writeOnly": True}
    yield closed({"a": {"description": "a long text " * 20, "type": "integer"}})


def refused() -> Iterator[Schema]:
    """Keywords and values that cannot be enforced."""
    yield {"not": {"type": "string"}}
    yield {"type": "integer", "not": {"const": 3}}
    yield {"if": {"type": "integer"}, "then": {"minimum": 3}, "else": {"type": "string"}}
    yield {"type": "array", "uniqueItems": True}
    yield {"type": "array", "contains": {"const": 1}}
    yield {"type": "array", "contains": {"const": 1}, "minContains": 2}
    yield {"type": "object", "propertyNames": {"pattern": "^a"}}
    yield {"type": "object", "dependentRequired": {"a": ["b"]}}
    yield {"type": "object", "dependentSchemas": {"a": {"required": ["b"]}}}
    yield {"type": "object", "dependencies": {"a": ["b"]}}
    yield {"type": "object", "unevaluatedProperties": False}
    yield {"type": "array", "unevaluatedItems": False}
    yield {"type": "string", "contentEncoding": "base64"}
    yield {"type": "string", "contentMediaType": "application/json"}
    yield {"$dynamicRef": "#node"}
    yield {"type": "string", "nullable": True}
    yield {"type": "string", "format": "regex"}
    yield {"type": "string", "format": "iri"}
    yield {"type": "string", "pattern": "^(?=a)"}
    yield {"type": "string", "pattern": r"(a)\1"}
    yield {"type": "string", "pattern": r"\bword\b"}
    yield {"type": "integer", "minimum": 2**60}
    yield {"type": "number", "maximum": 1e300}
    yield {"type": "object", "minProperties": 5}
    yield {"type": "text"}
    yield {"type": "string", "minLength": 5, "maxLength": 2}
    yield {"type": "string", "minlength": 3}
