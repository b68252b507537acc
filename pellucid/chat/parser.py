"""AnswerParser: the growing text of an answer, cut anywhere, to content, reasoning and tool calls.

A call is reported when all of it is there, it is sound and it names one of the tools; anything else is content, so no
text is lost. Only where a grammar sees to it that calls are sound are they reported as they grow. What may be the
beginning of a call waits until that is clear, and white space waits with it: around a call it is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pellucid.chat.calls import Delta, ToolCall, ToolCallDelta, call_id
from pellucid.chat.formats import ToolFormat
from pellucid.chat.readers import SPACE, Block, ParsedCall, Reader
from pellucid.chat.reasoning import ReasoningFormat, ReasoningSplitter, held_length
from pellucid.chat.scan import Malformed
from pellucid.chat.tools import Toolbox

_SLICE = 4096


class AnswerParser:
    """Feed it the text in pieces; `content`, `reasoning` and `tool_calls` are what has become certain so far.

    The deltas join to these, and they do not depend on how the text was cut. key: see `calls.answer_key`.
    """

    def __init__(
        self,
        key: bytes,
        *,
        format: ToolFormat | None = None,
        toolbox: Toolbox | None = None,
        reasoning: ReasoningFormat | None = None,
        reasoning_open: bool = False,
    ) -> None:
        self.content = ""
        self.reasoning = ""
        self.tool_calls: list[ToolCall] = []
        self._key = key
        self._splitter = None if reasoning is None else ReasoningSplitter(reasoning, open=reasoning_open)
        self._format = format
        self._calls = None if format is None or toolbox is None else _CallFinder(format, toolbox)

    def feed(self, text: str, *, final: bool = False) -> Delta:
        """What `text` adds. With `final` it is the last piece, and nothing waits any longer."""
        reasoning = ""
        if self._splitter is not None:
            reasoning, text = self._splitter.feed(text, final=final)
        content, calls = text, []
        if self._calls is not None:
            content = ""
            for piece in self._calls.feed(text, final):
                if isinstance(piece, str):
                    content += piece
                else:
                    calls.append(self._add(piece))
        self.content += content
        self.reasoning += reasoning
        return Delta(content, reasoning, tuple(calls))

    def _add(self, piece: _Piece) -> ToolCallDelta:
        if piece.name is None:
            last = self.tool_calls[-1]
            self.tool_calls[-1] = replace(last, arguments=last.arguments + piece.arguments)
            return ToolCallDelta(len(self.tool_calls) - 1, None, None, piece.arguments)
        index = len(self.tool_calls)
        id = call_id(self._key, index, short=self._format is not None and self._format.short_ids)
        self.tool_calls.append(ToolCall(id, piece.name, piece.arguments))
        return ToolCallDelta(index, id, piece.name, piece.arguments)


@dataclass(frozen=True)
class _Piece:
    """A new call, or with `name` None more of the arguments of the last one."""

    name: str | None
    arguments: str


class _CallFinder:
    """Cuts a growing text into content (strings) and pieces of calls."""

    def __init__(self, format: ToolFormat, toolbox: Toolbox) -> None:
        self._format = format
        self._toolbox = toolbox
        self._all_openers, self._edge_openers = format.openers, format.edge_openers
        if toolbox.constrained:  # the grammar writes one of them only (forms.py), and leaves the rest to text
            self._edge_openers = format.edge_openers[:1]
            self._all_openers = () if self._edge_openers else format.openers[:1]
        self._text = ""  # what waits; it begins with the opener while there is a reader
        self._reader: Reader | None = None
        self._opener = ""
        self._space = ""  # before the opener
        self._growing: ParsedCall | None = None  # the part of the call being read that is reported already
        self._num_calls = 0
        self._at_edge = True  # nothing but white space, separators and calls so far
        self._has_content = False

    def feed(self, text: str, final: bool) -> Iterator[str | _Piece]:
        for start in range(0, len(text), _SLICE):  # what is cut off at the front again and again stays short
            self._text += text[start : start + _SLICE]
            yield from self._advance(final=False)
        if final:
            yield from self._advance(final=True)

    def _advance(self, final: bool) -> Iterator[str | _Piece]:
        while True:
            if self._reader is None:
                yield from self._find_call(final)
            if self._reader is None:
                return
            try:
                block = self._reader.read(self._text, False)
            except Malformed:
                yield from self._give_up() if self._growing is None else self._cut_off()
                continue
            if block is None and final:
                try:
                    block = self._reader.read(self._text, True)
                except Malformed:
                    yield from self._cut_off()
                    continue
            if block is None:
                yield from self._grow()
                return
            yield from self._finish(block)

    def _find_call(self, final: bool) -> Iterator[str]:
        """The content before the next call. Makes a reader if one begins."""
        text = self._text
        start, opener = self._next_opener(text)
        at_end = final and not opener
        if not opener:
            start = len(text) - (0 if final else held_length(text, self._openers))
        lead = text[:start]
        after_call = self._at_edge and self._num_calls > 0
        is_blank = not lead.strip(SPACE + (self._format.separators if after_call else ""))
        content = "" if is_blank else lead.rstrip(SPACE)
        space = lead[len(content) :]
        if at_end and not (is_blank and after_call):
            content, space = lead, ""
        if content and not self._toolbox.forced:  # then it is the beginning of a call, cut off
            self._at_edge = False
            yield content.lstrip(SPACE) if after_call and not self._has_content else content
            self._has_content = True
        if opener:
            self._reader = self._format.reader(opener, self._toolbox.by_name)
            self._opener, self._space = opener, space
            self._text = text[start:]
        else:
            self._text = "" if at_end else space + text[start:]

    @property
    def _openers(self) -> tuple[str, ...]:
        """None after the only call that may be made: what looks like another one is content."""
        return self._all_openers if self._may_call else ()

    @property
    def _may_call(self) -> bool:
        return self._toolbox.parallel or not self._num_calls

    def _next_opener(self, text: str) -> tuple[int, str]:
        """Where the next call begins, and with what; with "" if none does."""
        found = [(start, opener) for opener in self._openers if (start := text.find(opener)) >= 0]
        if self._at_edge and self._may_call:
            start = len(text) - len(text.lstrip(SPACE + (self._format.separators if self._num_calls else "")))
            found += [(start, opener) for opener in self._edge_openers if text.startswith(opener, start)]
        return min(found, default=(0, ""))

    def _finish(self, block: Block) -> Iterator[str | _Piece]:
        """Report the calls of a block, or what of them is not reported yet."""
        calls = block.calls
        if self._growing is not None:
            yield from self._report(calls[0])
            calls = calls[1:]
            self._growing = None
        yield from (_Piece(call.name, call.arguments) for call in calls[: None if self._toolbox.parallel else 1])
        self._num_calls += len(block.calls)
        self._text = self._text[block.end :]
        self._reader = None
        self._at_edge = True
        if not self._toolbox.parallel and len(calls) > 1:
            self._has_content = True
            yield "\n".join(f'{{"name": "{call.name}", "arguments": {call.arguments}}}' for call in calls[1:])

    def _grow(self) -> Iterator[_Piece]:
        """Report what is there of a call whose form and end are certain."""
        if self._toolbox.constrained and self._reader is not None and (call := self._reader.growing(self._text)):
            yield from self._report(call)
            self._growing = call

    def _report(self, call: ParsedCall) -> Iterator[_Piece]:
        """What of a growing call is not reported yet."""
        if self._growing is None:
            yield _Piece(call.name, call.arguments)
        elif more := call.arguments[len(self._growing.arguments) :]:
            yield _Piece(None, more)

    def _give_up(self) -> Iterator[str]:
        """It is no call: its opener is content, and a call may begin after that."""
        yield self._space + self._opener
        self._text = self._text[len(self._opener) :]
        self._reader = None
        self._at_edge = False
        self._has_content = True

    def _cut_off(self) -> Iterator[str | _Piece]:
        """The answer ended inside a call: all of it is content, unless that is certain to have become a call."""
        yield from self._grow()
        if not self._toolbox.constrained:
            yield self._space + self._text
        self._text = ""
        self._reader = None
        self._growing = None
