"""Refuses regular expressions that could take exponential time on a user's text.

A model folder's tokenizer.json brings its own patterns, and the library runs them with a backtracking matcher.
"""

from __future__ import annotations

import re
from typing import Any

from pellucid.errors import UnsupportedModel

MAX_PATTERN_CHARS = 4096
_TOKEN = re.compile(
    r"""\\[pPxu]\{[^}]*\} | (?P<back>\\[1-9kg]) | \\. | \[(?:\\.|\[:\w+:\]|[^\]\\])*\]
    | \(\?[a-z-]*\) | (?P<open>\((?:\?(?:[a-z-]*:|<?[=!]|>|P?<\w+>))?) | (?P<close>\))
    | (?P<times>\{\d+\}) | (?P<repeat>[*+]|\{\d*,\d*\}) | (?P<choice>[|?]) | .""",
    re.DOTALL | re.VERBOSE,
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
                    f"tokenizer.json has the pattern {value[:80]!r}, which repeats a repetition or choice, refers "
                    f"back to a group or is longer than {MAX_PATTERN_CHARS} characters; some texts would take forever"
                )
            check_patterns(value)


def is_safe(pattern: str) -> bool:
    """Whether no group that can match one text in several ways is repeated, and no group is referred back to.

    The first is judged by what a group contains: a repetition (other than a fixed number of times), `|` or `?`. Some
    harmless patterns are refused with the others; none that a published tokenizer is known to use.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        return False
    outer = [False]  # for each open group: whether it contains a choice
    closed_chooses = False  # whether the item just read was a group that does
    for token in _TOKEN.finditer(pattern):
        if token["back"]:
            return False
        if token["open"]:
            if token["open"] == "(" and pattern.startswith("?", token.end()):
                return False  # a group of a kind that is not known here
            outer.append(False)
            closed_chooses = False
        elif token["close"]:
            if len(outer) == 1:
                return False
            closed_chooses = outer.pop()
            outer[-1] |= closed_chooses
        elif token["repeat"] or token["times"]:
            if closed_chooses:
                return False
            outer[-1] |= token["repeat"] is not None
        else:
            closed_chooses = False
            outer[-1] |= token["choice"] is not None
    return True
