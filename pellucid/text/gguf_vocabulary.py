"""Reads `tokenizer.ggml.*` metadata into a Vocabulary.

`tokenizer.ggml.model` is "gpt2" for byte-level BPE with listed merges, and "llama" for SentencePiece BPE, whose merges
follow from its scores. Every key is checked for type and range before use. Source: the GGUF specification, section
"Tokenizer".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pellucid.errors import FormatError, UnsupportedModel
from pellucid.text import pretokenizers
from pellucid.text.end_of_generation import end_of_generation_ids
from pellucid.text.vocabulary import (
    MAX_VOCAB_SIZE,
    NO_CACHE,
    Encoder,
    KindArray,
    LibraryEncoder,
    Scheme,
    SpecialToken,
    TokenKind,
    Vocabulary,
    rust_errors,
)

if TYPE_CHECKING:
    from pellucid.native._native import SentencePiece

MAX_MERGES = 4 * MAX_VOCAB_SIZE
MAX_USER_DEFINED_CHARS = 256  # Gemma's longest, a run of spaces, has 31
_CLOSED_KINDS = (TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.UNUSED)
_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_TEMPLATE_NAMES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
_END_KEYS = ("eos", "eot", "eom")


class _Metadata:
    """Typed access to the `tokenizer.ggml.` keys."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata

    def get(self, name: str, kind: type) -> Any:
        value = self._metadata.get(f"tokenizer.ggml.{name}")
        if isinstance(value, np.generic):
            value = value.item()
        if value is None:
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise FormatError(f"tokenizer.ggml.{name} is {type(value).__name__}, expected {kind.__name__}")
        return value

    def strings(self, name: str) -> list[str]:
        value = self._metadata.get(f"tokenizer.ggml.{name}")
        # The elements of a GGUF array have one type, so the first one tells.
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value[:1]):
            raise FormatError(f"tokenizer.ggml.{name} is missing or not a list of strings")
        return value

    def numbers(self, name: str, count: int, kinds: str) -> np.ndarray[Any, np.dtype[Any]]:
        """[count]; `kinds` are the allowed NumPy dtype kinds."""
        value = np.asarray(self._metadata.get(f"tokenizer.ggml.{name}", ()))
        if value.shape != (count,) or value.dtype.kind not in kinds:
            raise FormatError(
                f"tokenizer.ggml.{name} has shape {value.shape} and type {value.dtype}, "
                f"expected {count} numbers, one for each token"
            )
        return value

    def token_id(self, name: str, vocab_size: int) -> int | None:
        value: int | None = self.get(f"{name}_token_id", int)
        if value is not None and not 0 <= value < vocab_size:
            raise FormatError(f"tokenizer.ggml.{name}_token_id is {value}, expected less than the {vocab_size} tokens")
        return value


def read_gguf_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """Raises FormatError for damaged metadata and UnsupportedModel for a tokenizer of another kind."""
    ggml = _Metadata(metadata)
    model = ggml.get("model", str)
    if model not in ("gpt2", "llama"):
        raise UnsupportedModel(
            f"tokenizer.ggml.model is {model!r}; supported are 'gpt2' (byte-level BPE) and 'llama' (SentencePiece BPE)"
        )
    pieces = ggml.strings("tokens")
    if not 0 < len(pieces) <= MAX_VOCAB_SIZE:
        raise FormatError(f"tokenizer.ggml.tokens has {len(pieces)} entries, expected 1 to {MAX_VOCAB_SIZE}")
    kinds = _kinds(ggml, pieces)
    special_tokens = [
        SpecialToken(index, pieces[index])
        for index in np.flatnonzero((kinds == TokenKind.CONTROL) | (kinds == TokenKind.UNKNOWN)).tolist()
        if pieces[index]
    ]
    encoder: Encoder
    if model == "gpt2":
        kind = pretokenizers.pre_tokenizer_kind(ggml.get("pre", str) or "")
        encoder, adds_space, adds_bos = _byte_level_encoder(ggml, kind, pieces, kinds), False, kind.adds_bos
    else:
        adds_space, adds_bos = _flag(ggml, "add_space_prefix", default=True), True
        encoder = _sentencepiece_encoder(ggml, pieces, kinds, adds_space)
    bos, eos = ggml.token_id("bos", len(pieces)), ggml.token_id("eos", len(pieces))
    ends = [ggml.token_id(name, len(pieces)) for name in _END_KEYS]
    return Vocabulary(
        scheme=Scheme.BYTE_LEVEL if model == "gpt2" else Scheme.SENTENCEPIECE,
        pieces=list(pieces),
        kinds=kinds,
        special_tokens=special_tokens,
        encoder=encoder,
        next_encoder=encoder,
        prefix_ids=_added("bos", bos, _flag(ggml, "add_bos_token", default=adds_bos)),
        suffix_ids=_added("eos", eos, _flag(ggml, "add_eos_token", default=False)),
        bos_token_id=bos,
        eos_token_ids=end_of_generation_ids([end for end in ends if end is not None], special_tokens),
        strips_leading_space=adds_space,
        template_source=_template(metadata),
        template_variables={
            f"{template_name}_token": pieces[token_id]
            for template_name, name in _TEMPLATE_NAMES.items()
            if (token_id := ggml.token_id(name, len(pieces))) is not None
        },
    )


