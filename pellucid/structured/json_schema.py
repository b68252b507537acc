"""JSON schemas, made ready for llguidance: every keyword is one that is enforced, or it is refused by name.

llguidance passes over keywords it does not know, reads settings from a key `x-guidance`, and takes some values less
exactly than JSON Schema means them. So a schema is not handed over: it is read here, keyword by keyword, against a
closed table, and written anew in a small part of draft 2020-12. What is new in it:

- every target of a `$ref` stands in `$defs` at the top, under a number, and the schema itself is number 0;
- `pattern`, `patternProperties` and `format` are expressions in one dialect (regex.py, json_formats.py);
- tuples and bounds of older drafts have the form of 2020-12; annotations are gone;
- `oneOf` has become `anyOf`, where its parts cannot both hold (json_analysis.py); else it is refused.

Specification: JSON Schema 2020-12, with drafts 4 to 2019-09 where `$schema` names them.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from decimal import Decimal
from functools import cache
from typing import Any, NoReturn

from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.structured.json_analysis import Disjointness, find_endless, has_instance
from pellucid.structured.json_formats import FORMATS
from pellucid.structured.json_keywords import ADVICE, ANNOTATIONS, DRAFTS, ENFORCED, IN_PLACE, TYPES
from pellucid.structured.json_numbers import EXACT_NUMBERS, exact_number, least_common_multiple, whole_number
from pellucid.structured.json_pointer import TOP, escape, look_up, normalised, property_of, shortened
from pellucid.structured.limits import (
    MAX_DEFINITIONS,
    MAX_ENUM,
    MAX_FACTOR,
    MAX_ITEMS,
    MAX_JSON_NODES,
    MAX_LENGTH,
    MAX_PATTERNS,
    MAX_PROPERTIES,
)
from pellucid.structured.regex import translate

WHITESPACE = r"( |\n[ \t]{0,32})"
"""What may stand at most once between two parts of a JSON text: one space, or a line break and indentation."""


def prepare_schema(schema: Any, *, param: str = "json", compact: bool = False) -> str:
    """The schema as JSON text that llguidance enforces completely, white space settings included.

    schema: what `parse_json` made of it. compact: no white space. Raises InvalidParameter, and UnsupportedParameter,
    which names a keyword and its place.
    """
    prepared = _Schema(schema, param).prepared()
    prepared["x-guidance"] = {"whitespace_flexible": False} if compact else {"whitespace_pattern": WHITESPACE}
    return json.dumps(prepared, ensure_ascii=False)


class _Schema:
    """One document on its way. `path` is a JSON pointer to where in it we are, for messages and for references."""

    def __init__(self, root: Any, param: str) -> None:
        self.root = root
        self.param = param
        self.draft: int | None = None  # None: not said, then 2020-12, with the older spellings that cannot be misread
        if isinstance(root, dict) and "$schema" in root:
            self.draft = self._draft(root["$schema"])
        self.numbers = {"#": 0}  # path of each target → its number in `definitions`
        self.definitions: dict[str, Any] = {}
        self.in_place: dict[str, set[str]] = {}  # definition → those that hold for the very same value
        self.one_of: list[tuple[dict[str, Any], str]] = []
        self.combines = False  # whether several schemas may hold for one value
        self.multiples: defaultdict[str, list[Decimal]] = defaultdict(list)  # see property_of
        self.num_patterns: Counter[str] = Counter()
        self.num_converted = 0

    def prepared(self) -> dict[str, Any]:
        paths = [("#", self.root)]
        for number, (path, schema) in enumerate(paths):  # grows while it is walked
            name = str(number)
            self.in_place[name] = set()
            self.definitions[name] = self._convert(schema, path, name)
            for target in list(self.numbers)[len(paths) :]:
                paths.append((target, self._look_up(target)))
            if len(paths) > MAX_DEFINITIONS:
                raise InvalidParameter(self.param, f"$ref: more than {MAX_DEFINITIONS:,} definitions")
        if (endless := find_endless(self.in_place)) is not None:
            self._fail("$ref", paths[int(endless)][0], "it refers back to itself with nothing in between")
        if self.combines:
            self._check_combinations()
        are_disjoint = Disjointness(self.definitions)
        for schema, path in self.one_of:
            self._replace_one_of(schema, path, are_disjoint)
        if not has_instance(self.definitions):
            self._fail("required", "#", "no value that ends can satisfy the schema: what it requires contains itself")
        return {"$ref": "#/$defs/0", "$defs": self.definitions}

    def _check_combinations(self) -> None:
        """Limits what may hold together: for the properties of one name, and what may hold for any."""
        for group in {*self.multiples, *self.num_patterns}:
            factors = [*self.multiples[group], *(self.multiples["*"] if group != "*" else ())]
            if factors and least_common_multiple(factors) > MAX_FACTOR:
                raise InvalidParameter(
                    self.param,
                    f"multipleOf: the least common multiple of those that may hold together, without decimal point, is "
                    f"more than {MAX_FACTOR:,}",
                )
            if self.num_patterns[group] + (self.num_patterns["*"] if group != "*" else 0) > MAX_PATTERNS:
                raise InvalidParameter(
                    self.param,
                    f"pattern: more than {MAX_PATTERNS} of pattern and format may hold together",
                )

    def _convert(self, schema: Any, path: str, place: str | None) -> Any:
        """place: the definition that is about the same value as this schema; None below a property or an item."""
        self.num_converted += 1
        if self.num_converted > MAX_JSON_NODES:
            raise InvalidParameter(self.param, f"more than {MAX_JSON_NODES:,} schemas, counting each $ref's target")
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise InvalidParameter(self.param, f"expected a schema (an object, true or false) at {shortened(path)}")
        restricting = [name for name in schema if name not in ANNOTATIONS and name not in ("$schema", "$id", "id")]
        for name in ("$schema", "$id", "id"):
            if name in schema and path != "#":
                self._refuse(name, path, "it may stand at the top only")
        self.combines |= "allOf" in schema or (len(restricting) > 1 and bool(IN_PLACE & schema.keys()))
        if "$ref" in schema and len(restricting) > 1 and self.draft in (4, 6, 7):
            self._refuse("$ref", path, f"draft {self.draft} ignores the keywords beside it; put both into allOf")
        result: dict[str, Any] = {}
        for name in restricting:
            if name not in ENFORCED:
                self._refuse(name, path, ADVICE.get(name, "leave it out, or say it with: " + ", ".join(ENFORCED)))
            value, here = schema[name], f"{path}/{escape(name)}"
            if name in ("anyOf", "allOf", "oneOf", "$ref"):
                self._applicator(result, name, value, here, place)
            elif name in ("type", "enum", "const"):
                result[name] = self._plain(name, value, here)
            elif name in ("minLength", "maxLength"):
                result[name] = self._count(name, value, here, MAX_LENGTH)
            elif name in ("minItems", "maxItems", "minProperties", "maxProperties"):
                result[name] = self._count(name, value, here, MAX_ITEMS)
            elif name in ("pattern", "format"):
                self._expression(result, name, value, here)
            elif name in ("items", "prefixItems", "additionalItems"):
                self._items(result, name, value, here, schema)
            elif name in ("properties", "required", "additionalProperties", "patternProperties"):
                result[name] = self._object_keyword(name, value, here)
            else:
                self._bound(result, name, value, here, schema)
        self._check_min_properties(result, path)
        return result

    def _applicator(self, result: dict[str, Any], name: str, value: Any, path: str, place: str | None) -> None:
        if name == "$ref":
            target = self._target(value, path)
            number = str(self.numbers.setdefault(target, len(self.numbers)))
            if place is not None:
                self.in_place[place].add(number)
            result["$ref"] = f"#/$defs/{number}"
            return
        if not isinstance(value, list) or not value:
            self._fail(name, path, "expected a list of schemas that is not empty")
        parts = [self._convert(part, f"{path}/{i}", place) for i, part in enumerate(value)]
        if name == "allOf":
            result["allOf"] = [*result.get("allOf", []), *parts]  # `format` may have put one there
            return
        result[name] = parts
        if name == "oneOf":
            self.one_of.append((result, path))

    def _replace_one_of(self, schema: dict[str, Any], path: str, are_disjoint: Disjointness) -> None:
        parts = schema["oneOf"]
        for i, one in enumerate(parts):
            for j in range(i):
                if not are_disjoint(one, parts[j]):
                    self._refuse(
                        "oneOf",
                        path,
                        f"its parts {j} and {i} might both hold; make them differ in type or in a required constant, "
                        "or use anyOf",
                    )
        items = list(schema.items())
        schema.clear()
        for name, value in items:
            if name != "oneOf":
                schema.setdefault(name, []).extend(value) if name == "allOf" else schema.update({name: value})
            elif any(other == "anyOf" for other, _ in items):
                schema.setdefault("allOf", []).append({"anyOf": value})
            else:
                schema["anyOf"] = value

    def _plain(self, name: str, value: Any, path: str) -> Any:
        if name == "const":
            return self._value(value, path)
        if name == "enum":
            if not isinstance(value, list) or not 1 <= len(value) <= MAX_ENUM:
                self._fail(name, path, f"expected a list of 1 to {MAX_ENUM:,} values")
            return [self._value(item, f"{path}/{i}") for i, item in enumerate(value)]
        types = [value] if isinstance(value, str) else value
        if not isinstance(types, list) or not types or any(name not in TYPES for name in types):
            self._fail(name, path, f"expected one of {', '.join(TYPES)}, or a list of them")
        return list(dict.fromkeys(types))

    def _value(self, value: Any, path: str) -> Any:
        """A constant with its numbers as int and float."""
        if isinstance(value, dict):
            return {key: self._value(item, path) for key, item in value.items()}
        if isinstance(value, list):
            return [self._value(item, path) for item in value]
        return self._number(value, path) if isinstance(value, int | Decimal) and not isinstance(value, bool) else value

    def _number(self, value: Any, path: str) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise InvalidParameter(self.param, f"expected a number at {shortened(path)}")
        if (exact := exact_number(value)) is None:
            raise UnsupportedParameter(
                self.param, f"the number at {shortened(path)} cannot be enforced exactly; expected {EXACT_NUMBERS}"
            )
        return exact

    def _count(self, name: str, value: Any, path: str, most: int) -> int:
        count = whole_number(value)
        if count is None or not 0 <= count <= most:
            self._fail(name, path, f"expected a whole number from 0 to {most:,}")
        return count

    def _bound(self, result: dict[str, Any], name: str, value: Any, path: str, schema: dict[str, Any]) -> None:
        if isinstance(value, bool) and name.startswith("exclusive") and self.draft in (None, 4):
            limit = name.removeprefix("exclusive").lower()  # draft 4: it says how minimum and maximum are meant
            if limit not in schema:
                self._fail(name, path, f"true and false go with {limit}, which is not there")
            if value:
                result[name] = self._number(schema[limit], path)
            return
        result[name] = number = self._number(value, path)
        if name == "multipleOf":
            if number <= 0:
                self._fail(name, path, "expected a number above 0")
            exact = Decimal(str(number))
            self.multiples[property_of(path)].append(exact)
            if least_common_multiple([exact]) > MAX_FACTOR:
                self._fail(name, path, f"without its decimal point, expected at most {MAX_FACTOR:,}")

    def _expression(self, result: dict[str, Any], name: str, value: Any, path: str) -> None:
        if not isinstance(value, str):
            self._fail(name, path, "expected text")
        self.num_patterns[property_of(path)] += 1
        if name == "format":
            if value not in FORMATS:
                self._refuse(f"format: {value[:40]}", path, f"the formats are {', '.join(FORMATS)}")
            whole = _format(value)
        else:
            whole = self._pattern(value, path)
        expression = f"^(?:{whole})$"
        if "pattern" in result:
            result.setdefault("allOf", []).append({"pattern": expression})
        else:
            result["pattern"] = expression

    def _pattern(self, expression: str, path: str) -> str:
        return translate(expression, param=f"{self.param}: {shortened(path)}", search=True)

    def _items(self, result: dict[str, Any], name: str, value: Any, path: str, schema: dict[str, Any]) -> None:
        is_tuple = isinstance(schema.get("items"), list)
        if name == "prefixItems" and self.draft not in (None, 2020):
            self._refuse(name, path, f"draft {self.draft} does not have it; use items with a list")
        if name == "additionalItems" and not is_tuple:
            self._refuse(name, path, "it means something only beside items with a list")
        if name != "additionalItems" and is_tuple and (self.draft == 2020 or "prefixItems" in schema):
            self._refuse("items", path, "a list of schemas is called prefixItems since draft 2020-12")
        if name == "prefixItems" or (name == "items" and is_tuple):
            if not isinstance(value, list) or not 1 <= len(value) <= MAX_ITEMS:
                self._fail(name, path, f"expected a list of 1 to {MAX_ITEMS:,} schemas")
            result["prefixItems"] = [self._convert(part, f"{path}/{i}", None) for i, part in enumerate(value)]
        else:
            result["items"] = self._convert(value, path, None)

    def _object_keyword(self, name: str, value: Any, path: str) -> Any:
        if name == "additionalProperties":
            return self._convert(value, path, None)
        if name == "required":
            if not isinstance(value, list) or any(not isinstance(item, str) for item in value):
                self._fail(name, path, "expected a list of names")
            return list(dict.fromkeys(value))
        if not isinstance(value, dict):
            self._fail(name, path, "expected an object of schemas")
        if len(value) > MAX_PROPERTIES:
            self._fail(name, path, f"expected at most {MAX_PROPERTIES:,}")
        parts = {key: self._convert(part, f"{path}/{escape(key)}", None) for key, part in value.items()}
        if name == "properties":
            return parts
        patterns = {f"^(?:{self._pattern(key, path)})$": part for key, part in parts.items()}
        if len(patterns) < len(parts):
            self._fail(name, path, "two of the expressions are the same")
        return patterns

    def _check_min_properties(self, result: dict[str, Any], path: str) -> None:
        # Names beyond `properties` can come twice in an answer, and then count once.
        sure = len(result.get("required", ()))
        if result.get("minProperties", 0) > sure + 1:
            self._refuse(
                "minProperties", path, f"more than {sure + 1} cannot be enforced here; name the properties in required"
            )

    def _target(self, reference: Any, path: str) -> str:
        if not isinstance(reference, str):
            self._fail("$ref", path, "expected text")
        if reference != TOP and not reference.startswith("#/"):
            self._refuse(
                "$ref", path, "it may point inside the schema only, as in #/$defs/name; nothing is ever fetched"
            )
        target = normalised(reference)
        self._look_up(target)
        return target

    def _look_up(self, target: str) -> Any:
        try:
            return look_up(self.root, target)
        except KeyError:
            raise InvalidParameter(self.param, f"$ref: there is nothing at {shortened(target)}") from None

    def _draft(self, name: Any) -> int:
        known = DRAFTS.get(name.rstrip("#")) if isinstance(name, str) else None
        if known is None:
            self._refuse("$schema", "#", f"the dialects are {', '.join(DRAFTS)}")
        return known

    def _fail(self, keyword: str, path: str, reason: str) -> NoReturn:
        raise InvalidParameter(self.param, f"{keyword} at {shortened(path)}: {reason}")

    def _refuse(self, keyword: str, path: str, advice: str) -> NoReturn:
        raise UnsupportedParameter(
            self.param, f"the keyword {keyword[:60]!r} at {shortened(path)} cannot be enforced: {advice}"
        )


@cache
def _format(name: str) -> str:
    return translate(FORMATS[name], param="format", search=False)
