"""Refuses regular expressions that could take exponential time on a user's text.

A model folder's tokenizer.json brings its own patterns, and the library runs them with a backtracking matcher.
"""

from __future__ import annotations

import re
from typing import Any

from pellucid.errors import UnsupportedModel

MAX_PATTERN_CHARS = 4096
_TOKEN = re.compile(
    r"\\[pPxu]\{[^}]*\}|\\.|\[(?:\\.|\[:\w+:\]|[^\]\\])*\]|(?P<open>\((?:\?[^:)(]*:?)?)|(?P<close>\))"
    r"|(?P<repeat>[*+]|\{\d*,\d*\}|\{\d+\})|.",
    re.DOTALL,
)


def check_patterns(component: Any) -> None:
    """Checks every {"Regex": …} inside a component of tokenizer.json. Raises UnsupportedModel."""
    if isinstance(component, list):
        for item in component:
            check_patterns(item)
    elif isinstance(component, dict):
        for key, value in component.items():
            if key == "Regex" and isinstance(value, str) and not is_safe(value):
                raise UnsupportedModel(
                    f"tokenizer.json has the pattern {value[:80]!r}, which repeats a repetition or is longer than "
                    f"{MAX_PATTERN_CHARS} characters; some texts would take it forever"
                )
            check_patterns(value)


def is_safe(pattern: str) -> bool:
    """Whether no group that contains a repetition is repeated itself."""
    if len(pattern) > MAX_PATTERN_CHARS:
        return False
    outer = [False]  # for each open group: whether it contains a repetition
    closed_repeats = False  # whether the item just read was a group that does
    for token in _TOKEN.finditer(pattern):
        if token["open"]:
            outer.append(False)
            closed_repeats = False
        elif token["close"]:
            if len(outer) == 1:
                return False
            closed_repeats = outer.pop()
            outer[-1] |= closed_repeats
        elif token["repeat"]:
            if closed_repeats:
                return False
            outer[-1] = True
        else:
            closed_repeats = False
    return True
