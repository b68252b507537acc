"""How much a chat template may do, and the measures that hold it to that.

Whatever a template does that can take time or memory is charged to the `Budget` of its render: loop rounds, calls and
filters look at the clock; strings and containers are charged for their size, before they are made where their size can
be told. Numbers, strings and containers also have a limit each. A container's weight counts all it holds as often as
it holds it, so lists that contain one another twice (40 levels of which are 10^12 items when printed) are caught.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

MAX_SECONDS = 1.0
MAX_CHARS = 4 << 20  # of a prompt, and of every string on the way to it
MAX_TOTAL = 32 << 20  # characters and items that one render may make in all
MAX_WEIGHT = 8 << 20  # of a container: 1 an item, and the characters of its strings
MAX_RANGE = 100_000
MAX_INT_BITS = 4096
MAX_WIDTH = 1000  # spaces, digits and the like that a filter is asked to add

_WIDE_FORMAT = re.compile(r"\d{4}|\*")


class LimitExceeded(Exception):
    """The template did more than it may. The message says which limit, as the end of "the chat template …"."""


class Budget:
    """What is left of one render's time and size."""

    def __init__(self, seconds: float = MAX_SECONDS) -> None:
        self._deadline = time.monotonic() + seconds
        self._left = MAX_TOTAL

    def tick(self) -> None:
        if time.monotonic() > self._deadline:
            raise LimitExceeded(f"ran for more than {MAX_SECONDS:g} s")

    def charge(self, size: int) -> None:
        """For a string or container of `size` that is made or about to be."""
        self.tick()
        if size > MAX_CHARS:
            raise LimitExceeded(f"made a string or list of {size:,} elements; the limit is {MAX_CHARS:,}")
        self._left -= size
        if self._left < 0:
            raise LimitExceeded(f"made strings and lists of more than {MAX_TOTAL:,} elements in all")

    def measure(self, value: Any) -> Any:
        """Charges for a value that was just made, and returns it."""
        if isinstance(value, str):
            self.charge(len(value))
        elif isinstance(value, list | tuple | dict | set):
            self.charge(len(value))
            if weight(value) > MAX_WEIGHT:
                raise LimitExceeded(f"made a list or dict that holds more than {MAX_WEIGHT:,} items and characters")
        elif isinstance(value, int) and value.bit_length() > MAX_INT_BITS:
            raise LimitExceeded(f"made a number of more than {MAX_INT_BITS} bits")
        else:
            self.tick()
        return value


def weight(value: Any) -> int:
    """Everything in `value`, counted until it is clear that it is too much."""
    total = 0
    pending = [value]
    while pending and total <= MAX_WEIGHT:
        item = pending.pop()
        if isinstance(item, str):
            total += 1 + len(item)
        elif isinstance(item, Mapping):
            total += 1 + len(item)
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, list | tuple | set):
            total += 1
            pending.extend(item)
        else:
            total += 1
    return total


def charge_for_operator(budget: Budget, operator: str, left: Any, right: Any) -> None:
    """Charges for `left operator right` before it is computed."""
    if operator == "%" and isinstance(left, str):
        check_format(left)
    elif operator == "**":
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > MAX_INT_BITS:
            raise LimitExceeded(f"made a number of more than {MAX_INT_BITS} bits")
    elif operator == "*":
        for sequence, count in ((left, right), (right, left)):
            if isinstance(sequence, str | list | tuple) and isinstance(count, int):
                budget.charge(len(sequence) * max(count, 0))
                return
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > MAX_INT_BITS:
            raise LimitExceeded(f"made a number of more than {MAX_INT_BITS} bits")
    elif isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
        budget.charge(len(left) + len(right))


def check_format(format: str) -> None:
    """Refuses a %-format that asks for very wide fields."""
    if _WIDE_FORMAT.search(format):
        raise LimitExceeded("used a format with a width of four digits, or one given by an argument")


def check_width(what: str, value: Any, most: int = MAX_WIDTH) -> None:
    """Refuses an argument (a number, or a text to be repeated) that makes a filter's result very large."""
    size = len(value) if isinstance(value, str) else value
    if isinstance(size, int) and abs(size) > most:
        raise LimitExceeded(f"called {what} with {size:,}; the limit is {most:,}")
