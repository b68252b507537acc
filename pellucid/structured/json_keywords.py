"""The keywords of JSON Schema: those that are enforced, those that restrict nothing, and what to write for others."""

from __future__ import annotations

DRAFTS = {
    "http://json-schema.org/draft-04/schema": 4,
    "http://json-schema.org/draft-06/schema": 6,
    "http://json-schema.org/draft-07/schema": 7,
    "https://json-schema.org/draft/2019-09/schema": 2019,
    "https://json-schema.org/draft/2020-12/schema": 2020,
}
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")

IN_PLACE = frozenset({"$ref", "anyOf", "oneOf"})
"""They speak about the very value that the schema around them speaks about."""

ANNOTATIONS = frozenset({
    "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$anchor",
    "$defs", "definitions", "discriminator",
})  # fmt: skip
"""They say something about a value, or hold what a `$ref` points to; they restrict nothing."""

ENFORCED = (
    "type", "enum", "const", "anyOf", "allOf", "oneOf", "$ref",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    "minLength", "maxLength", "pattern", "format",
    "items", "prefixItems", "additionalItems", "minItems", "maxItems",
    "properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties",
)  # fmt: skip

ADVICE = {
    "nullable": 'write "null" beside the other types',
    "not": "say what is allowed instead",
    "if": "use anyOf with one part for each case",
    "then": "use anyOf with one part for each case",
    "else": "use anyOf with one part for each case",
    "dependencies": "use anyOf with one part for each case",
    "dependentRequired": "use anyOf with one part for each case",
    "dependentSchemas": "use anyOf with one part for each case",
    "propertyNames": "use patternProperties with additionalProperties: false",
    "unevaluatedProperties": "use additionalProperties in each part",
    "x-guidance": "white space is chosen with disable_any_whitespace",
}
