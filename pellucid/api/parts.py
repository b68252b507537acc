"""Parts: nested objects of a body, read strictly. Everything raises InvalidParameter, which names the place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from pellucid.errors import InvalidParameter
from pellucid.fields import show


class Part:
    """One object at `place`. Fields are taken; `done` refuses what is left."""

    def __init__(self, place: str, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise InvalidParameter(place, f"expected an object, got {show(value)}")
        self.place = place
        self._left = dict(value)

    def text(self, name: str, default: str | None = None) -> str:
        """Without `default` it must be there."""
        found: str = self._typed(name, str, "text", default)
        return found

    def boolean(self, name: str, default: bool) -> bool:
        found: bool = self._typed(name, bool, "true or false", default)
        return found

    def object(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._typed(name, dict, "an object", None)
        return found

    def one_of(self, name: str, choices: Collection[str]) -> str:
        value = self.text(name)
        if value not in choices:
            raise InvalidParameter(f"{self.place}.{name}", f"expected one of {', '.join(choices)}, got {show(value)}")
        return value

    def value(self, name: str) -> Any:
        """None if it is not there."""
        return self._left.pop(name, None)

    def without(self, *names: str) -> None:
        """These change nothing here, whatever they say."""
        for name in names:
            self._left.pop(name, None)

    def done(self) -> None:
        for name in self._left:
            raise InvalidParameter(f"{self.place}.{name[:80]}", "there is no such field; remove it")

    def _typed(self, name: str, kind: type, what: str, default: Any) -> Any:
        value = self._left.pop(name, None)
        if value is None and default is not None:
            return default
        if not isinstance(value, kind):
            found = "is missing" if value is None else f"expected {what}, got {show(value)}"
            raise InvalidParameter(f"{self.place}.{name}", found)
        return value


def texts(place: str, value: Any, read: Callable[[Part, str], str]) -> str:
    """Text, or a list of parts that `read` (given its type) makes text of, as one text."""
    if isinstance(value, str):
        return value
    return "".join(read(part, part.text("type")) for part in parts(place, value))


def parts(place: str, value: Any) -> list[Part]:
    if not isinstance(value, list):
        raise InvalidParameter(place, f"expected text or a list of objects, got {show(value)}")
    return [Part(f"{place}[{i}]", item) for i, item in enumerate(value)]
