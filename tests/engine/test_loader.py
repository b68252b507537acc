"""Loading: how much KV cache an engine gets and for how long a context, and weights that are no numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gguf_writer import U32
from support.safetensors_writer import write_safetensors
from support.tiny_model import HIDDEN, write_tiny_model

from pellucid import LLM, SamplingParams
from pellucid.config import MAX_THREADS, EngineConfig
from pellucid.errors import FormatError, InvalidParameter
from pellucid.formats.quant import QuantType


def test_a_nan_scale_of_a_gguf_is_refused(tmp_path: Path) -> None:
    blocks = np.zeros((259, 34), np.uint8)  # Q8_0: an F16 scale and 32 weights; a row of the head is one block
    whole = {"output.weight": (QuantType.Q8_0, (259, HIDDEN), blocks.copy())}
    blocks[100, :2] = 0x00, 0x7E
    damaged = {"output.weight": (QuantType.Q8_0, (259, HIDDEN), blocks)}
    LLM(str(write_tiny_model(tmp_path / "whole.gguf", tensors=whole)), threads=1).close()
    with pytest.raises(FormatError, match=r"'output\.weight' holds NaN or infinity in its Q8_0 block 100 of 259"):
        LLM(str(write_tiny_model(tmp_path / "damaged.gguf", tensors=damaged)), threads=1)


def test_an_infinite_weight_of_safetensors_is_refused(tmp_path: Path) -> None:
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5, **sizes, **heads}
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    layer = [*(f"self_attn.{x}_proj" for x in "qkvo"), *(f"mlp.{x}_proj" for x in ("gate", "up", "down"))]
    tensors = {f"model.layers.0.{name}.weight": np.ones((16, 16), np.float32) for name in layer}
    tensors |= {
        f"model.{name}.weight": np.ones(16, np.float32)
        for name in ("norm", "layers.0.input_layernorm", "layers.0.post_attention_layernorm")
    }
    tensors["model.embed_tokens.weight"] = np.ones((32, 16), np.float32)
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = np.inf
    write_safetensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(FormatError, match=r"mlp\.up_proj\.weight' holds NaN or infinity"):
        LLM(str(tmp_path), threads=1)


def test_a_receipts_length_repeats_a_context_that_was_cut(tmp_path: Path) -> None:
    factors = {
        f"rope_factors_{name}.weight": (QuantType.F32, (HIDDEN // 4,), np.full(HIDDEN // 4, value, np.float32))
        for name, value in (("short", 1.0), ("long", 9.0))
    }
    original: Any = {"llama.rope.scaling.original_context_length": U32(64), "llama.rope.scaling.type": "longrope"}
    path = str(write_tiny_model(tmp_path / "long.gguf", tensors=factors, **original))
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=1)
    with LLM(path, threads=1, kv_cache_memory="16KiB") as cut:
        [first] = cut.generate("some words", params)
    assert first.receipt.max_model_len <= 64
    with LLM(path, threads=1, max_model_len=first.receipt.max_model_len) as again:
        assert again.generate("some words", params)[0].outputs == first.outputs
    with LLM(path, threads=1) as whole:  # the control: long factors give something else
        assert whole.generate("some words", params)[0].outputs != first.outputs


def test_more_threads_than_an_executor_takes_are_refused() -> None:
    EngineConfig(model="m", threads=MAX_THREADS)
    with pytest.raises(InvalidParameter, match="threads"):
        EngineConfig(model="m", threads=MAX_THREADS + 1)
