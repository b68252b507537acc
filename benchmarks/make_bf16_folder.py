"""Write a GGUF of the llama architecture as bfloat16 safetensors for a peer that reads no GGUF.

    python make_bf16_folder.py MODEL.gguf FOLDER

The folder gets config.json and model.safetensors, and no tokenizer: prompts are token ids.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.safetensors_writer import bf16, safetensors_bytes  # noqa: E402

from pellucid.formats.checkpoint import open_checkpoint  # noqa: E402

LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def main() -> None:
    source, folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    with open_checkpoint(source) as checkpoint:
        config = hf_config(checkpoint.metadata, tied="output.weight" not in checkpoint.tensors)
        heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
        tensors = {}
        for name, tensor in checkpoint.tensors.items():
            if name == "rope_freqs.weight":
                raise SystemExit(f"{source.name} has rope factors, which this script does not translate")
            if name in TOP_NAMES:
                tensors[TOP_NAMES[name]] = bf16(tensor.dequantize())
                continue
            _, layer, part, suffix = name.split(".")
            weight = tensor.dequantize()
            if part in heads:  # a GGUF of this architecture holds pairs 2i, 2i+1 where the original has i, i + D/2
                weight = weight.reshape(heads[part], -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
            tensors[f"model.layers.{layer}.{LAYER_NAMES[part]}.{suffix}"] = bf16(np.ascontiguousarray(weight))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors, {"format": "pt"}))
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def hf_config(metadata: dict[str, object], *, tied: bool) -> dict[str, object]:
    """config.json of a LlamaForCausalLM from GGUF metadata."""
    if metadata["general.architecture"] != "llama":
        raise SystemExit(f"expected the llama architecture, found {metadata['general.architecture']}")
    get = {key.removeprefix("llama."): value for key, value in metadata.items() if key.startswith("llama.")}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "vocab_size": get["vocab_size"],
        "hidden_size": get["embedding_length"],
        "intermediate_size": get["feed_forward_length"],
        "num_hidden_layers": get["block_count"],
        "num_attention_heads": get["attention.head_count"],
        "num_key_value_heads": get["attention.head_count_kv"],
        "max_position_embeddings": get["context_length"],
        "rms_norm_eps": get["attention.layer_norm_rms_epsilon"],
        "rope_theta": get["rope.freq_base"],
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


if __name__ == "__main__":
    main()
