"""Files that open but hold no sound model: refused when the model, its tokenizer or its weights are asked for."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.blocks import F16_FIELDS
from support.gguf_writer import F32, U32, write_gguf
from support.golden_models import GOLDENS, load_config
from support.hostile import assert_refused, build, open_only, tokenizer, weights
from support.safetensors_writer import bf16, write_safetensors
from support.tiny_model import write_tiny_model

from pellucid.errors import FormatError, GraphError, PellucidError, UnsupportedModel
from pellucid.formats.quant import QuantType

GGUF = [
    ("general.type", np.zeros(2, np.uint32), FormatError, "general.type is array"),
    ("general.name", np.zeros(2, np.uint32), FormatError, "general.name is array"),
    ("general.architecture", np.zeros(50_000, np.uint32), FormatError, "general.architecture is array"),
    ("llama.attention.head_count", U32(0), FormatError, "head_count is 0, expected 1 to"),
    ("llama.attention.head_count", U32(3), FormatError, "3 attention heads cannot share"),
    ("llama.attention.head_count", np.zeros(1, np.uint32), FormatError, "head_count is array"),
    ("llama.attention.head_count_kv", U32(0), FormatError, "head_count_kv is 0"),
    ("llama.block_count", U32(2**32 - 1), FormatError, "block_count is 4294967295, expected 1 to"),
    ("llama.block_count", U32(2), GraphError, r"blk\.1\.attn_norm\.weight is missing"),
    ("llama.embedding_length", U32(0), FormatError, "embedding_length is 0"),
    ("llama.feed_forward_length", U32(2**31 - 1), FormatError, "feed_forward_length is 2147483647"),
    ("llama.context_length", U32(0), FormatError, "context_length is 0"),
    ("llama.attention.layer_norm_rms_epsilon", F32(-1.0), FormatError, "epsilon is -1.0"),
    ("llama.expert_count", np.zeros(1, np.uint32), UnsupportedModel, "expert_count is array"),
    ("llama.expert_count", np.zeros(2, np.uint32), UnsupportedModel, "expert_count is array"),
]


@pytest.mark.parametrize(("key", "value", "error", "match"), GGUF)
def test_gguf_settings(tmp_path: Path, key: str, value: object, error: type[PellucidError], match: str) -> None:
    build(write_tiny_model(tmp_path / "tiny.gguf"))
    assert_refused(write_tiny_model(tmp_path / "tiny.gguf", **{key: value}), error, match, build)


def model_folder(folder: Path, changes: dict[str, object], drop: str | None = None) -> Path:
    config = {key: value for key, value in (load_config("llama") | changes).items() if key != drop}
    shutil.copy(GOLDENS / "llama" / "model.safetensors", folder)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps"])
def test_missing_fields(tmp_path: Path, key: str) -> None:
    assert_refused(model_folder(tmp_path, {}, drop=key), FormatError, f"{key} is missing", build)


@pytest.mark.parametrize("value", [0, -1, 2**32 - 1, 10**30, True, "5", 1.5, [], {}, "x" * 10**6])
@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
def test_wrong_and_absurd_fields(tmp_path: Path, key: str, value: object) -> None:
    assert_refused(model_folder(tmp_path, {key: value}), FormatError, f"{key} is", build)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none(tmp_path: Path, value: float) -> None:
    assert_refused(model_folder(tmp_path, {"rms_norm_eps": value}), FormatError, "rms_norm_eps|NaN|Infinity", build)


def test_layers_promised_but_missing(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, {"num_hidden_layers": 1000})
    assert_refused(folder, GraphError, r"model\.layers\.2\.input_layernorm\.weight is missing", build)


@pytest.mark.parametrize("name", ["eos", "eot", "bos"])
def test_token_ids_beyond_the_vocabulary(tmp_path: Path, name: str) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf", **{f"tokenizer.ggml.{name}_token_id": U32(259)})
    assert_refused(path, FormatError, f"{name}_token_id is 259, expected an integer from 0 to 258", open_only)


def test_tokenizers_of_another_kind(tmp_path: Path) -> None:
    for key, match in (("model", "tokenizer.ggml.model is 'x'"), ("pre", "tokenizer.ggml.pre is 'x'")):
        path = write_tiny_model(tmp_path / "tiny.gguf", **{f"tokenizer.ggml.{key}": "x"})
        assert_refused(path, UnsupportedModel, match, tokenizer)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(tmp_path: Path, bad: float) -> None:
    values = np.array([1, 2, bad, 4], np.float32)
    (tmp_path / "config.json").write_text("{}")
    for stored in (values, values.astype(np.float16), bf16(values)):
        write_safetensors(tmp_path / "model.safetensors", {"w": stored})
        assert_refused(tmp_path, FormatError, "'w' holds NaN or infinity in its .* block 2 of 4", weights)


@pytest.mark.parametrize("type", F16_FIELDS, ids=lambda type: type.name)
def test_scales_that_are_no_numbers(tmp_path: Path, type: QuantType) -> None:
    blocks = np.zeros((3, type.block_nbytes), np.uint8)
    blocks[1, F16_FIELDS[type][-1] :][:2] = 0xFF
    path = write_gguf(tmp_path / "a.gguf", {}, {"w": (type, (3, type.block_size), blocks)})
    assert_refused(path, FormatError, f"'w' holds NaN or infinity in its {type.name} block 1 of 3", weights)
