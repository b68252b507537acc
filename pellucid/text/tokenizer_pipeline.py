"""What the parts of a tokenizer.json do: its decoder, its post-processor, and the encoder that the rest of it makes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pellucid.errors import FormatError, UnsupportedModel
from pellucid.text.patterns import check_patterns
from pellucid.text.vocabulary import NO_CACHE, SPACE_PIECE, Scheme, is_token_id

if TYPE_CHECKING:
    import tokenizers

MATCH_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")
_SPACE_DECODER = {"type": "Replace", "pattern": {"String": SPACE_PIECE}, "content": " "}
_Json = dict[str, Any]


def encoders(tokenizer: _Json, model: _Json, added: list[_Json]) -> tuple[tokenizers.Tokenizer, tokenizers.Tokenizer]:
    """The encoder for ordinary text, and the one for text after a special token."""
    pipeline = {name: tokenizer.get(name) for name in ("normalizer", "pre_tokenizer")}
    check_patterns(pipeline)
    rest = json.loads(json.dumps(pipeline).replace('"prepend_scheme": "first"', '"prepend_scheme": "never"'))
    bpe = _open_model(model, added)
    plain = [token for token in added if not token["special"]]
    encoder = _assemble(pipeline, bpe, plain)
    return encoder, encoder if rest == pipeline else _assemble(rest, bpe, plain)


def _assemble(pipeline: _Json, bpe: tokenizers.models.BPE, plain: list[_Json]) -> tokenizers.Tokenizer:
    from tokenizers import AddedToken, Tokenizer

    empty = {"type": "BPE", "vocab": {}, "merges": []}
    encoder = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], **pipeline, "model": empty}))
    encoder.model = bpe
    encoder.add_tokens(
        [AddedToken(token["content"], special=False, **{flag: token[flag] for flag in MATCH_FLAGS}) for token in plain]
    )
    return encoder


def _open_model(model: _Json, added: list[_Json]) -> tokenizers.models.BPE:
    """The BPE model without the special tokens: no text and no merge can yield one."""
    from tokenizers import models

    unknown = model.get("unk_token")
    closed = {token["content"] for token in added if token["special"] and token["content"] != unknown}
    vocab = {**model["vocab"], **{token["content"]: token["id"] for token in added if not token["special"]}}
    merges: list[Any] = [
        tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]
    ]
    if not set(map(len, merges)) <= {2}:
        raise FormatError("tokenizer.json has a merge that is not two pieces")
    if not closed.isdisjoint(vocab):
        vocab = {piece: id for piece, id in vocab.items() if piece not in closed}
        merges = [(left, right) for left, right in merges if closed.isdisjoint((left, right, left + right))]
    return models.BPE(
        vocab=vocab,
        merges=merges,
        unk_token=unknown,
        fuse_unk=bool(model.get("fuse_unk")),
        byte_fallback=bool(model.get("byte_fallback")),
        ignore_merges=bool(model.get("ignore_merges")),
        cache_capacity=NO_CACHE,
    )


def decoding_scheme(decoder: Any) -> tuple[Scheme, bool]:
    """How pieces spell bytes, and whether decoding takes a leading space away."""
    steps = _steps(decoder, "decoders")
    names = [step.get("type") for step in steps]
    if names == ["ByteLevel"]:
        return Scheme.BYTE_LEVEL, False
    if names == ["Metaspace"] and steps[0].get("replacement", SPACE_PIECE) == SPACE_PIECE:
        return Scheme.SENTENCEPIECE, steps[0].get("prepend_scheme", "always") != "never"
    if names[:3] == ["Replace", "ByteFallback", "Fuse"] and steps[0] == _SPACE_DECODER:
        if names[3:] == []:
            return Scheme.SENTENCEPIECE, False
        if steps[3:] == [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]:
            return Scheme.SENTENCEPIECE, True
    raise UnsupportedModel(
        f"tokenizer.json decodes with {', '.join(map(str, names))[:200] or 'nothing'}; supported are ByteLevel, "
        "Metaspace, and Replace, ByteFallback, Fuse and Strip as SentencePiece models use them"
    )


def added_around(processor: Any, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the post-processor puts before and after a text."""
    before: list[int] = []
    after: list[int] = []
    for step in _steps(processor, "processors"):
        kind = step.get("type")
        if kind == "ByteLevel":  # changes offsets, not ids
            continue
        if kind != "TemplateProcessing":
            raise UnsupportedModel(
                f"tokenizer.json has the post-processor {str(kind)[:40]!r}; supported is TemplateProcessing"
            )
        target = before
        try:
            for item in step["single"]:
                if "Sequence" in item:
                    target = after
                else:
                    target += step["special_tokens"][item["SpecialToken"]["id"]]["ids"]
        except (KeyError, TypeError) as error:
            raise FormatError(f"tokenizer.json's TemplateProcessing is not complete: {error!r:.80}") from None
    for id in (*before, *after):
        if not is_token_id(id) or id >= count:
            raise FormatError(f"tokenizer.json's post-processor adds the id {id!r:.40}, which no token has")
    return tuple(before), tuple(after)


def _steps(component: Any, name: str) -> list[_Json]:
    """A component's list of steps, or the component itself if it is a single one; none if there is none."""
    steps = component.get(name, [component]) if isinstance(component, dict) else component
    if steps is None:
        steps = []
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise FormatError(f"tokenizer.json has {name} that are not a list of objects")
    return steps
