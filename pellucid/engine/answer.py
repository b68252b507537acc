"""The text of an answer as it grows: detokenised, searched for what stops it, and released only when it is certain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pellucid.stop_regex import RegexMatcher, compile_stop_regex


class TokenDecoder(Protocol):
    """Turns token ids into text piece by piece (`pellucid.text.detokenizer.Detokenizer`)."""

    def add(self, ids: Sequence[int]) -> str: ...

    def finish(self) -> str: ...


class AnswerText:
    """`text` is what may be shown: it ends before anything that may turn out to be the beginning of a stop string, or
    of a match of one of `expressions`.

    Both are matched on text, across token boundaries. The match that is completed first counts (of two completed by
    the same character the longer one), so how the text was cut into tokens makes no difference.
    """

    def __init__(
        self,
        decoder: TokenDecoder,
        stops: Sequence[str] = (),
        expressions: Sequence[str] = (),
        *,
        include_stop: bool = False,
        echo: str = "",
    ) -> None:
        """`echo` is text that comes before the answer's; nothing is looked for in it."""
        self.text = echo
        self._decoder = decoder
        self._include_stop = include_stop
        self._matchers: list[_Matcher | RegexMatcher] = [_Matcher(stop) for stop in stops]
        self._matchers += [RegexMatcher(compile_stop_regex(expression)) for expression in expressions]
        self._held = ""

    def add(self, token: int, *, may_stop: bool = True) -> str | None:
        """Add a token of the answer; the stop string or expression that it completed, if any. Nothing may be added
        after that.

        Without `may_stop` what is completed is ordinary text.
        """
        piece = self._decoder.add([token])
        if not self._matchers:
            self._release(piece)
            return None
        for end, char in enumerate(piece, start=1):
            completed = {m.stop: length for m in self._matchers if (length := m.advance(char))}
            if completed and may_stop:
                stop = max(completed, key=completed.__getitem__)
                text = self._held + piece[:end]
                self._release(text if self._include_stop else text[: len(text) - completed[stop]])
                return stop
        text = self._held + piece
        certain = len(text) - max(m.length for m in self._matchers)
        self._release(text[:certain])
        self._held = text[certain:]
        return None

    def finish(self) -> None:
        """The answer ended without a stop string: release what was held back, and any incomplete character."""
        self._release(self._held + self._decoder.finish())

    def _release(self, text: str) -> None:
        self.text += text
        self._held = ""


class _Matcher:
    """`length` is the longest beginning of `stop` that the text so far ends with (Knuth, Morris and Pratt 1977)."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.length = 0
        self._fallback = [0, 0]  # [n]: the longest proper beginning of stop[:n] that is also its end
        for n in range(1, len(stop)):
            length = self._fallback[n]
            while length and stop[n] != stop[length]:
                length = self._fallback[length]
            self._fallback.append(length + (stop[n] == stop[length]))

    def advance(self, char: str) -> int:
        """Take one more character; the length of the stop string when this completes it, else 0."""
        while self.length and self.stop[self.length] != char:
            self.length = self._fallback[self.length]
        self.length += self.stop[self.length] == char
        if self.length < len(self.stop):
            return 0
        self.length = self._fallback[self.length]
        return len(self.stop)
