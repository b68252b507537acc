"""Converts a tiny Hugging Face checkpoint to GGUF, with the PyPI `gguf` package's own table of tensor names and keys.

So a wrong name in one of our families cannot stand on both sides. What the converters of llama.cpp do to the numbers is
done here too: q and k of the llama architecture are permuted, Gemma's norms get their one, GPT-2's matrices are turned.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from pellucid.formats.checkpoint import Checkpoint

ARCHITECTURES = {"mistral": "llama", "gemma3_text": "gemma3"}
PERMUTED = ("attn_q.weight", "attn_k.weight", "attn_q.bias", "attn_k.bias")


def convert_to_gguf(ckpt: Checkpoint, path: Path) -> Path:
    config: dict[str, Any] = ckpt.metadata
    name = ARCHITECTURES.get(config["model_type"], config["model_type"])
    heads = config.get("num_attention_heads") or config["n_head"]
    layers = config.get("num_hidden_layers") or config["n_layer"]
    hidden = config.get("hidden_size") or config["n_embd"]
    head_size = config.get("head_dim") or hidden // heads
    kv_heads = config.get("num_key_value_heads") or heads

    writer = gguf.GGUFWriter(path, name)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_block_count(layers)
    writer.add_embedding_length(hidden)
    writer.add_head_count(heads)
    writer.add_context_length(config.get("max_position_embeddings") or config["n_positions"])
    writer.add_feed_forward_length(config.get("intermediate_size") or config.get("n_inner") or 4 * hidden)
    if name == "gpt2":
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    else:
        writer.add_head_count_kv(kv_heads)
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        if head_size != hidden // heads:
            writer.add_key_length(head_size)
            writer.add_value_length(head_size)
        _add_rope(writer, config, head_size)
        _add_gemma(writer, config)

    names = gguf.get_tensor_name_map(next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == name), layers)
    for hf_name, tensor in ckpt.tensors.items():
        target = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        assert target is not None, f"gguf does not know {hf_name}"
        values = tensor.dequantize()
        if name == "llama" and target.endswith(PERMUTED):
            values = _permute(values, heads if "attn_q" in target else kv_heads)
        if name.startswith("gemma") and target.endswith("norm.weight"):
            values = values + 1
        if name == "gpt2" and "c_" in hf_name and values.ndim == 2:
            values = np.ascontiguousarray(values.T)
        writer.add_tensor(target, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_rope(writer: gguf.GGUFWriter, config: dict[str, Any], head_size: int) -> None:
    rope = config["rope_parameters"]
    if "full_attention" in rope:
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
        rope = rope["full_attention"]
    dims = int(head_size * rope.get("partial_rotary_factor", 1.0))
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(dims)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_divisors(rope, dims))
    elif rope["rope_type"] == "longrope":
        original = rope["original_max_position_embeddings"]
        factor = config["max_position_embeddings"] / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(factor) / math.log(original)))
        for kind in ("long", "short"):
            writer.add_tensor(f"rope_factors_{kind}.weight", np.array(rope[f"{kind}_factor"], np.float32))
    if (window := config.get("sliding_window")) and config.get("use_sliding_window", True):
        writer.add_sliding_window(window)


def _add_gemma(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    if config.get("attn_logit_softcapping"):
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    if config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if "query_pre_attn_scalar" in config:
        writer.add_attention_scale(config["query_pre_attn_scalar"] ** -0.5)


def _llama3_divisors(rope: dict[str, Any], dims: int) -> np.ndarray:
    """What each frequency is divided by, written down case by case as Llama 3.1's reference code has it."""
    divisors = []
    original, factor = rope["original_max_position_embeddings"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    for i in range(0, dims, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / dims)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, np.float32)


def _permute(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from pairs (i, i + D/2) to pairs (2i, 2i + 1): [H*D, …] → [H*D, …]."""
    rows = values.shape[0] // heads
    halves = values.reshape(heads, 2, rows // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
