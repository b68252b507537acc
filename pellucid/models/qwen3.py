"""Qwen 3 (dense): Qwen 2 with a norm on every head of q and k instead of the biases.

Qwen team 2025, arXiv:2505.09388.
"""

from __future__ import annotations

from typing import ClassVar

from pellucid.graph.builder import GraphBuilder
from pellucid.graph.ir import Value
from pellucid.models.llama import ATTENTION
from pellucid.models.qwen2 import Qwen2
from pellucid.models.reader import ConfigReader


class Qwen3(Qwen2):
    gguf_architecture = "qwen3"
    hf_architecture = "Qwen3ForCausalLM"
    hf_model_type = "qwen3"
    hf_tensors: ClassVar[dict[str, str]] = Qwen2.hf_tensors | {
        "attn_q_norm": "model.layers.{}.self_attn.q_norm",
        "attn_k_norm": "model.layers.{}.self_attn.k_norm",
    }

    def read_hf_biases(self, reader: ConfigReader) -> tuple[str, ...]:
        return ATTENTION if reader.flag("attention_bias", False) else ()

    def qkv(self, g: GraphBuilder, x: Value, layer: int) -> tuple[Value, Value, Value]:
        q, k, v = super().qkv(g, x, layer)
        q = self.norm(g, q, "attn_q_norm", layer, size=self.head_size)
        k = self.norm(g, k, "attn_k_norm", layer, size=self.head_size)
        return q, k, v
