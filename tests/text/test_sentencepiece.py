"""The native SentencePiece encoder against the algorithm written out plainly, and against texts made to be slow."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_vocabularies import CONTROL, NORMAL, UNUSED, USER_DEFINED, from_gguf, sentencepiece_metadata

from pellucid.errors import FormatError, UnsupportedModel
from pellucid.text.gguf_vocabulary import MAX_USER_DEFINED_CHARS

MARK = "\u2581"
FIRST = 259  # ids before: <unk> <s> </s> and 256 bytes
Rows = list[tuple[str, float, int]]


def plain_encode(rows: Rows, text: str, adds_space: bool) -> list[int]:
    """Joins the best pair, the leftmost of equals, until there is none; user-defined pieces, longest first, are cut out
    before."""
    ids = {piece: FIRST + index for index, (piece, _, kind) in enumerate(rows) if kind in (NORMAL, USER_DEFINED)}
    scores = {piece: score for piece, score, kind in rows if kind == NORMAL}
    fixed = [piece for piece, _, kind in rows if kind == USER_DEFINED]
    if not adds_space:
        text = text.replace(" ", MARK)
        ids = {**{piece.replace(" ", MARK): id for piece, id in ids.items() if piece in fixed}, **ids}
        fixed = [piece.replace(" ", MARK) for piece in fixed]
    found: list[int] = []
    part = ""

    def flush() -> None:
        symbols = list(MARK + part.replace(" ", MARK) if adds_space and part else part)
        while True:
            pairs = [
                (-scores[left + right], at)
                for at, (left, right) in enumerate(pairwise(symbols))
                if left in scores and right in scores and left + right in scores
            ]
            if not pairs:
                break
            at = min(pairs)[1]
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        for symbol in symbols:
            found.extend([ids[symbol]] if symbol in ids else [3 + byte for byte in symbol.encode()])

    at = 0
    while at < len(text):
        match = max((piece for piece in fixed if text.startswith(piece, at)), key=len, default="")
        if match:
            flush()
            part = ""
            found.append(ids[match])
            at += len(match)
        else:
            part += text[at]
            at += 1
    flush()
    return found


@settings(max_examples=300, deadline=None)
@given(
    st.sets(st.text("ab" + MARK + "é", min_size=1, max_size=5), max_size=30),
    st.lists(st.text("abé 漢" + MARK, max_size=30), max_size=8),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_equals_the_plain_algorithm(
    pieces: set[str], texts: list[str], adds_space: bool, chance: random.Random
) -> None:
    kinds = [NORMAL] * 6 + [USER_DEFINED, CONTROL, UNUSED]
    rows = [(piece, float(chance.randint(-9, 0)), chance.choice(kinds)) for piece in sorted(pieces)]
    chance.shuffle(rows)
    tokenizer = from_gguf(sentencepiece_metadata(rows, add_space_prefix=adds_space))
    for text in texts:
        assert tokenizer.encode(text, add_special=False) == plain_encode(rows, text, adds_space)


def test_of_equal_scores_the_leftmost_pair_is_joined() -> None:
    rows: Rows = [("a", 0, NORMAL), ("b", 0, NORMAL), ("ba", -1, NORMAL), ("ab", -1, NORMAL)]
    tokenizer = from_gguf(sentencepiece_metadata(rows, add_space_prefix=False, add_bos_token=False))
    assert [tokenizer.token_str(id) for id in tokenizer.encode("aba")] == ["ab", "a"]
    assert [tokenizer.token_str(id) for id in tokenizer.encode("bab")] == ["ba", "b"]


def test_without_byte_tokens_a_run_of_unknown_characters_is_one_token() -> None:
    metadata = sentencepiece_metadata([("a", 0, NORMAL), (MARK, -1, NORMAL)], add_space_prefix=False)
    keep = [0, 1, 2, FIRST, FIRST + 1]
    for name in ("tokens", "scores", "token_type"):
        values = metadata[f"tokenizer.ggml.{name}"]
        metadata[f"tokenizer.ggml.{name}"] = [values[i] for i in keep] if name == "tokens" else values[keep]
    assert from_gguf(metadata).encode("xyazz z", add_special=False) == [0, 3, 0, 4, 0]
    del metadata["tokenizer.ggml.unknown_token_id"]
    assert from_gguf(metadata).encode("xyazz z", add_special=False) == [3, 4]


def test_a_piece_that_is_there_twice_is_refused() -> None:
    with pytest.raises(FormatError, match="'same' twice"):
        from_gguf(sentencepiece_metadata([("same", 0, NORMAL), ("b", 0, NORMAL), ("same", -1, NORMAL)]))


def test_a_user_defined_piece_beyond_the_limit_is_refused() -> None:
    longest = ("a" * MAX_USER_DEFINED_CHARS, 0.0, USER_DEFINED)
    assert from_gguf(sentencepiece_metadata([longest])).encode(longest[0], add_special=False)[-1] == FIRST
    with pytest.raises(UnsupportedModel, match="257 characters"):
        from_gguf(sentencepiece_metadata([("a" * (MAX_USER_DEFINED_CHARS + 1), 0, USER_DEFINED)]))


@pytest.mark.parametrize("unit", ["a", " ", "ab", "é", "\n", MARK + "a", "x"])
@pytest.mark.parametrize(
    "pieces", [["a" * n for n in range(1, 200)], ["a", "b", "ab", "abab", "a" + MARK], [MARK, "b"]]
)
def test_time_grows_little_faster_than_the_text(pieces: list[str], unit: str) -> None:
    tokenizer = from_gguf(sentencepiece_metadata([(piece, -float(i), NORMAL) for i, piece in enumerate(pieces)]))
    text = unit * (300_000 // len(unit)) + "!"
    begin = time.process_time()
    assert tokenizer.encode(text)
    assert time.process_time() - begin < 3  # takes 0.1 s; quadratic would take minutes