def _kinds(ggml: _Metadata, pieces: list[str]) -> KindArray:
    kinds = ggml.numbers("token_type", len(pieces), "iu")
    if kinds.min() < TokenKind.NORMAL or kinds.max() > TokenKind.BYTE:
        raise FormatError(f"tokenizer.ggml.token_type goes from {kinds.min()} to {kinds.max()}, expected 1 to 6")
    for index in np.flatnonzero(kinds == TokenKind.BYTE).tolist():
        if not _BYTE_PIECE.fullmatch(pieces[index]):
            raise FormatError(
                f"token {index} is a byte token but reads {pieces[index][:40]!r}, expected <0x00> to <0xFF>"
            )
    return kinds.astype(np.uint8)


def _flag(ggml: _Metadata, name: str, *, default: bool) -> bool:
    value: bool | None = ggml.get(name, bool)
    return default if value is None else value


def _added(name: str, token_id: int | None, wanted: bool) -> tuple[int, ...]:
    if not wanted:
        return ()
    if token_id is None:
        raise FormatError(
            f"tokenizer.ggml.{name}_token_id is missing, and the tokenizer adds that token to every prompt"
        )
    return (token_id,)


def _template(metadata: Mapping[str, Any]) -> str | None:
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise FormatError(f"tokenizer.chat_template is {type(template).__name__}, expected a string")
    return template


def _byte_level_encoder(
    ggml: _Metadata, kind: pretokenizers.PreTokenizerKind, pieces: list[str], kinds: KindArray
) -> LibraryEncoder:
    from tokenizers import AddedToken, Tokenizer, models

    ids = dict(zip(pieces, range(len(pieces)), strict=True))
    if len(ids) != len(pieces):
        raise _twice(next(piece for index, piece in enumerate(pieces) if ids[piece] != index))
    # What ordinary text may become: without the control tokens no text and no merge can yield one.
    for index in np.flatnonzero(np.isin(kinds, _CLOSED_KINDS)).tolist():
        del ids[pieces[index]]
    merges = ggml.strings("merges")
    if len(merges) > MAX_MERGES:
        raise FormatError(f"tokenizer.ggml.merges has {len(merges)} entries, expected at most {MAX_MERGES}")
    pairs: list[Any] = [tuple(merge.split(" ")) for merge in merges]
    if not set(map(len, pairs)) <= {2}:
        wrong = next(merge for merge in merges if merge.count(" ") != 1)
        raise FormatError(f"tokenizer.ggml.merges has {wrong[:80]!r}, expected two pieces with one space between")
    with rust_errors(FormatError, "tokenizer.ggml"):
        bpe = models.BPE(vocab=ids, merges=pairs, ignore_merges=kind.ignores_merges, cache_capacity=NO_CACHE)
        pipeline = Tokenizer(bpe)
        pretokenizers.apply(kind, pipeline)
        user_defined = [pieces[index] for index in np.flatnonzero(kinds == TokenKind.USER_DEFINED).tolist()]
        pipeline.add_tokens([AddedToken(piece, normalized=False, special=False) for piece in user_defined if piece])
    return LibraryEncoder(pipeline)


def _sentencepiece_encoder(ggml: _Metadata, pieces: list[str], kinds: KindArray, adds_space: bool) -> SentencePiece:
    from pellucid.native._native import SentencePiece

    if _flag(ggml, "remove_extra_whitespaces", default=False) or ggml.get("precompiled_charsmap", object) is not None:
        raise UnsupportedModel(
            "the tokenizer rewrites text (remove_extra_whitespaces or precompiled_charsmap), which is not supported"
        )
    scores = ggml.numbers("scores", len(pieces), "f").astype(np.float32)
    if not np.isfinite(scores).all():
        raise FormatError("tokenizer.ggml.scores has NaN or infinity, expected finite numbers")
    for index in np.flatnonzero(kinds == TokenKind.USER_DEFINED).tolist():
        if len(pieces[index]) > MAX_USER_DEFINED_CHARS:  # they are looked for at every place of a text
            raise UnsupportedModel(
                f"user-defined token {index} has {len(pieces[index])} characters; the limit is {MAX_USER_DEFINED_CHARS}"
            )
    unknown = ggml.token_id("unknown", len(pieces))
    encoder = SentencePiece(
        pieces=pieces, scores=scores, kinds=kinds, unknown_id=-1 if unknown is None else unknown, adds_space=adds_space
    )
    if encoder.duplicate >= 0:
        raise _twice(pieces[encoder.duplicate])
    return encoder


def _twice(piece: str) -> FormatError:
    return FormatError(f"tokenizer.ggml.tokens has {piece[:80]!r} twice; every token must be distinct")
