"""What a parsed answer consists of: content, reasoning and tool calls, whole or in pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class ToolCall:
    """One call that the model asks for. `arguments` is the text of a JSON object, as the model wrote it.

    It is whole, except where a grammar held the call to its tool and the answer was cut off (finish_reason "length").
    """

    id: str
    name: str
    arguments: str

    def as_dict(self) -> dict[str, object]:
        """The call as it goes into the `tool_calls` of an assistant message."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True)
class ToolCallDelta:
    """A piece of call `index`: the first one has its id and name; the `arguments` of all of them join to the whole."""

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True)
class Delta:
    """What a piece of an answer's text added to each part of the answer."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.tool_calls)


def call_id(answer_key: bytes, index: int, *, short: bool = False) -> str:
    """The id of call `index` of the answer that `answer_key` stands for; the same answer always has the same ids.

    "call_" and 24 characters, as OpenAI's; `short`: 9 characters, the only form that Mistral's templates accept.
    """
    number = int.from_bytes(hashlib.sha256(b"call %d " % index + answer_key).digest(), "big")
    return _base62(number, 9) if short else "call_" + _base62(number, 24)


def answer_key(prompt_token_ids: Sequence[int], seed: int, index: int) -> bytes:
    """What identifies an answer: its prompt, its seed and which of n it is.

    A conversation only ever grows, so no two of its answers share a key, in whichever process they were made.
    """
    digest = hashlib.sha256(b"%d %d " % (seed, index))
    digest.update(" ".join(map(str, prompt_token_ids)).encode())
    return digest.digest()


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits)
