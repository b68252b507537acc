"""Text to token ids and back.

Other people's text may go into a prompt because ordinary text never becomes a control token: those are not in the
encoder's vocabulary at all, and `<|im_end|>` written by a user is cut into ordinary tokens. Only `parse_special=True`
looks for them, and `encode_trusted` only in the parts of a text that the caller vouches for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from operator import index
from typing import TYPE_CHECKING

from pellucid.errors import InvalidParameter
from pellucid.text.byte_level import piece_bytes
from pellucid.text.special_tokens import SpecialTokenFinder
from pellucid.text.unicode import valid_text
from pellucid.text.vocabulary import SPACE_PIECE, Scheme, SpecialToken, TokenKind, Vocabulary

if TYPE_CHECKING:
    from pellucid.formats.checkpoint import Checkpoint
    from pellucid.text.chat_template import ChatTemplate

MAX_TEXT_NBYTES = 16 << 20  # in UTF-8; encoding takes about 1 µs and 100 bytes of memory for each
_SPECIAL_KINDS = (TokenKind.CONTROL, TokenKind.UNKNOWN)
_LITERAL_KINDS = (TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.USER_DEFINED)


class Tokenizer:
    """Encodes and decodes with one Vocabulary. Safe to share between threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._finder = SpecialTokenFinder(vocabulary.special_tokens)
        self._bytes: dict[int, bytes] = {}
        self._is_special = [kind in _SPECIAL_KINDS for kind in range(max(TokenKind) + 1)]
        self._kinds = vocabulary.kinds.tobytes()  # indexing bytes gives an int, fast
        self.vocab_size = len(vocabulary.pieces)
        self.bos_token_id = vocabulary.bos_token_id
        self.eos_token_ids = vocabulary.eos_token_ids
        self.strips_leading_space = vocabulary.strips_leading_space

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Tokenizer:
        """Raises FormatError for damaged files and UnsupportedModel for a kind of tokenizer not supported."""
        if checkpoint.format == "gguf":
            from pellucid.text.gguf_vocabulary import read_gguf_vocabulary

            return cls(read_gguf_vocabulary(checkpoint.metadata))
        from pellucid.text.tokenizer_json import read_folder_vocabulary

        return cls(read_folder_vocabulary(checkpoint))

    @property
    def has_chat_template(self) -> bool:
        return self._vocabulary.template_source is not None

    @cached_property
    def chat_template(self) -> ChatTemplate | None:
        """The model's own chat template; None where it has none."""
        from pellucid.text.chat_template import ChatTemplate

        source = self._vocabulary.template_source
        return None if source is None else ChatTemplate(source, self.template_variables)

    @property
    def template_variables(self) -> dict[str, str]:
        """What chat templates expect to know of the vocabulary, such as bos_token."""
        return self._vocabulary.template_variables

    @property
    def special_tokens(self) -> list[SpecialToken]:
        """Every token that ordinary text cannot become."""
        return self._vocabulary.special_tokens

    def encode(self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Ids of `text`, in time linear in its length. Lone surrogates and invalid UTF-8 become U+FFFD.

        add_special: put BOS before (and EOS after) where the model's metadata asks for it.
        parse_special: control tokens written in the text become those tokens. Never for text from a user.
        """
        text = valid_text(text)
        if len(text) * 4 > MAX_TEXT_NBYTES and (nbytes := len(text.encode())) > MAX_TEXT_NBYTES:
            raise InvalidParameter("text", f"has {nbytes:,} bytes; the limit is {MAX_TEXT_NBYTES:,}")
        matches = self._finder.find(text) if parse_special else []
        return self._encode(text, matches, add_special)

    def encode_trusted(self, text: str, trusted: Sequence[tuple[int, int]], *, add_special: bool = False) -> list[int]:
        """As `encode`, where a control token is recognised only if all of it lies in trusted parts of `text`.

        trusted: ascending, disjoint (start, end) in characters. A token may reach over two that touch.
        """
        return self._encode(text, self._finder.find_trusted(text, trusted), add_special)

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD. Raises InvalidParameter for an id there is none of."""
        try:
            ids = [index(id) for id in ids]
        except TypeError as error:
            raise InvalidParameter("token ids", f"expected integers: {error}") from None
        data = b"".join([self.token_bytes(id) for id in ids if not (skip_special and self.is_special(id))])
        if self.strips_leading_space and data.startswith(b" "):
            data = data[1:]
        return data.decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        """The exact bytes that the token stands for; they need not be whole UTF-8 characters."""
        known = self._bytes.get(id)
        if known is None:
            known = self._bytes[id] = self._compute_bytes(id)
        return known

    def token_str(self, id: int) -> str:
        r"""The token for display: its text, with bytes that are not UTF-8 written as \xNN."""
        return self.token_bytes(id).decode("utf-8", "backslashreplace")

    def is_special(self, id: int) -> bool:
        self._check(id)
        return self._is_special[self._kinds[id]]

    def _check(self, id: int) -> None:
        if not 0 <= id < self.vocab_size:
            raise InvalidParameter(
                "token id", f"{id} does not exist; the vocabulary has ids 0 to {self.vocab_size - 1}"
            )

    def _compute_bytes(self, id: int) -> bytes:
        self._check(id)
        piece = self._vocabulary.pieces[id]
        if piece is None:
            raise InvalidParameter("token id", f"{id} does not exist; the vocabulary skips it")
        kind = self._kinds[id]
        if kind in _LITERAL_KINDS:
            return piece.encode("utf-8", "replace")
        if kind == TokenKind.BYTE:
            return bytes([int(piece[3:5], 16)])
        if self._vocabulary.scheme is Scheme.BYTE_LEVEL:
            return piece_bytes(piece)
        return piece.replace(SPACE_PIECE, " ").encode("utf-8", "replace")

    def _encode(self, text: str, matches: list[tuple[int, int, int]], add_special: bool) -> list[int]:
        ids: list[int] = list(self._vocabulary.prefix_ids) if add_special else []
        position = 0
        for start, end, id in matches:
            if start > position:
                ids += self._ordinary(text[position:start], position)
            ids.append(id)
            position = end
        if position < len(text):
            ids += self._ordinary(text[position:], position)
        if add_special:
            ids += self._vocabulary.suffix_ids
        return ids

    def _ordinary(self, text: str, position: int) -> list[int]:
        encoder = self._vocabulary.next_encoder if position else self._vocabulary.encoder
        return encoder.encode(text)
