"""Body: the fields of a JSON object that a client sent, taken one by one with their types checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pellucid import fields
from pellucid.errors import InvalidParameter
from pellucid.fields import refuse_unknown, show

MAX_ITEMS = 2048
MAX_SALT_CHARS = 256
"""Most texts, documents or prompts in one request."""


class Body:
    """A field that is null counts as not given. Everything raises InvalidParameter, which names the field."""

    def __init__(self, given: Mapping[str, Any], known: Collection[str], planned: frozenset[str] = frozenset()) -> None:
        """Raises UnsupportedParameter, too, for a name in `planned`."""
        self._given = {name: value for name, value in given.items() if value is not None}
        refuse_unknown(self._given, known, planned, "field")

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def required(self, name: str) -> Any:
        if name not in self._given:
            raise InvalidParameter(name, "is missing")
        return self._given[name]

    def value(self, name: str, default: Any = None) -> Any:
        return self._given.get(name, default)

    def text(self, name: str, default: str | None = None) -> str:
        value = self.required(name) if default is None else self._given.get(name, default)
        if not isinstance(value, str):
            raise InvalidParameter(name, f"expected text, got {show(value)}")
        return value

    def filled_text(self, name: str) -> str:
        """Text that is not empty."""
        text = self.text(name)
        if not text:
            raise InvalidParameter(name, "expected text that is not empty")
        return text

    def optional_text(self, name: str) -> str | None:
        return self.text(name) if name in self._given else None

    def boolean(self, name: str, default: bool) -> bool:
        return fields.boolean(name, self._given.get(name, default))

    def integer(self, name: str, low: int, high: int) -> int | None:
        return fields.integer(name, self._given[name], low, high) if name in self._given else None

    def one_of(self, name: str, choices: Collection[str], default: str) -> str:
        value = self._given.get(name, default)
        if not isinstance(value, str) or value not in choices:
            raise InvalidParameter(name, f"expected one of {', '.join(choices)}, got {show(value)}")
        return value

    def items(self, name: str) -> list[Any]:
        """A list of 1 to MAX_ITEMS values."""
        value = self.required(name)
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_ITEMS:
            raise InvalidParameter(name, f"expected a list of 1 to {MAX_ITEMS} values, got {show(value)}")
        return value

    def texts(self, name: str) -> list[str]:
        """One text, or a list of them."""
        value = self.required(name)
        texts = [value] if isinstance(value, str) else self.items(name)
        for text in texts:
            if not isinstance(text, str) or not text:
                raise InvalidParameter(name, f"expected text that is not empty, got {show(text)}")
        return texts

    def prompts(self, name: str) -> list[Any]:
        """One text, one list of token ids, or a list of either; none of them empty."""
        found = prompts(name, self.required(name))
        if not all(found):
            raise InvalidParameter(name, "expected text or token ids, got nothing")
        return found


def checked_salt(value: Any) -> str:
    """Of `cache_salt`."""
    if not isinstance(value, str) or len(value) > MAX_SALT_CHARS:
        raise InvalidParameter("cache_salt", f"expected text of at most {MAX_SALT_CHARS} characters, got {show(value)}")
    return value


def prompts(name: str, value: Any) -> list[Any]:
    """A text, a list of token ids, or a list of either, as a list of prompts. The ids are checked by the engine."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise InvalidParameter(name, f"expected text, token ids, or a list of either, got {show(value)}")
    found: list[Any] = value if isinstance(value[0], str | list) else [value]
    if len(found) > MAX_ITEMS:
        raise InvalidParameter(name, f"expected at most {MAX_ITEMS} of them, got {len(found)}")
    for prompt in found:
        if isinstance(prompt, str):
            continue
        if not isinstance(prompt, list) or not all(
            type(token) is int and -(2**31) <= token < 2**31 for token in prompt
        ):
            raise InvalidParameter(name, "expected text, token ids (integers), or a list of either")
    return found
