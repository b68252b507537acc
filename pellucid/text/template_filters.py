"""The filters that chat templates may use: jinja2's, from a closed list, each charged for what it makes.

Left out are those that no chat template needs and that add width, randomness or HTML. `tojson` writes JSON as
transformers does, not the HTML-safe kind that jinja2 has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

from jinja2 import Environment, pass_environment
from jinja2.filters import FILTERS, make_attrgetter

from pellucid.text.template_limits import MAX_RANGE, Budget, LimitExceeded, check_format, check_width

_PLAIN = [
    "abs",
    "attr",
    "capitalize",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "groupby",
    "int",
    "items",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "reverse",
    "safe",
    "select",
    "selectattr",
    "sort",
    "string",
    "title",
    "trim",
    "unique",
    "upper",
    "wordcount",
]


def template_filters(budget: Callable[[], Budget]) -> dict[str, Callable[..., Any]]:
    """All filters by name. `budget` finds the budget of the render under way."""

    def replace(value: Any, old: str, new: str, count: int | None = None) -> str:
        charge_for_replace(budget(), str(value), str(old), str(new), count)
        return str(value).replace(str(old), str(new), -1 if count is None else count)

    @pass_environment
    def join(environment: Environment, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        if attribute is not None:
            value = map(make_attrgetter(environment, attribute), value)
        return charged_join(budget(), str(d), value)

    def indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        check_width("indent", width)
        text = str(value)
        budget().charge(len(text) + (text.count("\n") + 1) * (len(width) if isinstance(width, str) else width))
        result: str = FILTERS["indent"](text, width, first, blank)
        return result

    def batch(value: Iterable[Any], linecount: int, fill_with: Any = None) -> Iterator[list[Any]]:
        check_width("batch", linecount, MAX_RANGE)
        result: Iterator[list[Any]] = FILTERS["batch"](value, linecount, fill_with)
        return result

    def round_(value: float, precision: int = 0, method: Any = "common") -> float:
        check_width("round", precision, 100)
        result: float = FILTERS["round"](value, precision, method)
        return result

    def format_(value: Any, *args: Any, **kwargs: Any) -> str:
        check_format(str(value))
        result: str = FILTERS["format"](value, *args, **kwargs)
        return result

    @pass_environment
    def sum_(environment: Environment, value: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
        if not isinstance(start, int | float):
            raise LimitExceeded("added up values that are not numbers")
        return FILTERS["sum"](environment, value, attribute, start)

    functions = {name: FILTERS[name] for name in _PLAIN}
    functions |= {"replace": replace, "join": join, "indent": indent, "batch": batch, "tojson": _tojson}
    functions |= {"round": round_, "format": format_, "sum": sum_}
    return {name: _measured(function, budget) for name, function in functions.items()}


def charge_for_replace(budget: Budget, text: str, old: str, new: str, count: int | None = None) -> None:
    times = text.count(old) if count is None or count < 0 else min(text.count(old), count)
    budget.charge(len(text) + times * max(0, len(new) - len(old)))


def charged_join(budget: Budget, separator: str, values: Iterable[Any]) -> str:
    texts = []
    for value in values:
        texts.append(str(value))
        budget.charge(len(texts[-1]) + len(separator))
    return separator.join(texts)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    for argument in (indent, *(separators or ())):
        check_width("tojson", argument, 16)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _measured(function: Callable[..., Any], budget: Callable[[], Budget]) -> Callable[..., Any]:
    @wraps(function)  # also copies the mark of functions that want the environment or the context
    def measured(*args: Any, **kwargs: Any) -> Any:
        running = budget()
        running.tick()
        result = function(*args, **kwargs)
        return _ticking(result, running) if isinstance(result, Iterator) else running.measure(result)

    return measured


def _ticking(values: Iterator[Any], budget: Budget) -> Iterator[Any]:
    for value in values:
        budget.tick()
        yield value
