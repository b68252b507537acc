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
from pellucid.text.sentencepiece_merges import merges_from_scores
from pellucid.text.vocabulary import (
    MAX_VOCAB_SIZE,
    SPACE_PIECE,
    KindArray,
    Scheme,
    SpecialToken,
    TokenKind,
    Vocabulary,
    rust_errors,
)

if TYPE_CHECKING:
    import tokenizers

MAX_MERGES = 4 * MAX_VOCAB_SIZE
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
    from tokenizers import AddedToken

    ggml = _Metadata(metadata)
    model = ggml.get("model", str)
    if model not in ("gpt2", "llama"):
        raise UnsupportedModel(
            f"tokenizer.ggml.model is {model!r}; supported are 'gpt2' (byte-level BPE) and 'llama' (SentencePiece BPE)"
        )
    pieces = ggml.strings("tokens")
    if not 0 < len(pieces) <= MAX_VOCAB_SIZE:
        raise FormatError(f"tokenizer.ggml.tokens has {len(pieces)} entries, expected 1 to {MAX_VOCAB_SIZE}")
    ids = dict(zip(pieces, range(len(pieces)), strict=True))
    if len(ids) != len(pieces):
        duplicate = next(piece for index, piece in enumerate(pieces) if ids[piece] != index)
        raise FormatError(f"tokenizer.ggml.tokens has {duplicate[:80]!r} twice; every token must be distinct")
    kinds = _kinds(ggml, pieces)
    special_tokens = [
        SpecialToken(index, pieces[index])
        for index in np.flatnonzero((kinds == TokenKind.CONTROL) | (kinds == TokenKind.UNKNOWN)).tolist()
        if pieces[index]
    ]
    # What ordinary text may become: without the control tokens no text and no merge can yield one.
    open_ids = dict(ids)
    for index in np.flatnonzero(np.isin(kinds, _CLOSED_KINDS)).tolist():
        del open_ids[pieces[index]]
    with rust_errors(FormatError, "tokenizer.ggml"):
        if model == "gpt2":
            kind = pretokenizers.pre_tokenizer_kind(ggml.get("pre", str) or "")
            encoder = _byte_level_encoder(ggml, kind, open_ids)
            adds_space, adds_bos = False, kind.adds_bos
        else:
            adds_space, adds_bos = _flag(ggml, "add_space_prefix", default=True), True
            encoder = _sentencepiece_encoder(ggml, open_ids, pieces, kinds, adds_space)
        # SentencePiece looks for user-defined pieces in the text whose spaces are already marked.
        normalized = model == "llama" and not adds_space
        user_defined = [pieces[index] for index in np.flatnonzero(kinds == TokenKind.USER_DEFINED).tolist()]
        encoder.add_tokens([AddedToken(piece, normalized=normalized, special=False) for piece in user_defined if piece])
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
    ggml: _Metadata, kind: pretokenizers.PreTokenizerKind, vocab: dict[str, int]
) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer, models

    merges = ggml.strings("merges")
    if len(merges) > MAX_MERGES:
        raise FormatError(f"tokenizer.ggml.merges has {len(merges)} entries, expected at most {MAX_MERGES}")
    pairs: list[Any] = [tuple(merge.split(" ")) for merge in merges]
    if not set(map(len, pairs)) <= {2}:
        wrong = next(merge for merge in merges if merge.count(" ") != 1)
        raise FormatError(f"tokenizer.ggml.merges has {wrong[:80]!r}, expected two pieces with one space between")
    encoder = Tokenizer(models.BPE(vocab=vocab, merges=pairs, ignore_merges=kind.ignores_merges))
    pretokenizers.apply(kind, encoder)
    return encoder


def _sentencepiece_encoder(
    ggml: _Metadata, vocab: dict[str, int], pieces: list[str], kinds: KindArray, adds_space: bool
) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer, models, normalizers

    if _flag(ggml, "remove_extra_whitespaces", default=False) or ggml.get("precompiled_charsmap", object) is not None:
        raise UnsupportedModel(
            "the tokenizer rewrites text (remove_extra_whitespaces or precompiled_charsmap), which is not supported"
        )
    scores = ggml.numbers("scores", len(pieces), "f").astype(np.float32)
    if not np.isfinite(scores).all():
        raise FormatError("tokenizer.ggml.scores has NaN or infinity, expected finite numbers")
    normal = np.flatnonzero(kinds == TokenKind.NORMAL)
    merges = merges_from_scores([pieces[index] for index in normal.tolist()], scores[normal])
    unknown = ggml.token_id("unknown", len(pieces))
    unknown_piece = None
    if unknown is not None:
        unknown_piece = pieces[unknown]
        vocab = {**vocab, unknown_piece: unknown}
    encoder = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token=unknown_piece, byte_fallback=True, fuse_unk=True)
    )
    space = normalizers.Replace(" ", SPACE_PIECE)
    encoder.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE_PIECE), space]) if adds_space else space
    return encoder
