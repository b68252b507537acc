"""Splits a model's reasoning off its answer, where the template marks it."""

from __future__ import annotations

from dataclasses import dataclass

from pellucid.errors import InvalidParameter
from pellucid.fields import show


@dataclass(frozen=True)
class ReasoningFormat:
    """The markers around reasoning, which comes first in an answer."""

    name: str
    opener: str
    closer: str


REASONING_FORMATS = {
    format.name: format
    for format in (
        ReasoningFormat("think", "<think>", "</think>"),
        ReasoningFormat("mistral", "[THINK]", "[/THINK]"),
        ReasoningFormat("gemma4", "<|channel>thought", "<channel|>"),
    )
}


def detect_reasoning(template: str) -> ReasoningFormat | None:
    """The markers that the text of a chat template speaks of; None if it speaks of none."""
    return next((f for f in REASONING_FORMATS.values() if f.closer in template), None)


def reasoning_named(name: str) -> ReasoningFormat:
    """Raises InvalidParameter for a name there is none of."""
    if not isinstance(name, str) or name not in REASONING_FORMATS:
        known = ", ".join(REASONING_FORMATS)
        raise InvalidParameter("reasoning_parser", f"there is none named {show(name)}; there are {known}, and 'none'")
    return REASONING_FORMATS[name]


class ReasoningSplitter:
    """Cuts a growing text into reasoning and the rest; what may be the beginning of a marker waits.

    White space around the markers belongs to neither part. Reasoning that never ends is reasoning.

    open: the prompt has opened the reasoning already.
    """

    def __init__(self, format: ReasoningFormat, *, open: bool) -> None:
        self._opener, self._closer = format.opener, format.closer
        self._held = ""
        self._state = "opened" if open else "start"

    def feed(self, text: str, *, final: bool = False) -> tuple[str, str]:
        """(Reasoning, rest) that became certain."""
        if self._state == "done":
            return "", text
        text = self._held + text
        self._held = ""
        if self._state == "start":
            stripped = text.lstrip()
            if stripped.startswith(self._opener):
                text, self._state = stripped[len(self._opener) :], "opened"
            elif self._opener.startswith(stripped) and not final:
                self._held = text
                return "", ""
            else:
                self._state = "done"
                return "", text
        if self._state == "opened":  # white space after the opener
            text = text.lstrip()
            self._state = "reasoning" if text else "opened"
        if self._state == "closed":
            return self._after(text)
        reasoning, found, rest = text.partition(self._closer)
        if found:
            self._state = "closed"
            return reasoning.rstrip(), self._after(rest)[1]
        certain = text if final else text[: len(text) - held_length(text, (self._closer,))].rstrip()
        self._held = text[len(certain) :]
        return certain.rstrip(), ""

    def _after(self, text: str) -> tuple[str, str]:
        text = text.lstrip()
        self._state = "done" if text else "closed"
        return "", text


def held_length(text: str, markers: tuple[str, ...]) -> int:
    """How many of the last characters of `text` may be the beginning of a marker."""
    longest = max(map(len, markers), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        tail = text[-length:]
        if any(marker.startswith(tail) for marker in markers):
            return length
    return 0
