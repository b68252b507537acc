"""ChatTurns: conversations to prompts, and the answers to content, reasoning and tool calls, for one chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pellucid.chat.calls import answer_key
from pellucid.chat.formats import FORMATS, ToolFormat, detect_format, format_named
from pellucid.chat.forms import FormWriter
from pellucid.chat.history import plain_messages, template_messages
from pellucid.chat.parser import AnswerParser
from pellucid.chat.reasoning import ReasoningFormat, detect_reasoning, reasoning_named
from pellucid.chat.tools import Tool, Toolbox, ToolChoice, checked_toolbox
from pellucid.errors import InvalidParameter, InvalidRequest, TemplateError
from pellucid.fields import boolean, show
from pellucid.structured_outputs import StructuredOutputs
from pellucid.text.chat_template import ChatTemplate
from pellucid.text.tokenizer import Tokenizer

_RESERVED = ("messages", "add_generation_prompt", "tokenizer", "self", "tools")
_PROBE = "pellucid_probe_tool"


@dataclass(frozen=True)
class ChatOptions:
    """What a caller says about one chat, beside the messages; see `LLM.chat`."""

    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    tool_parser: str | None = None
    tool_prompt: bool | None = None
    reasoning_parser: str | None = None
    add_generation_prompt: bool = True
    chat_template_kwargs: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Turn:
    """One prompt, and how its answers are to be read."""

    prompt: str
    token_ids: list[int]
    format: ToolFormat | None
    toolbox: Toolbox | None
    reasoning: ReasoningFormat | None
    visible_token_ids: tuple[int, ...]
    stop_token_ids: tuple[int, ...]
    writer: FormWriter

    def form(self, own: StructuredOutputs | None) -> StructuredOutputs | None:
        """What an answer must be, if `own` is what the caller asks for; None: anything. Raises InvalidParameter."""
        return self.writer.form(own, self.reasoning, self.prompt)

    @property
    def is_plain(self) -> bool:
        """The answer is all content."""
        return self.toolbox is None and self.reasoning is None

    def parser(self, seed: int, index: int) -> AnswerParser:
        """For the text of answer `index` of n, made with `seed`."""
        reasoning = self.reasoning
        return AnswerParser(
            answer_key(self.token_ids, seed, index),
            format=self.format,
            toolbox=self.toolbox,
            reasoning=reasoning,
            reasoning_open=reasoning is not None and self.prompt.rstrip().endswith(reasoning.opener),
        )


class ChatTurns:
    """What is known of one template; threads may share it."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self._template = template
        self._tokenizer = tokenizer

    def turn(self, messages: Sequence[Any], options: ChatOptions) -> Turn:
        """Raises InvalidParameter, UnsupportedParameter, TemplateError, and InvalidRequest where the template has no
        place for the tools and `tool_prompt` is False."""
        tools, toolbox = checked_toolbox(options.tools, options.tool_choice, options.parallel_tool_calls)
        has_calls = _has_calls(messages)
        described = self._described(options.tool_prompt, bool(tools), has_calls)
        format = self._format(options, bool(tools), described)
        variables = dict(options.chat_template_kwargs or {})
        for name in variables:
            if not isinstance(name, str) or name in _RESERVED:
                raise InvalidParameter("chat_template_kwargs", f"{show(name)} cannot be a variable of the template")
        if isinstance(messages, list | tuple) and (tools or has_calls):
            messages = self._prepared(messages, tools, format, described)
            if tools and not described:
                variables["tools"] = [tool.definition for tool in tools]
        prompt, token_ids = self._template.encode(
            self._tokenizer, messages, add_generation_prompt=options.add_generation_prompt, **variables
        )
        reasoning = self._reasoning(options.reasoning_parser)
        texts = [
            *(format.tokens if format and toolbox else ()),
            *((reasoning.opener, reasoning.closer) if reasoning else ()),
        ]
        special = self._tokenizer.special_tokens
        return Turn(
            prompt=prompt,
            token_ids=token_ids,
            format=format if toolbox else None,
            toolbox=toolbox,
            reasoning=reasoning,
            visible_token_ids=tuple(token.id for token in special if any(token.text in text for text in texts)),
            stop_token_ids=tuple(t.id for t in special if format and toolbox and t.text in format.end_tokens),
            writer=FormWriter(format if toolbox else None, toolbox, (token.text for token in special), plain=described),
        )

    def _described(self, given: bool | None, has_tools: bool, has_calls: bool) -> bool:
        """Whether a system message describes the tools, with calls as text; by default where the template cannot."""
        if given is not None:
            return boolean("tool_prompt", given)
        return (has_tools and not self._takes_tools) or (has_calls and self._calls_as_text is None)

    def _format(self, options: ChatOptions, has_tools: bool, described: bool) -> ToolFormat | None:
        """Raises InvalidRequest where there are tools and no format."""
        if options.tool_parser is not None:
            return format_named(options.tool_parser)
        detected = detect_format(self._template.source)
        if detected is None and described:
            return FORMATS["hermes"]
        if detected is None and has_tools and self._takes_tools:
            raise InvalidRequest(
                "it is not known how this model writes tool calls: its chat template has none of the known marks; name "
                f"a form with tool_parser: {', '.join(FORMATS)}"
            )
        return detected

    def _prepared(
        self, messages: Sequence[Any], tools: tuple[Tool, ...], format: ToolFormat | None, described: bool
    ) -> list[Any]:
        """The messages as the template can take them. Raises InvalidRequest if it would leave something out."""
        if described and format is not None:
            return plain_messages(messages, tools, format)
        if tools and not self._takes_tools:
            raise InvalidRequest(self._no_place("tools"))
        if _has_calls(messages) and self._calls_as_text is None:
            raise InvalidRequest(self._no_place("tool calls"))
        return template_messages(
            messages, short_ids=format is not None and format.short_ids, arguments_as_text=bool(self._calls_as_text)
        )

    def _no_place(self, what: str) -> str:
        beginning = " ".join(self._template.source.split())[:60]
        return (
            f"this model's chat template ({beginning!r}…) has no place for {what}, and tool_prompt=False "
            "forbids a system message about them; leave it out, or load the model with a chat_template that has one"
        )

    def _reasoning(self, name: str | None) -> ReasoningFormat | None:
        if name == "none":
            return None
        return detect_reasoning(self._template.source) if name is None else reasoning_named(name)

    @cached_property
    def _takes_tools(self) -> bool:
        """Whether a tool given to the template shows in what it makes."""
        function = {"name": _PROBE, "description": "x", "parameters": {"type": "object", "properties": {}}}
        return _PROBE in self._try([_USER], tools=[{"type": "function", "function": function}])

    @cached_property
    def _calls_as_text(self) -> bool | None:
        """Whether the template wants the arguments of calls as text rather than as objects; None: it wants no calls."""
        for arguments in ({_PROBE: "x"}, f'{{"{_PROBE}": "x"}}'):
            call = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": arguments}}
            made = self._try([_USER, {"role": "assistant", "content": "", "tool_calls": [call]}])
            if _PROBE in made and f"'{_PROBE}'" not in made:
                return isinstance(arguments, str)
        return None

    def _try(self, messages: list[dict[str, Any]], **variables: Any) -> str:
        try:
            return self._template.render(messages, add_generation_prompt=False, **variables)
        except TemplateError:
            return ""


_USER = {"role": "user", "content": "x"}


def _has_calls(messages: object) -> bool:
    if not isinstance(messages, list | tuple):
        return False  # refused later, by name
    return any(isinstance(message, Mapping) and message.get("tool_calls") for message in messages)
