"""Reads a model folder's tokenizer.json, and the small files that complete it, into a Vocabulary.

tokenizer.json is taken apart rather than loaded whole: the special tokens are kept out of the encoder (and out of its
BPE vocabulary and merges), so that no text can become one; the rest of the pipeline is the `tokenizers` library's own.
Only BPE tokenizers whose pieces spell bytes in one of the two known ways are accepted. Source: the library's
serialisation format.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pellucid.errors import FormatError, ModelNotFound, UnsupportedModel
from pellucid.formats.json_file import read_json_object
from pellucid.text.end_of_generation import end_of_generation_ids
from pellucid.text.tokenizer_pipeline import MATCH_FLAGS, added_around, decoding_scheme, encoders
from pellucid.text.vocabulary import (
    MAX_VOCAB_SIZE,
    KindArray,
    LibraryEncoder,
    SpecialToken,
    TokenKind,
    Vocabulary,
    is_token_id,
    rust_errors,
)

if TYPE_CHECKING:
    from pellucid.formats.checkpoint import Checkpoint

MAX_FILE_BYTES = 128 << 20  # the largest tokenizer.json in use (Gemma 3) has 33 MB
_REFUSED_OPTIONS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
_FLAGS = ("special", *MATCH_FLAGS)
_VARIABLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_Json = dict[str, Any]


def read_folder_vocabulary(checkpoint: Checkpoint) -> Vocabulary:
    """Raises ModelNotFound (no tokenizer.json), FormatError (damaged files) or UnsupportedModel (of another kind)."""
    path = checkpoint.folder_file("tokenizer.json")
    if path is None:
        raise ModelNotFound(f"{checkpoint.path} has no tokenizer.json, which is needed to turn text into tokens")
    tokenizer = read_json_object(path, MAX_FILE_BYTES)
    config = {**_optional(checkpoint, "special_tokens_map.json"), **_optional(checkpoint, "tokenizer_config.json")}
    generation = _optional(checkpoint, "generation_config.json")

    added = _added_tokens(tokenizer)
    model = _bpe(tokenizer)
    pieces = _pieces(model["vocab"], added)
    kinds = _kinds(model, added, len(pieces))
    special_tokens = [
        SpecialToken(token["id"], token["content"], token["lstrip"], token["rstrip"], token["single_word"])
        for token in added
        if token["special"]
    ]
    scheme, strips_leading_space = decoding_scheme(tokenizer.get("decoder"))
    ids = {token.text: token.id for token in special_tokens}
    variables = {name: text for name in _VARIABLES if (text := _token_text(config.get(name))) is not None}
    bos, eos = (ids.get(variables.get(name, "")) for name in ("bos_token", "eos_token"))
    prefix_ids, suffix_ids = added_around(tokenizer.get("post_processor"), len(pieces))
    with rust_errors(FormatError, "tokenizer.json"):
        encoder, next_encoder = map(LibraryEncoder, encoders(tokenizer, model, added))
    num_ids = max(len(pieces), _logits_width(checkpoint.metadata))
    ends = [
        *_end_ids("generation_config.json", generation, num_ids),
        *_end_ids("config.json", checkpoint.metadata, num_ids),
        *([] if eos is None else [eos]),
    ]
    return Vocabulary(
        scheme=scheme,
        pieces=pieces,
        kinds=kinds,
        special_tokens=special_tokens,
        encoder=encoder,
        next_encoder=next_encoder,
        prefix_ids=_configured(prefix_ids, bos, config.get("add_bos_token")),
        suffix_ids=_configured(suffix_ids, eos, config.get("add_eos_token")),
        bos_token_id=bos,
        eos_token_ids=end_of_generation_ids(ends, special_tokens),
        strips_leading_space=strips_leading_space,
        template_source=_template(checkpoint, config),
        template_variables=variables,
    )


def _optional(checkpoint: Checkpoint, name: str) -> _Json:
    path = checkpoint.folder_file(name)
    return {} if path is None else read_json_object(path, MAX_FILE_BYTES)


def _added_tokens(tokenizer: _Json) -> list[_Json]:
    """The added tokens with every flag present and of the right type."""
    added = tokenizer.get("added_tokens") or []
    if not isinstance(added, list):
        raise FormatError("added_tokens of tokenizer.json is not a list")
    checked = []
    for token in added:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str) or not is_token_id(token.get("id")):
            raise FormatError(
                f"tokenizer.json has the added token {str(token)[:200]}, expected an object with content and id"
            )
        flags = {name: token.get(name, False) for name in _FLAGS}
        if not all(isinstance(flag, bool) for flag in flags.values()) or not token["content"]:
            raise FormatError(
                f"tokenizer.json has the added token {str(token)[:200]}, expected text and true or false flags"
            )
        checked.append({"id": token["id"], "content": token["content"], **flags})
    return checked


def _bpe(tokenizer: _Json) -> _Json:
    model = tokenizer.get("model")
    if not isinstance(model, dict):
        raise FormatError("tokenizer.json has no model object")
    if model.get("type", "BPE") != "BPE":
        raise UnsupportedModel(f"tokenizer.json's model is a {str(model['type'])[:40]}; only BPE is supported")
    for option in _REFUSED_OPTIONS:
        if model.get(option):
            raise UnsupportedModel(f"tokenizer.json's model sets {option}, which is not supported")
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        raise FormatError("tokenizer.json's model needs a vocab object and a merges list")
    if not all(map(is_token_id, vocab.values())):
        raise FormatError(f"tokenizer.json's vocab has a value that is not an id from 0 to {MAX_VOCAB_SIZE - 1}")
    return model


def _pieces(vocab: dict[str, int], added: list[_Json]) -> list[str | None]:
    """The text of each id; None where the file skips one."""
    ids = dict(vocab)
    for token in added:
        if ids.setdefault(token["content"], token["id"]) != token["id"]:
            raise FormatError(f"tokenizer.json gives the token {token['content'][:80]!r} two ids")
    if not ids:
        raise FormatError("tokenizer.json has no tokens")
    pieces: list[str | None] = [None] * (1 + max(ids.values()))
    for piece, id in ids.items():
        if pieces[id] is not None:
            raise FormatError(f"tokenizer.json gives the id {id} to two tokens, {pieces[id]!r:.80} and {piece!r:.80}")
        pieces[id] = piece
    return pieces


def _kinds(model: _Json, added: list[_Json], count: int) -> KindArray:
    vocab = model["vocab"]
    kinds = np.full(count, TokenKind.NORMAL, np.uint8)
    if model.get("byte_fallback"):
        kinds[[vocab[name] for name in map("<0x{:02X}>".format, range(256)) if name in vocab]] = TokenKind.BYTE
    for token in added:
        kinds[token["id"]] = TokenKind.CONTROL if token["special"] else TokenKind.USER_DEFINED
    unknown = model.get("unk_token")
    if isinstance(unknown, str) and unknown in vocab:
        kinds[vocab[unknown]] = TokenKind.UNKNOWN
    return kinds


def _configured(ids: tuple[int, ...], token: int | None, wanted: Any) -> tuple[int, ...]:
    """tokenizer_config.json's add_bos_token and add_eos_token go before tokenizer.json's post-processor."""
    if wanted is None:
        return ids
    if not wanted:
        return tuple(id for id in ids if id != token)
    if token is None:
        raise FormatError(
            "tokenizer_config.json adds a token to every prompt (add_bos_token or add_eos_token) but does not name it"
        )
    return ids if token in ids else (*ids, token)


def _token_text(value: Any) -> str | None:
    """A token in tokenizer_config.json is its text, or an object with its content."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _logits_width(config: _Json) -> int:
    """config.json's vocab_size; published models pad it beyond the tokens of tokenizer.json. 0 without one."""
    width = config.get("vocab_size")
    return width if isinstance(width, int) else 0


def _end_ids(where: str, config: _Json, num_ids: int) -> list[int]:
    """Every id below `num_ids` that `config` (the file `where`) names as an end, as a model may yield any of them."""
    ends = config.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    for end in ends:
        if not is_token_id(end) or end >= num_ids:
            raise FormatError(
                f"{where}: eos_token_id is {end!r:.40}, expected an id from 0 to {num_ids - 1} or a list of ids"
            )
    return ends


def _template(checkpoint: Checkpoint, config: _Json) -> str | None:
    path = checkpoint.folder_file("chat_template.jinja")
    if path is not None:
        return path.read_text("utf-8", "replace")
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = next(
            (item.get("template") for item in template if isinstance(item, dict) and item.get("name") == "default"),
            None,
        )
    if template is not None and not isinstance(template, str):
        raise FormatError("chat_template of tokenizer_config.json is neither a string nor a list with a default")
    return template
