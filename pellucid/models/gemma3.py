"""Gemma 3 (text): Gemma 2 with q/k norms, a window in five layers of six, and a rope table of their own for these.

Gemma team 2025, arXiv:2503.19786.
"""

from __future__ import annotations

from typing import ClassVar

from pellucid.graph.builder import GraphBuilder
from pellucid.graph.ir import Value
from pellucid.models.gemma2 import LAYER_TYPES, Gemma2
from pellucid.models.reader import ConfigReader
from pellucid.models.rope import Rope, rope_from_gguf, rope_from_hf, rope_from_section

GLOBAL_THETA = 1e6
LOCAL_THETA = 1e4


class Gemma3(Gemma2):
    gguf_architecture = "gemma3"
    hf_architecture = "Gemma3ForCausalLM"
    hf_model_type = "gemma3_text"
    hf_tensors: ClassVar[dict[str, str]] = Gemma2.hf_tensors | {
        "attn_q_norm": "model.layers.{}.self_attn.q_norm",
        "attn_k_norm": "model.layers.{}.self_attn.k_norm",
    }
    gguf_softcaps = (0.0, 0.0)
    layers_of_27b = 62

    def read_windows(self, reader: ConfigReader) -> None:
        if self.is_gguf:
            self.sliding_window = reader.integer("sliding_window", 0, minimum=0)
        else:
            self.sliding_window = reader.integer("sliding_window", 4096, null=0)
        period = reader.integer("_sliding_window_pattern", reader.integer("sliding_window_pattern", 6))
        self.window_layers = [(layer + 1) % period != 0 for layer in range(self.num_layers)]
        if not self.is_gguf and (types := reader.strings("layer_types", self.num_layers, LAYER_TYPES)):
            self.window_layers = [kind == "sliding_attention" for kind in types]
        if self.sliding_window == 0:
            self.window_layers = [False] * self.num_layers

    def read_rope(self, reader: ConfigReader) -> Rope:
        """The table of the global layers; that of the local ones goes to `local_rope`, and is never scaled."""
        name = "rope_local"
        local = reader.number("rope_local_base_freq", LOCAL_THETA, minimum=1.0)
        nested = None if self.is_gguf else reader.section("rope_parameters")
        if nested is not None and (sliding := nested.section("sliding_attention")):
            full = nested.section("full_attention") or ConfigReader({}, "config.json: rope_parameters")
            nested.finish()
            self.local_rope = rope_from_section(sliding, self.head_size, self.lengths, theta=local, name=name)
            theta = reader.number("rope_theta", GLOBAL_THETA, minimum=1.0)
            return rope_from_section(full, self.head_size, self.lengths, theta=theta)
        plain = ConfigReader({}, "rope of the local layers")
        self.local_rope = rope_from_section(plain, self.head_size, self.lengths, theta=local, name=name)
        if self.is_gguf:
            return rope_from_gguf(reader, self.weights, self.head_size, self.lengths)
        return rope_from_hf(reader, self.head_size, self.lengths, theta=GLOBAL_THETA)

    def layer_rope(self, layer: int) -> Rope:
        return self.local_rope if self.window_layers[layer] else self.rope

    def qkv(self, g: GraphBuilder, x: Value, layer: int) -> tuple[Value, Value, Value]:
        q, k, v = super().qkv(g, x, layer)
        q = self.norm(g, q, "attn_q_norm", layer, size=self.head_size)
        k = self.norm(g, k, "attn_k_norm", layer, size=self.head_size)
        return q, k, v
