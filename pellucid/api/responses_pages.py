"""Pages of a response's input items. Source: OpenAI API reference, "List input items"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pellucid.api.responses_schemas import DEFAULT_PAGE, MAX_PAGE
from pellucid.api.sampling_schema import Schema, integer, text
from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.fields import show

PAGE: dict[str, Schema] = {
    "order": {"enum": ["asc", "desc"], "default": "desc", "description": "as they were given, or the last one first"},
    "limit": integer(1, MAX_PAGE, "most items at once", default=DEFAULT_PAGE),
    "after": text("the id of an item: those behind it"),
}
"""What may stand in the query."""


@dataclass(frozen=True)
class Page:
    """At most `limit` items, behind the one named `after` if any, in the order asked for."""

    descending: bool
    limit: int
    after: str | None

    def of(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Raises InvalidParameter where there is no item `after`."""
        ordered = items[::-1] if self.descending else items
        ids = [item["id"] for item in ordered]
        if self.after is not None and self.after not in ids:
            raise InvalidParameter("after", f"there is no item {show(self.after)}")
        first = 0 if self.after is None else ids.index(self.after) + 1
        data = ordered[first : first + self.limit]
        return {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": first + self.limit < len(ordered),
        }


def parse_page(query: Mapping[str, str]) -> Page:
    """What the query of a path asks for. Raises InvalidParameter and UnsupportedParameter."""
    for name in query:
        if name not in PAGE:
            raise UnsupportedParameter(name[:80], f"is not supported; known are {', '.join(PAGE)}")
    order, limit = query.get("order", "desc"), query.get("limit", str(DEFAULT_PAGE))
    if order not in ("asc", "desc"):
        raise InvalidParameter("order", f"expected asc or desc, got {show(order)}")
    if not (limit.isascii() and limit.isdecimal() and len(limit) <= 3 and 1 <= int(limit) <= MAX_PAGE):
        raise InvalidParameter("limit", f"expected an integer from 1 to {MAX_PAGE}, got {show(limit)}")
    return Page(order == "desc", int(limit), query.get("after"))
