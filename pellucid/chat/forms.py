"""The form of an answer with tools: what a grammar lets the model write, as a structural tag (StructuredOutputs).

Calls are held to the schemas of their arguments where the choice is "required" or names a function, and where a tool is
strict. Reasoning may come first; another form that the caller asks for may stand in place of the calls.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pellucid.chat.call_styles import Element, Part, braces_call, const, either, sequence, xml_call
from pellucid.chat.formats import ToolFormat
from pellucid.chat.reasoning import ReasoningFormat
from pellucid.chat.tools import Tool, Toolbox
from pellucid.errors import InvalidParameter
from pellucid.structured_outputs import StructuredOutputs

_SPACE: Element = {"type": "regex", "pattern": r"[ \n]{0,4}"}
_NO_CALL_FIRST: Element = {"type": "regex", "pattern": r"(?s:[ \t\r\n]*([^{ \t\r\n].*)?)"}
_SAYS_MORE = frozenset({"additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"})
_WHOLE = ("grammar", "gbnf")  # forms that cannot be a part of another one

MAX_DEPTH = 36
"""Of the schemas that calls are held to: the form around them is nested, too, and has a limit of its own."""

MAX_STYLED = 16 << 10
"""Characters of schemas, as JSON, that are written in a style other than JSON: it makes three to four times as much."""


class FormWriter:
    """Writes the form of a turn's answers.

    special: the texts of the vocabulary's special tokens; a marker that is none of them is ordinary text. plain: the
    prompt asks for calls in JSON, whatever the style of the format. Many tools are called in JSON, too.
    """

    def __init__(
        self, format: ToolFormat | None, toolbox: Toolbox | None, special: Iterable[str], *, plain: bool
    ) -> None:
        self._format = format
        self._toolbox = toolbox
        self._special = frozenset(special)
        tools = () if toolbox is None else toolbox.tools
        self._plain = plain or sum(len(json.dumps(tool.parameters)) for tool in tools) > MAX_STYLED

    def form(
        self, own: StructuredOutputs | None, reasoning: ReasoningFormat | None, prompt: str
    ) -> StructuredOutputs | None:
        """What an answer to `prompt` must be; None: anything. `own` is what the caller asks for.

        Raises InvalidParameter for what does not go together.
        """
        thought = None if reasoning is None else self._thought(reasoning, prompt)
        if self._toolbox is None and own is not None and own.kind in _WHOLE and not _opens(reasoning, prompt):
            return own
        if thought is None and self._toolbox is None:
            return own
        body = self._body(own)
        if body is None:
            return own
        whole = body if thought is None else sequence(thought, body)
        form = StructuredOutputs(
            structural_tag={"type": "structural_tag", "format": whole},
            disable_any_whitespace=own is not None and own.disable_any_whitespace,
        )
        if own is not None:
            return form.asked_by(own.param)
        return form.asked_by("tool_choice" if self._toolbox is not None and self._toolbox.forced else "tools")

    def _body(self, own: StructuredOutputs | None) -> Element | None:
        """The answer without reasoning."""
        toolbox, format = self._toolbox, self._format
        if toolbox is None or format is None:
            return None if own is None else _element(own)
        if own is not None:
            if toolbox.forced:
                raise InvalidParameter("structured_outputs", "tool_choice asks for calls, which have their own form")
            return either(self._calls(toolbox, format), _element(own))
        if toolbox.forced:
            return self._calls(toolbox, format)
        return self._free(toolbox, format) if toolbox.constrained else None

    def _thought(self, reasoning: ReasoningFormat, prompt: str) -> Element | None:
        """Reasoning and its end; None if the prompt has ended it."""
        if prompt.rstrip().endswith(reasoning.closer):
            return None
        is_open = _opens(reasoning, prompt)
        begin = "" if is_open else self._edge(reasoning.opener)
        tag = {"type": "tag", "begin": begin, "content": {"type": "any_text"}, "end": self._edge(reasoning.closer)}
        thought = sequence(tag, _SPACE)
        return thought if is_open else either(const(""), thought)

    def _calls(self, toolbox: Toolbox, format: ToolFormat) -> Element:
        """One call, or several if they may be parallel, and nothing else."""
        calls = {
            "type": "tags_with_separator",
            "tags": [self._call(tool, toolbox, format) for tool in toolbox.tools],
            "separator": format.between,
            "at_least_one": True,
            "stop_after_first": not toolbox.parallel,
        }
        return self._sequence([*format.begin, calls, *format.end])

    def _free(self, toolbox: Toolbox, format: ToolFormat) -> Element:
        """Text in which a call may begin where the format's first marker stands; without one, at the very beginning."""
        if format.edge_openers:
            return either(self._calls(toolbox, format), _NO_CALL_FIRST)
        if format.begin:
            tags = [self._tag([format.begin[0], *self._calls(toolbox, format)["elements"][1:]])]
        else:
            tags = [self._call(tool, toolbox, format) for tool in toolbox.tools]
        return {
            "type": "triggered_tags",
            "triggers": [self._edge(format.openers[0])],
            "tags": tags,
            "stop_after_first": not toolbox.parallel,
        }

    def _call(self, tool: Tool, toolbox: Toolbox, format: ToolFormat) -> Element:
        """A tag: one call of `tool`."""
        held = tool.strict is not False if toolbox.forced else bool(tool.strict)
        schema = closed(tool.parameters) if held else {"type": "object"}
        name = f"{tool.place}.parameters"
        if _is_deep(schema, MAX_DEPTH):
            raise InvalidParameter(
                name, f"nested more than {MAX_DEPTH} deep, too deep for a grammar; strict: false allows it"
            )
        inside: list[Part] | None = None
        if not self._plain and format.style != "json":
            free: dict[str, Any] = {"properties": {key: {} for key in tool.parameters.get("properties", {})}}
            if format.style == "xml":
                inside = xml_call(tool.name, schema if held else free)
            else:
                inside = braces_call(tool.name, schema if held else free, self._edge(format.quote))
        if inside is not None:
            return self._tag([*format.before, *inside, *format.after])
        before, after = format.frame(tool.name)
        arguments = {"type": "json_schema", "json_schema": schema, "name": name}
        return self._tag([*before, arguments, *after])

    def _tag(self, parts: Sequence[Part]) -> Element:
        """Parts in a row, the first of which is text."""
        first, *rest = parts
        assert isinstance(first, str), "a call begins with text"
        return {"type": "tag", "begin": self._edge(first), "content": self._sequence(rest), "end": ""}

    def _sequence(self, parts: Sequence[Part]) -> Element:
        elements = [part if isinstance(part, dict) else self._marker(part) for part in parts]
        return elements[0] if len(elements) == 1 else sequence(*elements)

    def _marker(self, text: str) -> Element:
        return {"type": "token", "token": text} if text in self._special else const(text)

    def _edge(self, text: str) -> str | Element:
        return {"type": "token", "token": text} if text in self._special else text


