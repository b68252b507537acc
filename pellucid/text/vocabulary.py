"""What a tokenizer is made of, whichever file it came from.

`gguf_vocabulary.py` and `tokenizer_json.py` each read their format into a `Vocabulary`, all that `tokenizer.py` needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pellucid.errors import InvalidRequest, PellucidError

if TYPE_CHECKING:
    import tokenizers

MAX_VOCAB_SIZE = 1 << 22  # 16 times the largest vocabulary in use; ids above it come only from damaged files

NO_CACHE = 0
"""Of `tokenizers.models.BPE`: what it remembers of texts. By default that is the first 10,000 words of up to 256 bytes
in every thread: 60 MB each where words are long, and other people's text. Without it a byte costs 0.5 µs, not 0.3.
"""

KindArray = np.ndarray[Any, np.dtype[np.uint8]]
SPACE_PIECE = "\u2581"  # how SentencePiece writes a space


class TokenKind(IntEnum):
    """What a token is for (the values of `tokenizer.ggml.token_type`, which are SentencePiece's)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Scheme(Enum):
    """How a normal piece spells its bytes."""

    BYTE_LEVEL = "byte-level"  # each character of a piece stands for one byte (GPT-2)
    SENTENCEPIECE = "sentencepiece"  # UTF-8, with U+2581 for a space and <0xNN> for a byte


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """A token that text alone may not produce. The flags are those of tokenizer.json's added tokens."""

    id: int
    text: str
    lstrip: bool = False  # swallows the white space before it
    rstrip: bool = False  # swallows the white space after it
    single_word: bool = False  # is not matched inside a word


class Encoder(Protocol):
    """Turns ordinary text into ids. Threads may share it."""

    def encode(self, text: str, /) -> list[int]: ...


class LibraryEncoder:
    """A pipeline of the `tokenizers` library. Its model must have been made with `NO_CACHE`."""

    def __init__(self, pipeline: tokenizers.Tokenizer) -> None:
        self.pipeline = pipeline

    def encode(self, text: str, /) -> list[int]:
        with rust_errors(InvalidRequest, "this text"):
            pipeline: Any = self.pipeline
            ids: list[int] = pipeline.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """V pieces with their kinds, and an encoder for ordinary text.

    `encoder` turns text into ids and cannot produce a CONTROL token: those are not in its vocabulary. `next_encoder` is
    for text that follows a special token, where some tokenizers put no leading space.
    """

    scheme: Scheme
    pieces: list[str | None]  # [V]; None where the file skips an id
    kinds: KindArray  # [V] TokenKind
    special_tokens: list[SpecialToken]
    encoder: Encoder
    next_encoder: Encoder
    prefix_ids: tuple[int, ...]  # added before a prompt (BOS)
    suffix_ids: tuple[int, ...]  # added after it
    bos_token_id: int | None
    eos_token_ids: frozenset[int]
    strips_leading_space: bool  # encoding puts one space before the text, so decoding takes one away
    template_source: str | None
    template_variables: dict[str, str]  # bos_token, eos_token, … as templates call them


def is_token_id(value: Any) -> bool:
    """Whether `value`, from a file, can be a token id at all."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_VOCAB_SIZE


@contextmanager
def rust_errors(error: type[PellucidError], what: str) -> Iterator[None]:
    """Turns whatever the `tokenizers` extension raises into `error`.

    A Rust panic arrives as `pyo3_runtime.PanicException`, which derives from BaseException and has no importable name.
    """
    try:
        yield
    except (PellucidError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as exc:
        reason = str(exc).strip().split("\n")[0][:200]
        raise error(f"{what}: the tokenizers library refused it: {reason}") from exc
