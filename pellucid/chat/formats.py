"""The forms in which models write tool calls: how each is recognised, read and asked for.

A format is chosen by what stands in the model's chat template (`detect_format`), or by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pellucid.chat import gemma, mistral
from pellucid.chat.gemma import CallReader, CallTokens, FenceReader, ListReader
from pellucid.chat.mistral import MistralReader
from pellucid.chat.qwen_xml import XmlReader
from pellucid.chat.readers import Block, JsonReader, ParsedCall, Reader, Tools, need_more, skip_space
from pellucid.errors import InvalidParameter
from pellucid.fields import show


@dataclass(frozen=True)
class ToolFormat:
    """One way to write calls.

    openers: what begins a call, anywhere in an answer. edge_openers: what does so where nothing but white space, calls
    and `separators` came before. reader: makes the reader for a call that begins with an opener.
    tokens: texts that may be control tokens of the vocabulary and must not be left out of the answer. end_tokens: those
    that end an answer. begin, end: what stands around all calls. before, between, after: around each of them, which is
    a JSON object with the name and, under `arguments_key`, the arguments; with `named_arguments` it is the name, that
    token, and the arguments. style: how the model itself writes the inside of a call; `quote` is around its texts.
    """

    name: str
    openers: tuple[str, ...]
    reader: Callable[[str, Tools], Reader]
    tokens: tuple[str, ...]
    edge_openers: tuple[str, ...] = ()
    separators: str = ""
    end_tokens: tuple[str, ...] = ()
    begin: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    between: str = "\n"
    after: tuple[str, ...] = ()
    end: tuple[str, ...] = ()
    style: Literal["json", "xml", "braces"] = "json"
    arguments_key: str = "arguments"
    named_arguments: str | None = None
    quote: str = ""
    short_ids: bool = False

    def frame(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What stands before and after the arguments, in JSON, of a call; each marker is a part of its own."""
        if self.named_arguments:
            return (*self.before, name, self.named_arguments), self.after
        return (*self.before, f'{{"name": "{name}", "{self.arguments_key}": '), ("}", *self.after)


class _TagReader(Reader):
    """A `<tool_call>` holds JSON or, from Qwen3-Coder, a `<function=…>` element."""

    _OPENER, _CLOSER = "<tool_call>", "</tool_call>"

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._reader: Reader | None = None

    def read(self, text: str, final: bool) -> Block | None:
        if self._reader is None:
            start = skip_space(text, len(self._OPENER))
            if start == len(text):
                return need_more(final)
            kind = XmlReader if text[start] == "<" else JsonReader
            self._reader = kind(self._tools, self._OPENER, self._CLOSER)
        return self._reader.read(text, final)

    def growing(self, text: str) -> ParsedCall | None:
        return None if self._reader is None else self._reader.growing(text)


def _tagged(opener: str, tools: Tools) -> Reader:
    return XmlReader(tools) if opener == "<function=" else _TagReader(tools)


def _llama3(opener: str, tools: Tools) -> Reader:
    return JsonReader(tools, "" if opener == "{" else opener)


def _gemma3(opener: str, tools: Tools) -> Reader:
    if opener == "[":
        return ListReader(tools)
    return JsonReader(tools) if opener == "{" else FenceReader(tools, opener)


def _call_tokens(name: str, tokens: CallTokens) -> ToolFormat:
    return ToolFormat(
        name,
        (tokens.opener,),
        lambda opener, tools: CallReader(tools, tokens),
        tokens=(tokens.opener, tokens.closer, tokens.quote),
        end_tokens=(tokens.response,),
        before=(tokens.opener,),
        between="",
        after=(tokens.closer,),
        style="braces",
        quote=tokens.quote,
    )


_TAGS = ("<tool_call>", "</tool_call>")

FORMATS = {
    format.name: format
    for format in (
        ToolFormat(
            "hermes", ("<tool_call>",), _tagged, _TAGS, before=("<tool_call>", "\n"), after=("\n", "</tool_call>")
        ),
        ToolFormat(
            "qwen3_coder",
            ("<tool_call>", "<function="),
            _tagged,
            _TAGS,
            before=("<tool_call>", "\n"),
            after=("\n", "</tool_call>"),
            style="xml",
        ),
        ToolFormat(
            "llama3",
            ("<|python_tag|>",),
            _llama3,
            ("<|python_tag|>",),
            edge_openers=("{",),
            separators=";",
            between="; ",
            arguments_key="parameters",
        ),
        ToolFormat(
            "mistral",
            (mistral.OPENER,),
            lambda opener, tools: MistralReader(tools),
            (mistral.OPENER, "[CALL_ID]", "[ARGS]"),
            begin=(mistral.OPENER, "["),
            between=", ",
            end=("]",),
            short_ids=True,
        ),
        ToolFormat(
            "mistral_args",
            (mistral.OPENER,),
            lambda opener, tools: MistralReader(tools),
            (mistral.OPENER, "[CALL_ID]", "[ARGS]"),
            before=(mistral.OPENER,),
            between="",
            named_arguments="[ARGS]",
            short_ids=True,
        ),
        ToolFormat(
            "gemma3",
            ("```tool_code", "```json"),
            _gemma3,
            (),
            edge_openers=("{", "["),
            arguments_key="parameters",
        ),
        _call_tokens("functiongemma", gemma.FUNCTION_GEMMA),
        _call_tokens("gemma4", gemma.GEMMA4),
    )
}

# What a template contains → the format of its model; the first one that fits counts.
_SIGNS = (
    ("[ARGS]", "mistral_args"),
    (mistral.OPENER, "mistral"),
    (gemma.FUNCTION_GEMMA.opener, "functiongemma"),
    (gemma.GEMMA4.opener, "gemma4"),
    ("<function=", "qwen3_coder"),
    ("<tool_call>", "hermes"),
    ("<|python_tag|>", "llama3"),
    ("<|start_header_id|>", "llama3"),
    ("```tool_code", "gemma3"),
)

_OTHERS = ("<arg_key>", "<invoke name=")  # forms of others (GLM, MiniMax) that have one of those signs, too


def detect_format(template: str) -> ToolFormat | None:
    """The format that the text of a chat template speaks of; None for one that is not known."""
    if any(sign in template for sign in _OTHERS):
        return None
    return next((FORMATS[name] for sign, name in _SIGNS if sign in template), None)


def format_named(name: str) -> ToolFormat:
    """Raises InvalidParameter for a name there is none of."""
    if not isinstance(name, str) or name not in FORMATS:
        raise InvalidParameter("tool_parser", f"there is none named {show(name)}; there are {', '.join(FORMATS)}")
    return FORMATS[name]
