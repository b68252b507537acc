"""A conversation with a model: the messages so far, and the /commands that act on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pellucid.cli import options
from pellucid.cli.run import summary
from pellucid.errors import ContextLengthExceeded, InvalidParameter, InvalidRequest, PellucidError

if TYPE_CHECKING:
    from pellucid.engine.llm import LLM
    from pellucid.engine.outputs import RequestOutput, StreamChunk
    from pellucid.sampling import SamplingParams

ROLES = ("system", "user", "assistant")


class Conversation:
    """Alternating user and assistant messages after an optional system message. Every question is answered in full view
    of all of them; a question that fails, by Ctrl-C or whatever else, leaves the conversation as it was."""

    def __init__(
        self, llm: LLM, params: SamplingParams, system: str | None = None, *, split_reasoning: bool = False
    ) -> None:
        """split_reasoning: what the model thinks first is `reasoning` of the pieces and not kept; else it is text."""
        self.llm = llm
        self.params = params
        self._reasoning_parser = None if split_reasoning else "none"
        self.messages: list[dict[str, str]] = []
        self.last: RequestOutput | None = None
        self._num_regenerated = 0
        self.set_system(system)

    def ask(self, text: str, stopped: Callable[[], bool] = lambda: False) -> Iterator[StreamChunk]:
        """The answer to `text`, piece by piece; between pieces `stopped()` may end it, and what was said is kept."""
        asked = [*self.messages, {"role": "user", "content": text}]
        said: list[str] = []
        self.last = None
        try:
            for chunk in self.llm.stream_chat(asked, self.params, reasoning_parser=self._reasoning_parser):
                said.append(chunk.text)
                if chunk.text or chunk.reasoning:
                    yield chunk
                self.last = chunk.result
                if chunk.finish_reason == "error":
                    raise PellucidError(chunk.error or "the request failed")
                if stopped():
                    break
        except ContextLengthExceeded as error:
            raise ContextLengthExceeded(f"{error}. /clear starts over.") from error
        if any(said):
            self.messages = [*asked, {"role": "assistant", "content": "".join(said)}]

    def take_back(self) -> str:
        """Remove the last question and its answer; returns the question. The next answer uses another seed."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            raise InvalidRequest("there is no answer yet to make again")
        self.messages.pop()
        self._num_regenerated += 1
        if self.params.seed is not None:
            self.params = replace(self.params, seed=(self.params.seed + 1) % 2**64)
        return self.messages.pop()["content"]

    @property
    def system(self) -> str | None:
        return self.messages[0]["content"] if self.messages and self.messages[0]["role"] == "system" else None

    def set_system(self, text: str | None) -> None:
        """Replace the system message; None or "" removes it."""
        if self.system is not None:
            self.messages.pop(0)
        if text:
            self.messages.insert(0, {"role": "system", "content": text})

    def clear(self) -> None:
        """Forget everything but the system message."""
        self.messages = self.messages[:1] if self.system is not None else []

    def save(self, path: Path) -> None:
        """Write the messages as JSON into a new file."""
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump({"messages": self.messages}, file, indent=2, ensure_ascii=False)
        except FileExistsError as error:
            raise InvalidParameter("save", f"{str(path)!r} exists already; choose another name") from error
        except OSError as error:
            raise InvalidParameter("save", f"{str(path)!r} cannot be written: {error.strerror}") from error

    def load(self, path: Path) -> None:
        """Go on with the messages of a file that `save` wrote."""
        try:
            content = json.loads(options.read_text(path, "load"))
        except (ValueError, RecursionError) as error:
            raise InvalidParameter("load", f"{str(path)!r} is not JSON: {error}") from error
        messages = content.get("messages") if isinstance(content, dict) else None
        if not isinstance(messages, list) or not all(map(_is_message, messages)):
            raise InvalidParameter("load", f'{str(path)!r}: expected {{"messages": [{{"role": …, "content": …}}, …]}}')
        self.messages = messages

    def stats(self) -> str:
        """Figures of the last answer, and how full the context is."""
        if self.last is None:
            return f"no complete answer yet; the context holds {self.llm.max_model_len:,} tokens"
        used, most = self.last.usage.total_tokens, self.llm.max_model_len
        return f"{summary(self.last)} · context {used:,} of {most:,} tokens ({used / most:.0%})"


def _is_message(message: object) -> bool:
    return (
        isinstance(message, dict)
        and set(message) == {"role", "content"}
        and message["role"] in ROLES
        and isinstance(message["content"], str)
    )
