"""Makes tests/goldens/text/*.npz: the ids of the hard strings, from implementations that share nothing with Pellucid.

    python scripts/make_text_goldens.py SMOLLM2.gguf GEMMA3.gguf STORY_FOLDER

Needs the `parity` and `dev` extras and the `regex` package. The references:

smollm2  byte-level BPE written out below, pair by pair, on the file's vocabulary; words cut with the `regex` package
gemma3   Google's sentencepiece library, given a model made from the file's pieces, scores and types
story    the `tokenizers` library reading tokenizer.json as it is, with special tokens treated as text

`special_ids` holds, for the texts of the first two that contain one, the ids with special tokens recognised.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import regex
import sentencepiece
from gguf import GGUFReader
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
GOLDENS = ROOT / "tests" / "goldens" / "text"
sys.path.insert(0, str(ROOT / "tests" / "text"))

from hard_strings import digest, hard_strings  # noqa: E402

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
Encode = Callable[[str], list[int]]


def metadata(path: str) -> dict[str, Any]:
    reader = GGUFReader(path)
    prefix = "tokenizer.ggml."
    return {
        key.removeprefix(prefix): field.contents() for key, field in reader.fields.items() if key.startswith(prefix)
    }


def byte_level_bpe(vocab: dict[str, Any]) -> Encode:
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    char_of = {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}
    ids = {token: index for index, token in enumerate(vocab["tokens"])}
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(vocab["merges"])}
    digits = regex.compile(r"\p{N}|\P{N}+")
    words = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

    def encode_word(word: str) -> list[int]:
        parts = [char_of[byte] for byte in word.encode()]
        while True:
            pairs = [
                (ranks.get((left, right), len(ranks)), index) for index, (left, right) in enumerate(pairwise(parts))
            ]
            rank, index = min(pairs, default=(len(ranks), 0))
            if rank == len(ranks):
                return [ids[part] for part in parts if part in ids]  # bytes without a token are dropped
            parts[index : index + 2] = [parts[index] + parts[index + 1]]

    def encode(text: str) -> list[int]:
        pieces = (word for piece in digits.findall(text) for word in words.findall(piece))
        return [id for word in pieces for id in encode_word(word)]

    return encode


def sentencepiece_bpe(vocab: dict[str, Any]) -> Encode:
    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(vocab["tokens"])
    for name in ("bos", "eos", "unknown", "padding"):
        id = vocab[f"{name}_token_id"]
        short = {"unknown": "unk", "padding": "pad"}.get(name, name)
        setattr(model.trainer_spec, f"{short}_id", id)
        setattr(model.trainer_spec, f"{short}_piece", vocab["tokens"][id])
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    for index, (token, score, kind) in enumerate(
        zip(vocab["tokens"], vocab["scores"], vocab["token_type"], strict=True)
    ):
        piece = model.pieces.add()
        piece.piece = token.replace(" ", "\u2581") if kind == USER_DEFINED else token
        piece.score = score
        piece.type = UNKNOWN if index == vocab["unknown_token_id"] else kind
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    return lambda text: list(processor.encode(text))


def as_it_is(folder: str) -> Encode:
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def with_special_tokens(encode: Encode, vocab: dict[str, Any]) -> Encode:
    """Longest special token first, text between them on its own."""
    ids = {
        token: index for index, token in enumerate(vocab["tokens"]) if vocab["token_type"][index] in (CONTROL, UNKNOWN)
    }
    any_of = re.compile("|".join(map(re.escape, sorted(ids, key=len, reverse=True))))

    def encode_all(text: str) -> list[int]:
        result, position = [], 0
        for match in any_of.finditer(text):
            result += [*encode(text[position : match.start()]), ids[match[0]]]
            position = match.end()
        return result + encode(text[position:])

    return encode_all


def valid(text: str | bytes) -> str:
    if isinstance(text, bytes):
        return text.decode("utf-8", "replace")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def save(name: str, encode: Encode, encode_special: Encode | None) -> None:
    texts = hard_strings()
    ids = [encode(valid(text)) for text in texts]
    special = [[] if encode_special is None else encode_special(valid(text)) for text in texts]
    special = [
        [] if with_special == without else with_special for with_special, without in zip(special, ids, strict=True)
    ]
    arrays = {
        "digest": np.array(digest(texts)),
        "ids": np.array([id for row in ids for id in row], np.uint32),
        "lengths": np.array([len(row) for row in ids], np.uint16),
        "special_ids": np.array([id for row in special for id in row], np.uint32),
        "special_lengths": np.array([len(row) for row in special], np.uint16),  # 0: as without
    }
    GOLDENS.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(GOLDENS / f"{name}.npz", **arrays)
    num_special = np.count_nonzero(arrays["special_lengths"])
    print(f"{name}: {len(texts)} texts, {len(arrays['ids'])} ids, {num_special} texts with special tokens")


def main() -> None:
    smollm2, gemma3, story = sys.argv[1:]
    for name, path, build in (("smollm2", smollm2, byte_level_bpe), ("gemma3", gemma3, sentencepiece_bpe)):
        vocab = metadata(path)
        encode = build(vocab)
        save(name, encode, with_special_tokens(encode, vocab))
    save("story", as_it_is(story), None)


if __name__ == "__main__":
    main()
