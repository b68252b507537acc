"""Phi-3 and its successors: Llama with q, k and v in one matrix, gate and up in another, and longrope.

Abdin et al. 2024, arXiv:2404.14219. A model made for a long context has two rope tables. Here the choice is made once,
by the context the model is run with, so that a token's result never depends on how far its sequence has come.
"""

from __future__ import annotations

from typing import ClassVar

from pellucid.graph.builder import GraphBuilder
from pellucid.graph.ir import Value
from pellucid.models.llama import Llama
from pellucid.models.reader import ConfigReader


class Phi3(Llama):
    gguf_architecture = "phi3"
    hf_architecture = "Phi3ForCausalLM"
    hf_model_type = "phi3"
    hf_tensors: ClassVar[dict[str, str]] = Llama.hf_tensors | {
        "attn_qkv": "model.layers.{}.self_attn.qkv_proj",
        "ffn_up": "model.layers.{}.mlp.gate_up_proj",
    }
    gguf_rope_style = "half"

    def read_windows(self, reader: ConfigReader) -> None:
        self.sliding_window = reader.integer("sliding_window", 0, minimum=0)
        if not self.is_gguf:
            reader.ignore("resid_pdrop", "embd_pdrop")
            reader.neutral("lm_head_bias", False)
            reader.neutral("full_attn_mod", 1)
            reader.neutral("interpolate_factor", 1)

    def read_hf_biases(self, reader: ConfigReader) -> tuple[str, ...]:
        reader.neutral("attention_bias", False)
        reader.neutral("mlp_bias", False)
        return ()

    def qkv(self, g: GraphBuilder, x: Value, layer: int) -> tuple[Value, Value, Value]:
        q_width, kv_width = self.num_heads * self.head_size, self.num_kv_heads * self.head_size
        qkv = self.project(g, x, "attn_qkv", q_width + 2 * kv_width, layer)
        q = g.slice(qkv, 0, q_width, name="attn_q")
        k = g.slice(qkv, q_width, kv_width, name="attn_k")
        return q, k, g.slice(qkv, q_width + kv_width, kv_width, name="attn_v")

    def gate_up(self, g: GraphBuilder, x: Value, layer: int) -> tuple[Value, Value]:
        width = self.feed_forward_size
        both = self.project(g, x, "ffn_up", 2 * width, layer)
        return g.slice(both, 0, width, name="ffn_gate_part"), g.slice(both, width, width, name="ffn_up_part")
