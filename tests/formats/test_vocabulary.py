"""Vocabularies that contradict themselves are refused when the file is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gguf_writer import ARRAY, F32, STRING, U32, Array, gguf_bytes
from support.hostile import assert_refused

from pellucid.errors import FormatError, UnsupportedModel
from pellucid.formats.checkpoint import open_checkpoint

VOCABULARY: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "<0x0A>", "a"],
    "tokenizer.ggml.scores": np.zeros(5, np.float32),
    "tokenizer.ggml.token_type": np.array([2, 3, 3, 6, 1], np.int32),
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.bos_token_id": U32(1),
    "tokenizer.ggml.eos_token_id": U32(2),
    "tokenizer.ggml.add_bos_token": True,
}


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("tokens", ["<unk>", "<s>", "</s>", "<0x-1>", "a"], "token 3 is a byte token but reads '<0x-1>'"),
        ("tokens", ["<unk>", "<s>", "</s>", "<0x0A>"], "scores has 5 entries for 4 tokens"),
        ("tokens", [], "tokens is empty"),
        ("tokens", np.zeros(5, np.int32), "tokens is an array of int32, expected an array of strings"),
        ("tokens", "abcde", "tokens is 'abcde', expected an array of strings"),
        ("scores", np.zeros(5, np.float64), "scores is an array of float64, expected an array of float32"),
        ("scores", ["1"] * 5, "scores is an array of strings"),
        ("scores", F32(1), "scores is 1.0"),
        ("scores", np.array([0, 0, np.nan, 0, 0], np.float32), "NaN or infinity for token 2"),
        ("token_type", np.zeros(4, np.int32), "token_type has 4 entries for 5 tokens"),
        ("token_type", np.zeros(5, np.float32), "token_type is an array of float32"),
        ("token_type", np.array([2, 3, 3, 6, 7], np.int32), "token_type of token 4 is 7"),
        ("token_type", np.array([2, 3, -1, 6, 1], np.int32), "token_type of token 2 is -1"),
        ("merges", np.zeros(2, np.uint8), "merges is an array of uint8"),
        ("merges", Array(ARRAY, [Array(STRING, ["a", "b"])]), "merges is an array of arrays"),
        ("eos_token_id", U32(5), "eos_token_id is 5, expected an integer from 0 to 4"),
        ("eos_token_id", U32(2**32 - 1), "eos_token_id is 4294967295"),
        ("eos_token_id", "2", "eos_token_id is '2'"),
        ("eot_token_id", -1, "eot_token_id is -1"),
        ("bos_token_id", True, "bos_token_id is True"),
        ("add_bos_token", U32(1), "add_bos_token is 1, expected a bool"),
    ],
)
def test_a_vocabulary_that_contradicts_itself(tmp_path: Path, key: str, value: Any, match: str) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(gguf_bytes(VOCABULARY, {}))
    open_checkpoint(path).close()
    path.write_bytes(gguf_bytes(VOCABULARY | {f"tokenizer.ggml.{key}": value}, {}))
    assert_refused(path, FormatError, match)


def test_a_separator_to_be_added(tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(gguf_bytes(VOCABULARY | {"tokenizer.ggml.add_sep_token": False}, {}))
    open_checkpoint(path).close()
    path.write_bytes(gguf_bytes(VOCABULARY | {"tokenizer.ggml.add_sep_token": True}, {}))
    assert_refused(path, UnsupportedModel, "add_sep_token is True, supported: False")
