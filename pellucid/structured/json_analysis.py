"""What can be known of a prepared schema without an answer: whether two parts exclude each other, whether it can end.

Both err on the safe side. `definitions` are those of the schema, by number; `$ref` is "#/$defs/<number>".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 12
"""References and parts within parts that are looked through."""
MAX_COMPARISONS = 50_000
MAX_SWEEPS = 16

_ALL_TYPES = frozenset({"null", "boolean", "number", "string", "array", "object"})


def find_endless(edges: Mapping[str, set[str]]) -> str | None:
    """A definition that leads back to itself, or None."""
    done: set[str] = set()
    for start in edges:
        trail: list[tuple[str, list[str]]] = [(start, sorted(edges[start]))]
        active = {start}
        while trail:
            node, rest = trail[-1]
            if node in done or not rest:
                done.add(node)
                active.discard(node)
                trail.pop()
            elif (following := rest.pop()) in active:
                return following
            else:
                active.add(following)
                trail.append((following, sorted(edges[following])))
    return None


def has_instance(definitions: Mapping[str, Any]) -> bool:
    """False if every value that satisfies definition 0 would contain itself, as with a required property of "#"."""
    finite: set[str] = set()
    order = list(definitions)
    for _ in range(MAX_SWEEPS):
        before = len(finite)
        order.reverse()  # chains of references run either way
        for name in order:
            if name not in finite and _is_finite(definitions[name], finite):
                finite.add(name)
        if "0" in finite or len(finite) == before:
            break
    else:
        return True  # it would take too long to find out
    return "0" in finite


def _is_finite(schema: Any, finite: set[str]) -> bool:
    """Whether a value is in sight, given the definitions that have one."""
    if isinstance(schema, bool) or "const" in schema or "enum" in schema:
        return True  # `false` is found by the compiler, which has a better word for it
    if "$ref" in schema and _number(schema) not in finite:
        return False
    if not all(_is_finite(part, finite) for part in schema.get("allOf", ())):
        return False
    for name in ("anyOf", "oneOf"):
        if name in schema and not any(_is_finite(part, finite) for part in schema[name]):
            return False
    types = _types(schema) & ({"array", "object"} if "type" in schema else set())
    if not types or _types(schema) - types:
        return True
    return any(_has_finite_members(schema, kind, finite) for kind in types)


def _has_finite_members(schema: Mapping[str, Any], kind: str, finite: set[str]) -> bool:
    if kind == "array":
        prefix, rest = schema.get("prefixItems", []), schema.get("items", True)
        count = schema.get("minItems", 0)
        return all(_is_finite(item, finite) for item in prefix[:count]) and (
            count <= len(prefix) or _is_finite(rest, finite)
        )
    properties, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
    return all(_is_finite(properties.get(name, rest), finite) for name in schema.get("required", ()))


class Disjointness:
    """Tells whether two schemas exclude each other: called with both, True if no value can satisfy the two.

    False means that one might, or that it would take too long to find out; the work of all calls is limited.
    """

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._num_left = MAX_COMPARISONS

    def __call__(self, one: Any, other: Any, depth: int = 0) -> bool:
        self._num_left -= 1
        if one is False or other is False:
            return True
        if one is True or other is True or depth > MAX_DEPTH or self._num_left < 0:
            return False
        if not _types(one) & _types(other):
            return True
        values, others = _constants(one), _constants(other)
        if values is not None and others is not None and not values & others:
            return True
        return any(
            self._part_excludes(a, b, depth + 1) or self._property_excludes(a, b, depth + 1)
            for a, b in ((one, other), (other, one))
        )

    def _part_excludes(self, a: Mapping[str, Any], b: Mapping[str, Any], depth: int) -> bool:
        """Whether what `a` consists of excludes `b`."""
        if "$ref" in a and self(self._definitions[_number(a)], b, depth):
            return True
        if any(self(part, b, depth) for part in a.get("allOf", ())):
            return True
        return any(name in a and all(self(part, b, depth) for part in a[name]) for name in ("anyOf", "oneOf"))

    def _property_excludes(self, a: Mapping[str, Any], b: Mapping[str, Any], depth: int) -> bool:
        """Whether a property that `a` requires makes it impossible to satisfy `b`, too."""
        if not _types(a) == _types(b) == {"object"}:
            return False
        properties, others = a.get("properties", {}), b.get("properties", {})
        for name in a.get("required", ()):
            if name not in others:
                if b.get("additionalProperties") is False and "patternProperties" not in b:
                    return True
            elif others[name] is False or (name in properties and self(properties[name], others[name], depth)):
                return True
        return False


def _types(schema: Mapping[str, Any]) -> frozenset[str]:
    if "type" not in schema:
        values = _constants(schema)
        return _ALL_TYPES if values is None else frozenset(kind for kind, _ in values)
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return frozenset("number" if name == "integer" else name for name in types)


def _constants(schema: Mapping[str, Any]) -> frozenset[tuple[str, str]] | None:
    """The only values a schema allows, as type and text; None where it names none."""
    if "const" in schema:
        return frozenset({_key(schema["const"])})
    return frozenset(_key(value) for value in schema["enum"]) if "enum" in schema else None


def _key(value: Any) -> tuple[str, str]:
    """Equal for equal JSON values: 1 and 1.0 are the same number, True is none."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean", repr(value)
    if isinstance(value, int | float):
        return "number", repr(float(value))
    if isinstance(value, str):
        return "string", value
    if isinstance(value, list):
        return "array", repr([_key(item) for item in value])
    return "object", repr(sorted((name, _key(item)) for name, item in value.items()))


def _number(schema: Mapping[str, Any]) -> str:
    return str(schema["$ref"]).removeprefix("#/$defs/")
