"""Token for token the references' ids (scripts/make_text_goldens.py), on texts that are hard to tokenise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hard_strings import digest, hard_strings

from pellucid.formats.checkpoint import open_checkpoint
from pellucid.text.detokenizer import Detokenizer
from pellucid.text.tokenizer import Tokenizer
from pellucid.text.unicode import valid_text

GOLDENS = Path(__file__).resolve().parents[1] / "goldens" / "text"
MODELS = ("smollm2", "gemma3", "story")
TEXTS = hard_strings()


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> tuple[str, Tokenizer, dict[str, np.ndarray]]:
    path = request.getfixturevalue(f"{request.param}_path")
    with open_checkpoint(path) as checkpoint:
        return request.param, Tokenizer.from_checkpoint(checkpoint), dict(np.load(GOLDENS / f"{request.param}.npz"))


def rows(golden: dict[str, np.ndarray], prefix: str) -> list[list[int]]:
    ends = np.cumsum(golden[f"{prefix}lengths"], dtype=np.int64)
    return [part.tolist() for part in np.split(golden[f"{prefix}ids"], ends[:-1])]


def test_there_are_enough_texts_and_they_are_those_of_the_goldens(model):
    _, _, golden = model
    assert len(TEXTS) >= 2000
    assert golden["digest"] == digest(TEXTS)


def test_ids_equal_the_reference(model):
    _, tokenizer, golden = model
    wrong = [
        (text, got, expected)
        for text, expected in zip(TEXTS, rows(golden, ""), strict=True)
        if (got := tokenizer.encode(text, add_special=False)) != expected
    ]
    assert not wrong, f"{len(wrong)} differ, first {wrong[0]}"


def test_ids_with_special_tokens_equal_the_reference(model):
    name, tokenizer, golden = model
    if name == "story":
        pytest.skip("its reference does not find special tokens after other text (they are marked `normalized`)")
    wrong = [
        (text, got, expected)
        for text, plain, special in zip(TEXTS, rows(golden, ""), rows(golden, "special_"), strict=True)
        if (got := tokenizer.encode(text, add_special=False, parse_special=True)) != (expected := special or plain)
    ]
    assert not wrong, f"{len(wrong)} differ, first {wrong[0]}"


def test_no_text_becomes_a_special_token(model):
    name, tokenizer, golden = model
    unknown = {0} if name == "story" else set()  # Story has no byte tokens: what it cannot spell is <unk>
    special = {id for id in range(tokenizer.vocab_size) if tokenizer.is_special(id)} - unknown
    assert special.isdisjoint(golden["ids"].tolist())


def lossless(name: str, tokenizer: Tokenizer, text: str) -> bool:
    """Whether this vocabulary can spell `text` exactly."""
    if name == "smollm2":  # it has no token for 21 of the 256 byte values, and the reference drops those bytes
        return all(bytes([byte]) in BYTES_OF_SMOLLM2 for byte in text.encode())
    if "\u2581" in text:  # SentencePiece's own mark for a space
        return False
    return name == "gemma3" or 0 not in tokenizer.encode(text)


BYTES_OF_SMOLLM2 = {
    bytes([byte])
    for byte in range(256)
    if byte not in {0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 0x100)}
}


def test_decoding_gives_the_text_back(model):
    name, tokenizer, _ = model
    texts = [text for text in map(valid_text, TEXTS) if lossless(name, tokenizer, text)]
    assert len(texts) > (250 if name == "story" else 1900)
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text
        assert tokenizer.decode(tokenizer.encode(text), skip_special=True) == text


def test_incremental_decoding_equals_decoding_all(model):
    _, tokenizer, golden = model
    for skip in (False, True):
        for row in rows(golden, ""):
            detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip)
            pieces = [detokenizer.add([id]) for id in row] + [detokenizer.finish()]
            assert "".join(pieces) == tokenizer.decode(row, skip_special=skip)
