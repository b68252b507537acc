"""Checks and copies what a caller gives a chat template: only plain JSON values get in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.text.unicode import valid_text

MAX_DEPTH = 64
MAX_ROLE_CHARS = 64


def checked_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A copy of `messages` with text content. Raises InvalidParameter and UnsupportedParameter naming the field.

    Content that is a list of {"type": "text", "text": …} parts becomes their text, a line break between two parts.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise InvalidParameter(
            "messages", "expected a list of one or more messages, each an object with role and content"
        )
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def plain_value(value: Any, name: str, depth: int = 0) -> Any:
    """A copy of a JSON value with valid Unicode. Raises InvalidParameter for any other kind of object."""
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, str):
        return valid_text(str(value))
    if depth >= MAX_DEPTH:
        raise InvalidParameter(name, f"is nested more than {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise InvalidParameter(name, "has a key that is not a string")
        return {valid_text(key): plain_value(item, f"{name}.{key[:40]}", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item, f"{name}[{index}]", depth + 1) for index, item in enumerate(value)]
    raise InvalidParameter(
        name, f"is a {type(value).__name__}; expected text, numbers, true, false, null, lists or objects"
    )


def _message(message: Any, name: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidParameter(name, f"is a {type(message).__name__}, expected an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or not 0 < len(role) <= MAX_ROLE_CHARS:
        raise InvalidParameter(f"{name}.role", f"expected text of 1 to {MAX_ROLE_CHARS} characters, such as 'user'")
    content = message.get("content")
    if content is None and not message.get("tool_calls"):
        raise InvalidParameter(f"{name}.content", "is missing; only a message with tool_calls may have none")
    copied: dict[str, Any] = plain_value({key: value for key, value in message.items() if key != "content"}, name)
    if "content" in message:
        copied["content"] = _content(content, f"{name}.content")
    return copied


def _content(content: Any, name: str) -> str | None:
    if content is None:
        return None
    if isinstance(content, str):
        return valid_text(content)
    if not isinstance(content, list | tuple):
        raise InvalidParameter(name, f"is a {type(content).__name__}, expected text or a list of parts")
    return "\n".join(_part(part, f"{name}[{index}]") for index, part in enumerate(content))


def _part(part: Any, name: str) -> str:
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        raise InvalidParameter(name, 'expected an object such as {"type": "text", "text": "…"}')
    if part["type"] != "text":
        raise UnsupportedParameter(
            f"{name}.type", f"{part['type'][:40]!r} is not supported; this model reads only 'text'"
        )
    if not isinstance(part.get("text"), str):
        raise InvalidParameter(f"{name}.text", "is missing or not text")
    return valid_text(part["text"])
