"""Gemma 2: Gemma with norms after the blocks too, soft-caps, and a sliding window in every other layer.

Riviere et al. 2024, arXiv:2408.00118.
"""

from __future__ import annotations

from typing import ClassVar

from pellucid.graph.builder import GraphBuilder
from pellucid.graph.ir import Value
from pellucid.graph.weights import Weights
from pellucid.models.gemma import Gemma
from pellucid.models.reader import ConfigReader

LAYER_TYPES = ("full_attention", "sliding_attention")


class Gemma2(Gemma):
    gguf_architecture = "gemma2"
    hf_architecture = "Gemma2ForCausalLM"
    hf_model_type = "gemma2"
    hf_tensors: ClassVar[dict[str, str]] = Gemma.hf_tensors | {
        "post_attention_norm": "model.layers.{}.post_attention_layernorm",
        "ffn_norm": "model.layers.{}.pre_feedforward_layernorm",
        "post_ffw_norm": "model.layers.{}.post_feedforward_layernorm",
    }
    gguf_softcaps: ClassVar[tuple[float, float]] = (50.0, 30.0)
    """Caps of attention scores and logits in a GGUF file that does not give them."""
    layers_of_27b: ClassVar[int] = 46
    """The 27B model scales attention by the mean head width; its GGUF files tell it only by their number of layers."""

    def __init__(self, reader: ConfigReader, weights: Weights, *, is_gguf: bool, max_model_len: int | None) -> None:
        super().__init__(reader, weights, is_gguf=is_gguf, max_model_len=max_model_len)
        caps = self.gguf_softcaps if is_gguf else (None, None)
        self.softcap = reader.number("attn_logit_softcapping", caps[0], null=0.0)
        self.logit_softcap = reader.number("final_logit_softcapping", caps[1], null=0.0)
        if is_gguf:
            width = self.hidden_size / self.num_heads if self.num_layers == self.layers_of_27b else self.head_size
            self.attention_scale = reader.number("attention_scale", width**-0.5)
        else:
            self.attention_scale = reader.number("query_pre_attn_scalar", minimum=1e-3) ** -0.5

    def read_windows(self, reader: ConfigReader) -> None:
        self.sliding_window = reader.integer("sliding_window", 4096, null=0)
        self.window_layers = [layer % 2 == 0 for layer in range(self.num_layers)]
        if not self.is_gguf:
            reader.neutral("sliding_window_size", self.sliding_window)
            if types := reader.strings("layer_types", self.num_layers, LAYER_TYPES):
                self.window_layers = [kind == "sliding_attention" for kind in types]

    def layer_window(self, layer: int) -> int:
        return self.sliding_window if self.window_layers[layer] else 0

    def build(self, g: GraphBuilder) -> Value:
        logits = super().build(g)
        return g.softcap(logits, cap=self.logit_softcap, name="capped_logits") if self.logit_softcap else logits

    def layer(self, g: GraphBuilder, x: Value, layer: int) -> Value:
        h = self.attention(g, self.norm(g, x, "attn_norm", layer), layer)
        x = g.add(x, self.norm(g, h, "post_attention_norm", layer), name="attn_residual")
        h = self.feed_forward(g, self.norm(g, x, "ffn_norm", layer), layer)
        return g.add(x, self.norm(g, h, "post_ffw_norm", layer), name="ffn_residual")
