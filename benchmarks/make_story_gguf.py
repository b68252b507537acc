"""Write the Story model (safetensors, F32) as a GGUF file, so that llama.cpp can run the same weights.

    python benchmarks/make_story_gguf.py FOLDER OUT.gguf

For the comparison only: Pellucid itself reads the safetensors. Nothing is quantised. A GGUF of the llama architecture
has the rows of q and k in interleaved order, so those are reordered. The vocabulary is written SentencePiece-style with
scores by merge rank, which is near enough to run and is no claim about llama.cpp's tokens for this model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from streaming_gguf import TensorPlan, write_streaming_gguf
from support.gguf_writer import F32, U32

from pellucid.formats.checkpoint import open_checkpoint
from pellucid.formats.qtensor import QTensor
from pellucid.formats.quant import QuantType

# The embedding is also the head, and stored once, under the head's name.
TOP_NAMES = {"lm_head.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # GGUF's kinds of token


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    with open_checkpoint(args.folder) as checkpoint:
        config = checkpoint.metadata
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        metadata = {
            "general.architecture": "llama",
            "general.name": "TinyStories 656K",
            "llama.block_count": U32(config["num_hidden_layers"]),
            "llama.context_length": U32(config["max_position_embeddings"]),
            "llama.embedding_length": U32(config["hidden_size"]),
            "llama.feed_forward_length": U32(config["intermediate_size"]),
            "llama.attention.head_count": U32(heads),
            "llama.attention.head_count_kv": U32(kv_heads),
            "llama.attention.layer_norm_rms_epsilon": F32(config["rms_norm_eps"]),
            "llama.rope.dimension_count": U32(config["hidden_size"] // heads),
            "llama.rope.freq_base": F32(config["rope_theta"]),
            "llama.vocab_size": U32(config["vocab_size"]),
            **vocabulary(args.folder / "tokenizer.json"),
        }
        plans: dict[str, TensorPlan] = {}
        for name, tensor in checkpoint.tensors.items():
            if name in TOP_NAMES:
                plans[TOP_NAMES[name]] = (QuantType.F32, tensor.shape, tensor.dequantize)
                continue
            _, _, layer, role = name.removesuffix(".weight").split(".", 3)
            rows_of_heads = {"self_attn.q_proj": heads, "self_attn.k_proj": kv_heads}.get(role)
            make = interleaved(tensor, rows_of_heads) if rows_of_heads else tensor.dequantize
            plans[f"blk.{layer}.{LAYER_NAMES[role]}.weight"] = (QuantType.F32, tensor.shape, make)
        write_streaming_gguf(args.out, metadata, plans)


def interleaved(tensor: QTensor, heads: int) -> Callable[[], np.ndarray]:
    """Rows of each head from pairs (i, i + D/2) to pairs (2i, 2i + 1)."""
    rows, columns = tensor.shape
    return lambda: tensor.dequantize().reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2)


def vocabulary(tokenizer_json: Path) -> dict[str, object]:
    description = json.loads(tokenizer_json.read_text(encoding="utf-8"))
    ids: dict[str, int] = description["model"]["vocab"]
    ranks = {"".join(merge): rank for rank, merge in enumerate(map(_pair, description["model"]["merges"]))}
    tokens = sorted(ids, key=ids.__getitem__)
    special = {token["content"] for token in description["added_tokens"]}
    kinds = [
        UNKNOWN if t == "<unk>" else CONTROL if t in special else BYTE if t.startswith("<0x") else NORMAL
        for t in tokens
    ]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array([-float(ranks.get(token, 1e6)) for token in tokens], np.float32),
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.bos_token_id": U32(1),
        "tokenizer.ggml.eos_token_id": U32(2),
        "tokenizer.ggml.unknown_token_id": U32(0),
    }


def _pair(merge: str | list[str]) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


if __name__ == "__main__":
    main()
