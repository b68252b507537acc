"""Real GGUF models in transformers, float32, from dequantised weights: what Pellucid's precision is measured against.

Needs torch, transformers and the PyPI `gguf` package. That package reads and dequantises the file, not Pellucid, so
that a mistake in our own reader cannot stand on both sides of a comparison. Only for files whose SHA-256 was checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

# GGUF name → transformers name, inside a layer.
_LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}
# These mean different things in the two families.
_LLAMA_NAMES = _LAYER_NAMES | {"ffn_norm": "post_attention_layernorm"}
_GEMMA3_NAMES = _LAYER_NAMES | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def load_float32(path: Path) -> PreTrainedModel:
    """The model in `path` ("llama" or "gemma3" architecture, tied head) as a transformers model in float32."""
    reader = gguf.GGUFReader(path)
    return {"llama": _llama, "gemma3": _gemma3}[_value(reader, "general.architecture")](reader)


def _llama(reader: gguf.GGUFReader) -> PreTrainedModel:
    heads, kv_heads = _value(reader, "llama.attention.head_count"), _value(reader, "llama.attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=_value(reader, "llama.vocab_size"),
        hidden_size=_value(reader, "llama.embedding_length"),
        intermediate_size=_value(reader, "llama.feed_forward_length"),
        num_hidden_layers=_value(reader, "llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=_value(reader, "llama.context_length"),
        rms_norm_eps=_value(reader, "llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": _value(reader, "llama.rope.freq_base")},
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    state = {}
    for name, weight in _tensors(reader, _LLAMA_NAMES):
        # A GGUF of the llama architecture holds the rows of q and k in interleaved order: pair i is rows 2i, 2i+1.
        if name.endswith("q_proj.weight"):
            weight = _halves(weight, heads)
        elif name.endswith("k_proj.weight"):
            weight = _halves(weight, kv_heads)
        state[name] = weight
    return _filled(LlamaForCausalLM(config), state)


def _gemma3(reader: gguf.GGUFReader) -> PreTrainedModel:
    layers = _value(reader, "gemma3.block_count")
    head_size = _value(reader, "gemma3.attention.key_length")
    config = Gemma3TextConfig(
        vocab_size=len(_value(reader, "tokenizer.ggml.tokens")),
        hidden_size=_value(reader, "gemma3.embedding_length"),
        intermediate_size=_value(reader, "gemma3.feed_forward_length"),
        num_hidden_layers=layers,
        num_attention_heads=_value(reader, "gemma3.attention.head_count"),
        num_key_value_heads=_value(reader, "gemma3.attention.head_count_kv"),
        head_dim=head_size,
        query_pre_attn_scalar=head_size,
        max_position_embeddings=_value(reader, "gemma3.context_length"),
        rms_norm_eps=_value(reader, "gemma3.attention.layer_norm_rms_epsilon"),
        sliding_window=_value(reader, "gemma3.attention.sliding_window"),
        # Neither is in the file: every sixth layer sees everything, and the local ones have a rope base of 10,000.
        layer_types=["sliding_attention" if (i + 1) % 6 else "full_attention" for i in range(layers)],
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": _value(reader, "gemma3.rope.freq_base")},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    # transformers multiplies by 1 + w, the file holds 1 + w.
    state = {n: w - 1 if "norm" in n else w for n, w in _tensors(reader, _GEMMA3_NAMES)}
    return _filled(Gemma3ForCausalLM(config), state)


def _value(reader: gguf.GGUFReader, key: str):
    return reader.fields[key].contents()


def _tensors(reader: gguf.GGUFReader, layer_names: dict[str, str]) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor under its transformers name, dequantised to float32. KeyError for one that is not mapped."""
    for tensor in reader.tensors:
        weight = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        stem = tensor.name.removesuffix(".weight")
        if stem.startswith("blk."):
            _, layer, role = stem.split(".")
            yield f"model.layers.{layer}.{layer_names[role]}.weight", weight
        else:
            yield _TOP_NAMES[stem], weight


def _halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from pairs (2i, 2i+1) to pairs (i, i + D/2): [H*D, E] → [H*D, E]."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _filled(model: PreTrainedModel, state: dict[str, np.ndarray]) -> PreTrainedModel:
    tensors = {name: torch.from_numpy(np.ascontiguousarray(weight)) for name, weight in state.items()}
    keys = model.load_state_dict(tensors, strict=False)
    if keys.unexpected_keys or keys.missing_keys != ["lm_head.weight"]:
        raise ValueError(f"weights do not fit: missing {keys.missing_keys}, unexpected {keys.unexpected_keys}")
    model.tie_weights()
    return model.float().eval()
