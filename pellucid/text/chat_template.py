"""Chat templates: messages to the text, and the token ids, of a prompt.

A template comes with the model, so it is hostile input: it runs in a sandbox with limits of time and size
(template_sandbox.py, template_limits.py). The messages come from a user, so they are hostile too: their text never
yields a control token, while the template's own text does (template_marks.py says how the two are told apart). The
rendered text is exactly what jinja2 makes of the template and the messages.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pellucid.errors import TemplateError
from pellucid.text.messages import checked_messages, plain_value
from pellucid.text.template_limits import MAX_CHARS, Budget, LimitExceeded

if TYPE_CHECKING:
    import jinja2
    from jinja2 import nodes

    from pellucid.text.template_marks import Marks
    from pellucid.text.tokenizer import Tokenizer

_T = TypeVar("_T")
MAX_TEMPLATE_CHARS = 64 << 10  # the longest templates in use have about 30,000; this many take a second to compile


class ChatTemplate:
    """A compiled chat template. Threads may share it.

    variables: what templates expect to find beside the messages, such as bos_token and eos_token.
    """

    def __init__(self, source: str, variables: Mapping[str, str] | None = None) -> None:
        """Raises TemplateError for a template that is too long, does not parse, or uses what is not supported."""
        from pellucid.text.template_sandbox import TemplateEnvironment

        if len(source) > MAX_TEMPLATE_CHARS:
            raise TemplateError(
                f"the chat template has {len(source):,} characters; the limit is {MAX_TEMPLATE_CHARS:,}"
            )
        self.source = source
        self._variables = dict(variables or {})
        self._environment = TemplateEnvironment()
        self._template = self._compile(None)
        self._marked: tuple[Tokenizer, Marks, jinja2.Template] | None = None

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """The prompt's text. `variables` are JSON values that the template may use, such as tools or enable_thinking.

        Raises TemplateError when the template refuses the messages (`raise_exception`), fails or breaks a limit, and
        InvalidParameter or UnsupportedParameter for messages it cannot be given.
        """
        return self._render(self._template, self._values(messages, add_generation_prompt, variables), self._variables)

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> tuple[str, list[int]]:
        """The prompt's text, as `render` makes it, and its token ids. Raises what `render` raises.

        No BOS is added: a template for a model that wants one writes it.
        """
        values = self._values(messages, add_generation_prompt, variables)
        text = self._render(self._template, values, self._variables)
        marks, template = self._marked_for(tokenizer, values)
        marked_variables = {name: marks.mark_literal(value) for name, value in self._variables.items()}
        unmarked, trusted = marks.unmark(self._render(template, values, marked_variables))
        if unmarked != text:
            raise TemplateError(
                "the chat template treats the model's control tokens like ordinary text (compares or converts them), "
                "so that those it writes cannot be told from those in these messages"
            )
        return text, tokenizer.encode_trusted(text, trusted)

    def _values(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, variables: dict[str, Any]
    ) -> dict[str, Any]:
        values = {name: plain_value(value, name) for name, value in variables.items()}
        return {"messages": checked_messages(messages), "add_generation_prompt": add_generation_prompt, **values}

    def _marked_for(self, tokenizer: Tokenizer, values: dict[str, Any]) -> tuple[Marks, jinja2.Template]:
        """The template with its special tokens marked, compiled once unless a message contains the usual marks."""
        from pellucid.text.template_marks import marks_for

        texts = [self.source, *_texts(values)]
        known = self._marked
        if known is not None and known[0] is tokenizer and not known[1].used_in(texts):
            return known[1:]
        marks = marks_for(tokenizer.special_tokens, texts)
        template = self._compile(marks)
        if known is None:
            self._marked = (tokenizer, marks, template)
        return marks, template

    def _compile(self, marks: Marks | None) -> jinja2.Template:
        def compile() -> jinja2.Template:
            tree = self._environment.parse(self.source)
            if marks is not None:
                tree = _mark(tree, marks)
            return self._environment.compiled(tree)

        return self._limited(compile)

    def _render(self, template: jinja2.Template, values: dict[str, Any], variables: Mapping[str, str]) -> str:
        text: str = self._limited(lambda: template.render({**variables, **values}))
        if len(text) > MAX_CHARS:
            raise TemplateError(f"the chat template made {len(text):,} characters; the limit is {MAX_CHARS:,}")
        return text

    def _limited(self, work: Callable[[], _T]) -> _T:
        """Runs `work` within a render's limits; whatever a template can make Python raise becomes TemplateError."""
        import jinja2

        from pellucid.text.template_sandbox import Refused

        with self._environment.running(Budget()):
            try:
                return work()
            except LimitExceeded as error:
                raise TemplateError(f"the chat template {error}{_line(error)}") from error
            except jinja2.TemplateSyntaxError as error:
                raise TemplateError(f"the chat template is not valid: {error.message} (line {error.lineno})") from error
            except (RecursionError, MemoryError) as error:
                raise TemplateError(f"the chat template is nested or recurses too deep{_line(error)}") from error
            except Refused as error:
                raise TemplateError(f"the chat template refused the messages: {_short(error)}{_line(error)}") from error
            except Exception as error:  # a template can provoke any exception that Python's operators and methods have
                raise TemplateError(f"the chat template failed: {_short(error)}{_line(error)}") from error


def _mark(tree: nodes.Template, marks: Marks) -> nodes.Template:
    from pellucid.text.template_marks import MarkLiterals

    marked: nodes.Template = MarkLiterals(marks.mark_literal).visit(tree)
    return marked


def _texts(value: Any) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _short(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:500]


def _line(error: BaseException) -> str:
    """Where in the template the error arose, if that is known."""
    from pellucid.text.template_sandbox import FILENAME

    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == FILENAME]
    return f" (line {lines[-1]})" if lines else ""
