"""Numbers of a JSON schema, which must stay exactly what they are when they become binary floats of 64 bits."""

from __future__ import annotations

from decimal import Decimal
from math import lcm
from typing import Any

from pellucid.structured.limits import MAX_NUMBER, MIN_NUMBER

EXACT_NUMBERS = f"0, a whole number up to 2^53, or one from {MIN_NUMBER:g} with at most 15 digits"
_MAX_DIGITS = 15  # that many digits of any number survive a 64-bit float


def exact_number(value: int | Decimal) -> int | float | None:
    """`value` as int or float, or None where it is not one of EXACT_NUMBERS."""
    exact = Decimal(value)
    digits = exact.as_tuple().digits
    if len(digits) > 40 or (exact and not (-16 < exact.adjusted() < 17 and MIN_NUMBER <= abs(exact) <= MAX_NUMBER)):
        return None
    if exact == exact.to_integral_value():
        return int(exact)
    if len("".join(map(str, digits)).strip("0")) > _MAX_DIGITS:
        return None
    return float(exact)


def whole_number(value: Any) -> int | None:
    """`value` as int where it is a whole number of a moderate size, else None; 2.0 is whole in JSON Schema."""
    if isinstance(value, Decimal) and -9 < value.adjusted() < 9 and value == value.to_integral_value():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def least_common_multiple(numbers: list[Decimal]) -> int:
    """In units of the last decimal place that any of `numbers` has."""
    places = max(max(0, -int(number.normalize().as_tuple().exponent)) for number in numbers)
    return lcm(*(int(number.scaleb(places)) for number in numbers))
