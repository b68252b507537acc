"""Tool definitions and the choice among them, in OpenAI's form: checked once, then trusted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.fields import boolean, show
from pellucid.text.unicode import valid_text

MAX_TOOLS = 128  # OpenAI's limit
MAX_NBYTES = 256 << 10
"""Longest JSON text of all tools together, in UTF-8."""
MAX_DEPTH = 64
MAX_NAME_LENGTH = 64

_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME_LENGTH}}}")
_FUNCTION_FIELDS = ("name", "description", "parameters", "strict", "return")

ToolChoice = str | Mapping[str, Any]
"""'auto', 'none', 'required', or {"type": "function", "function": {"name": …}}."""


@dataclass(frozen=True)
class Tool:
    """One function. `parameters` is the JSON schema of its arguments, `definition` the whole in OpenAI's form.

    strict: its arguments are to be held to the schema wherever it is called; False: nowhere, None: where it must be.
    place: what errors call it.
    """

    name: str
    parameters: dict[str, Any]
    definition: dict[str, Any]
    strict: bool | None = None
    place: str = "tools"


@dataclass(frozen=True)
class Toolbox:
    """The tools of one request and what the model may do with them.

    choice: "auto": it may call them; "required": it must; "named": it must call `tools[0]`, the only one left here.
    parallel: one answer may hold several calls.
    """

    tools: tuple[Tool, ...]
    choice: Literal["auto", "required", "named"] = "auto"
    parallel: bool = True
    by_name: dict[str, Tool] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {tool.name: tool for tool in self.tools})

    @property
    def forced(self) -> bool:
        """The answer is nothing but calls."""
        return self.choice != "auto"

    @property
    def constrained(self) -> bool:
        """A grammar sees to it that every call is one of these tools, and complete."""
        return self.forced or any(tool.strict for tool in self.tools)


def checked_toolbox(
    tools: Sequence[Mapping[str, Any]] | None, tool_choice: ToolChoice = "auto", parallel_tool_calls: bool = True
) -> tuple[tuple[Tool, ...], Toolbox | None]:
    """(All tools, what may be called): for the template and for the answer. The toolbox is None if nothing may be.

    Raises InvalidParameter and UnsupportedParameter, which name the field.
    """
    checked = checked_tools(tools)
    parallel = boolean("parallel_tool_calls", parallel_tool_calls)
    named = _named(tool_choice)
    if named is None and tool_choice not in ("auto", "none", "required"):
        raise InvalidParameter(
            "tool_choice",
            "expected 'auto', 'none', 'required' or "
            f'{{"type": "function", "function": {{"name": …}}}}, got {show(tool_choice)}',
        )
    if not checked:
        if tool_choice not in ("auto", "none"):
            raise InvalidParameter("tool_choice", "asks for a call, but no tools are given")
        return (), None
    if tool_choice == "none":
        return (), None
    if named is not None:
        chosen = [tool for tool in checked if tool.name == named]
        if not chosen:
            raise InvalidParameter("tool_choice", f"there is no tool named {show(named)}")
        return checked, Toolbox((chosen[0],), "named", parallel=False)
    return checked, Toolbox(checked, "required" if tool_choice == "required" else "auto", parallel)


def checked_tools(tools: Sequence[Mapping[str, Any]] | None) -> tuple[Tool, ...]:
    """Raises InvalidParameter and UnsupportedParameter, which name the field."""
    if tools is None:
        return ()
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        raise InvalidParameter("tools", f"expected a list of tools, got {show(tools)}")
    if len(tools) > MAX_TOOLS:
        raise InvalidParameter("tools", f"expected at most {MAX_TOOLS} tools, got {len(tools):,}")
    plain = _plain(list(tools))
    checked = tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(plain))
    seen: set[str] = set()
    for tool in checked:
        if tool.name in seen:
            raise InvalidParameter("tools", f"two of them are named {tool.name!r}")
        seen.add(tool.name)
    return checked


def _tool(tool: Any, name: str) -> Tool:
    if not isinstance(tool, dict) or not isinstance(tool.get("type", "function"), str):
        raise InvalidParameter(name, f'expected {{"type": "function", "function": {{…}}}}, got {show(tool)}')
    if tool.get("type", "function") != "function":
        raise UnsupportedParameter(f"{name}.type", f"{show(tool['type'])} is not supported; tools are functions")
    function = tool.get("function")
    if not isinstance(function, dict) or tool.keys() - {"type", "function"}:
        raise InvalidParameter(name, f'expected {{"type": "function", "function": {{…}}}}, got {show(tool)}')
    for key in function:
        if key not in _FUNCTION_FIELDS:
            raise InvalidParameter(f"{name}.function", f"{show(key)} is none of {', '.join(_FUNCTION_FIELDS)}")
    function_name = function.get("name")
    if not isinstance(function_name, str) or not _NAME.fullmatch(function_name):
        raise InvalidParameter(
            f"{name}.function.name",
            f"expected 1 to {MAX_NAME_LENGTH} letters, digits, underscores and dashes, got {show(function_name)}",
        )
    if not isinstance(function.get("description", ""), str | None):
        raise InvalidParameter(f"{name}.function.description", f"expected text, got {show(function['description'])}")
    if function.get("strict") is not None:
        boolean(f"{name}.function.strict", function["strict"])
    parameters = function.get("parameters")
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        raise InvalidParameter(
            f"{name}.function.parameters", f'expected a JSON schema with "type": "object", got {show(parameters)}'
        )
    if not isinstance(parameters.get("properties", {}), dict):
        raise InvalidParameter(f"{name}.function.parameters.properties", "expected an object of schemas by name")
    return Tool(
        function_name,
        parameters,
        {"type": "function", "function": {"description": "", **function, "parameters": parameters}},
        function.get("strict"),
        f"{name}.function",
    )


def _named(tool_choice: object) -> str | None:
    """The function that a {"type": "function", …} names."""
    if not isinstance(tool_choice, Mapping):
        return None
    function = tool_choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    if tool_choice.get("type") != "function" or not isinstance(name, str):
        raise InvalidParameter(
            "tool_choice", f'expected {{"type": "function", "function": {{"name": …}}}}, got {show(tool_choice)}'
        )
    return name


def _plain(tools: list[Any]) -> list[Any]:
    """A copy of JSON values. Its text is limited while it grows: shared parts make a small object an endless text."""
    pieces, length = [], 0
    try:
        for piece in json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_default).iterencode(tools):
            pieces.append(piece)
            length += len(piece)
            if length > MAX_NBYTES:
                raise InvalidParameter("tools", f"they have more than {MAX_NBYTES:,} bytes as JSON")
        text = valid_text("".join(pieces))
        _check_depth(text)
        copied: list[Any] = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        reason = "they are nested too deep" if isinstance(error, RecursionError) else str(error)
        raise InvalidParameter("tools", f"cannot be written as JSON: {reason[:200]}") from None
    return copied


def _default(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{show(value)} is not a JSON value")


def _check_depth(text: str) -> None:
    depth = 0
    for quoted, bracket in re.findall(r'("(?:[^"\\]|\\.)*")|([\[\]{}])', text):
        if not quoted:
            depth += 1 if bracket in "[{" else -1
            if depth > MAX_DEPTH:
                raise InvalidParameter("tools", f"are nested more than {MAX_DEPTH} deep")