def _opens(reasoning: ReasoningFormat | None, prompt: str) -> bool:
    """Whether an answer to `prompt` begins inside reasoning."""
    return reasoning is not None and prompt.rstrip().endswith(reasoning.opener)


def closed(parameters: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object with the arguments that a function declares, unless it says more about others."""
    schema = {"type": "object", **parameters}
    declared, required = list(parameters.get("properties", {})), parameters.get("required", [])
    if parameters.keys() & _SAYS_MORE or not isinstance(required, list) or any(r not in declared for r in required):
        return schema
    return {**schema, "additionalProperties": False}


def _is_deep(value: Any, depth: int) -> bool:
    """Whether it is nested more than `depth` deep."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth == 0 or any(_is_deep(item, depth - 1) for item in inside)


def _parsed(name: str, text: str) -> Any:
    """JSON that a caller has written. Raises InvalidParameter."""
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:100]
        raise InvalidParameter(name, f"it is not valid JSON: {reason}") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice in one object")
    return found


def _element(own: StructuredOutputs) -> Element:
    """The caller's own form as an element. Raises InvalidParameter for one that can only be a whole answer."""
    if own.structural_tag is not None:
        tag = _parsed(own.kind, str(own.structural_tag))
        if isinstance(tag, dict) and isinstance(tag.get("format"), dict):
            return dict(tag["format"])
    if own.json is not None or own.json_object:
        schema = {"type": "object"} if own.json is None else _parsed(own.kind, str(own.json))
        return {"type": "json_schema", "json_schema": schema, "name": own.kind}
    if own.regex is not None:
        return {"type": "regex", "pattern": own.regex}
    if own.choice is not None:
        return either(*map(const, own.choice))
    raise InvalidParameter(own.kind, "cannot stand beside tools or after reasoning (reasoning_parser='none' allows it)")
