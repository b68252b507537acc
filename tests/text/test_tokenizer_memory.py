"""Regression: the `tokenizers` library kept what it had encoded, up to 60 MB in every thread that encoded."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from support.memory import anonymous_nbytes
from text_vocabularies import chatml_tokenizer

from pellucid.formats.checkpoint import open_checkpoint
from pellucid.text.tokenizer import Tokenizer

NUM_TEXTS = 4_000
MAX_NBYTES_A_TEXT = 500
"""A remembered one took 4,000 and more."""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("source", ["GGUF", "tokenizer.json"])
def test_what_was_encoded_is_forgotten(source: str, story_path: Path) -> None:
    from_json = source == "tokenizer.json"
    tokenizer = Tokenizer.from_checkpoint(open_checkpoint(story_path)) if from_json else chatml_tokenizer()
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdefgh", k=200)) for _ in range(NUM_TEXTS)]
    for text in texts[:100]:
        tokenizer.encode(text)
    before = anonymous_nbytes()
    for text in texts:
        tokenizer.encode(text)
    assert anonymous_nbytes() - before < NUM_TEXTS * MAX_NBYTES_A_TEXT
