"""Checks for the numbers and names that a caller hands in: finite, in range, never a bool or NaN."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from math import inf
from numbers import Integral, Real

from pellucid.errors import InvalidParameter, UnsupportedParameter


def integer(name: str, value: object, low: int, high: int) -> int:
    """`value` as an int in [low, high]; NumPy integers are accepted. Raises InvalidParameter."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidParameter(name, f"expected an integer, got {show(value)}")
    if not low <= int(value) <= high:
        raise InvalidParameter(name, f"expected an integer from {low} to {high}, got {show(value)}")
    return int(value)


def real(name: str, value: object, low: float, high: float, *, open_low: bool = False) -> float:
    """`value` as a finite float in [low, high], or in (low, high] with `open_low`. Raises InvalidParameter."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidParameter(name, f"expected a number, got {show(value)}")
    try:
        number = float(value)
    except OverflowError:  # a huge integer
        number = inf
    if not low <= number <= high or (open_low and number == low):  # NaN fails every comparison
        bounds = f"above {low:g} and at most {high:g}" if open_low else f"from {low:g} to {high:g}"
        raise InvalidParameter(name, f"expected a number {bounds}, got {show(value)}")
    return number


def boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidParameter(name, f"expected True or False, got {show(value)}")
    return value


def refuse_unknown(given: Iterable[str], known: Iterable[str], planned: frozenset[str], what: str) -> None:
    """Raise for a keyword that is not in `known`: UnsupportedParameter if it has a meaning elsewhere (`planned`)."""
    known = list(known)
    for name in given:
        if name in known:
            continue
        if name in planned:
            raise UnsupportedParameter(
                name, f"this {what} is not supported yet; remove it (supported: {', '.join(known)})"
            )
        close = get_close_matches(name, known, n=1) if len(name) <= 64 else []
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        short = name if len(name) <= 80 else f"{name[:77]}…"
        raise InvalidParameter(short, f"there is no {what} of this name; {hint}")


def show(value: object) -> str:
    """`value` for an error message: short, on one line, whatever it is."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '…'} ({type(value).__name__})"
