"""Structural tags: text, control tokens and JSON in a given order, as answers with tool calls have them.

The format is XGrammar's (which vLLM takes, too), as far as the table of elements in docs/structured-output.md goes:

    {"type": "structural_tag", "format": element}

An element becomes an expression of the Lark grammar for llguidance, free text a rule of its own. Every schema in it
goes through `prepare_schema` and every expression through `translate`, so that nothing is less than enforced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.structured.json_schema import prepare_schema
from pellucid.structured.json_text import parse_json
from pellucid.structured.limits import MAX_GRAMMAR_NBYTES
from pellucid.structured.regex import literal, translate

PARAM = "structural_tag"
_ANY = "(?s:.*)"

ELEMENTS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "const_string": (frozenset({"value"}), frozenset()),
    "token": (frozenset({"token"}), frozenset()),
    "json_schema": (frozenset({"json_schema"}), frozenset({"name"})),
    "regex": (frozenset({"pattern"}), frozenset()),
    "any_text": (frozenset(), frozenset()),
    "sequence": (frozenset({"elements"}), frozenset()),
    "or": (frozenset({"elements"}), frozenset()),
    "tag": (frozenset({"begin", "content", "end"}), frozenset()),
    "tags_with_separator": (frozenset({"tags", "separator"}), frozenset({"at_least_one", "stop_after_first"})),
    "triggered_tags": (frozenset({"triggers", "tags"}), frozenset({"at_least_one", "stop_after_first"})),
}
"""Type of an element to the fields that it needs and those that it may have."""

FindToken = Callable[[str], int | None]
"""The id of a token by its text; None if it is an ordinary one. Raises ValueError, which says why it cannot be used."""


def structural_tag_rules(text: str, find_token: FindToken, *, compact: bool) -> str:
    """Rules in Lark, with `start`. Raises InvalidParameter and UnsupportedParameter, which say where."""
    root = parse_json(text, param=PARAM)
    if not isinstance(root, dict) or root.get("type") != "structural_tag" or set(root) != {"type", "format"}:
        raise InvalidParameter(PARAM, 'expected {"type": "structural_tag", "format": {…}}')
    writer = _Writer(find_token, compact)
    start = writer.element(root["format"], "#/format")
    return "\n".join([f"start: {start}", *writer.rules]) + "\n"


class _Writer:
    """`path`: a JSON pointer to the element that is written, for messages."""

    def __init__(self, find_token: FindToken, compact: bool) -> None:
        self.rules: list[str] = []
        self._find_token = find_token
        self._compact = compact
        self._nbytes = 0

    def element(self, value: Any, path: str) -> str:
        kind = self._checked(value, path)
        if kind == "const_string":
            return self._const(value["value"], f"{path}/value")
        if kind == "token":
            return self._token(value["token"], f"{path}/token")
        if kind == "json_schema":
            return self._json(value, path)
        if kind == "regex":
            pattern = self._text(value["pattern"], f"{path}/pattern")
            return f"/{translate(pattern, param=f'{PARAM}: {path}/pattern', search=False)}/"
        if kind == "any_text":
            raise UnsupportedParameter(PARAM, f"any_text at {path} must be the content of a tag with an end")
        if kind in ("sequence", "or"):
            parts = [
                self.element(part, f"{path}/elements/{i}")
                for i, part in enumerate(self._list(value["elements"], f"{path}/elements"))
            ]
            return f"({(' ' if kind == 'sequence' else ' | ').join(parts)})"
        if kind == "tag":
            return f"({self._edge(value['begin'], f'{path}/begin')} {self._rest_of_tag(value, path)})"
        return self._separated(value, path) if kind == "tags_with_separator" else self._triggered(value, path)

    def _checked(self, value: Any, path: str) -> str:
        """The type of an element that has all fields it needs and no other."""
        kind = value.get("type") if isinstance(value, dict) else None
        if not isinstance(kind, str):
            self._fail(path, 'expected an element such as {"type": "const_string", "value": "…"}')
        if kind not in ELEMENTS:
            raise UnsupportedParameter(PARAM, f"the type {kind[:40]!r} at {path} is none of {', '.join(ELEMENTS)}")
        needed, more = ELEMENTS[kind]
        if not needed <= value.keys():
            self._fail(path, f"{kind} needs {', '.join(sorted(needed))}")
        for name in value.keys() - needed - more - {"type"}:
            raise UnsupportedParameter(PARAM, f"the field {name[:40]!r} of {kind} at {path} is not supported")
        for name in ("at_least_one", "stop_after_first"):
            if not isinstance(value.get(name, False), bool):
                self._fail(f"{path}/{name}", "expected true or false")
        return kind

    def _const(self, value: Any, path: str) -> str:
        text = self._text(value, path)
        return f"/{literal(text)}/" if text else '""'

    def _token(self, value: Any, path: str) -> str:
        text = self._text(value, path)
        try:
            token = self._find_token(text)
        except ValueError as error:
            self._fail(path, str(error))
        return f"/{literal(text)}/" if token is None else f"<[{token}]>"

    def _json(self, value: dict[str, Any], path: str) -> str:
        name = self._text(value.get("name", f"{PARAM}: {path}/json_schema"), f"{path}/name")
        schema = prepare_schema(value["json_schema"], param=name, compact=self._compact)
        self._nbytes += len(schema)
        if self._nbytes > MAX_GRAMMAR_NBYTES:
            raise InvalidParameter(
                PARAM, f"its schemas have more than {MAX_GRAMMAR_NBYTES:,} bytes with all references"
            )
        return f"%json {schema}"

    def _edge(self, value: Any, path: str) -> str:
        """A begin, an end or a separator."""
        if isinstance(value, dict):
            if self._checked(value, path) != "token":
                self._fail(path, "expected text, or an element of the type token")
            return self._token(value["token"], f"{path}/token")
        return self._const(value, path)

    def _rest_of_tag(self, tag: dict[str, Any], path: str) -> str:
        """Content and end."""
        content, end = tag["content"], tag["end"]
        if not isinstance(content, dict) or content.get("type") != "any_text":
            return f"{self.element(content, f'{path}/content')} {self._edge(end, f'{path}/end')}"
        self._checked(content, f"{path}/content")
        if not end:
            self._fail(f"{path}/end", "after any_text expected the text that ends it")
        return self._text_up_to(end, [end], f"{path}/end")

    def _text_up_to(self, end: Any, without: list[Any], path: str) -> str:
        """Free text and then `end`, with none of `without` before it."""
        edge = self._edge(end, path)
        free = f"/{_ANY}/ & ~/{_ANY}({'|'.join(self._spelt(other) for other in without)}){_ANY}/"
        name = f"text_{len(self.rules)}"
        if isinstance(end, dict):
            self.rules += [f"{name}: {name.upper()} {edge}", f"{name.upper()}: {free}"]
        else:
            self.rules += [f"{name}[lazy]: {name.upper()} {edge}", f"{name.upper()}: {free}"]
        return name

    def _spelt(self, edge: Any) -> str:
        """An expression for an edge written in ordinary characters: text may not look like a token either."""
        return literal(edge["token"] if isinstance(edge, dict) else edge)

    def _tags(self, value: dict[str, Any], path: str) -> list[tuple[dict[str, Any], str]]:
        tags = self._list(value["tags"], f"{path}/tags")
        for i, tag in enumerate(tags):
            if not isinstance(tag, dict) or self._checked({"type": "tag"} | tag, f"{path}/tags/{i}") != "tag":
                self._fail(f"{path}/tags/{i}", "expected a tag")
        return [({"type": "tag"} | tag, f"{path}/tags/{i}") for i, tag in enumerate(tags)]

    def _separated(self, value: dict[str, Any], path: str) -> str:
        one = "(" + " | ".join(self.element(tag, where) for tag, where in self._tags(value, path)) + ")"
        separator = self._edge(value["separator"], f"{path}/separator")
        many = one if value.get("stop_after_first") else f"({one} ({separator} {one})*)"
        return many if value.get("at_least_one") else f"{many}?"

    def _triggered(self, value: dict[str, Any], path: str) -> str:
        """Free text, in which only tags follow a trigger."""
        triggers = self._list(value["triggers"], f"{path}/triggers")
        for i, one in enumerate(triggers):
            for other in triggers[:i]:
                if _starts(one, other) or _starts(other, one):
                    self._fail(f"{path}/triggers/{i}", "one trigger is the beginning of another")
        rests: list[list[str]] = [[] for _ in triggers]
        for tag, where in self._tags(value, path):
            number = next((i for i, trigger in enumerate(triggers) if _starts(tag["begin"], trigger)), None)
            if number is None:
                self._fail(f"{where}/begin", "expected one that starts with a trigger")
            begin = "" if isinstance(tag["begin"], dict) else tag["begin"][len(triggers[number]) :]
            rests[number].append(f"{self._const(begin, where)} {self._rest_of_tag(tag, where)}")
        options = []
        for i, (trigger, rest) in enumerate(zip(triggers, rests, strict=True)):
            if not rest:
                self._fail(f"{path}/triggers/{i}", "no tag begins with it")
            options.append(f"{self._text_up_to(trigger, triggers, f'{path}/triggers/{i}')} ({' | '.join(rest)})")
        either = f"({' | '.join(options)})"
        spelt = "|".join(self._spelt(trigger) for trigger in triggers)
        name = f"REST_{len(self.rules)}"
        self.rules.append(f"{name}: /{_ANY}/ & ~/{_ANY}({spelt}){_ANY}/")
        if value.get("stop_after_first"):
            return either if value.get("at_least_one") else f"({either} | {name})"
        return f"({either}{'+' if value.get('at_least_one') else '*'} {name})"

    def _list(self, value: Any, path: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            self._fail(path, "expected a list that is not empty")
        return value

    def _text(self, value: Any, path: str) -> str:
        if not isinstance(value, str):
            self._fail(path, "expected text")
        return value

    def _fail(self, path: str, reason: str) -> NoReturn:
        raise InvalidParameter(PARAM, f"{path}: {reason}")


def _starts(begin: Any, trigger: Any) -> bool:
    """Whether `begin` starts with `trigger`; each is text or a token."""
    if isinstance(begin, str) and isinstance(trigger, str):
        return bool(trigger) and begin.startswith(trigger)
    return bool(begin == trigger)
