"""Qwen 2 and 2.5: Llama with biases on q, k and v, and a sliding window in the upper layers if asked for.

Qwen team 2024, arXiv:2407.10671.
"""

from __future__ import annotations

from pellucid.models.llama import Llama
from pellucid.models.reader import ConfigReader


class Qwen2(Llama):
    gguf_architecture = "qwen2"
    hf_architecture = "Qwen2ForCausalLM"
    hf_model_type = "qwen2"
    gguf_rope_style = "half"

    def read_hf_biases(self, reader: ConfigReader) -> tuple[str, ...]:
        return ("attn_q", "attn_k", "attn_v")

    def read_windows(self, reader: ConfigReader) -> None:
        self.window_layers = [False] * self.num_layers
        if self.is_gguf:
            return
        reader.neutral("use_mrope", False)
        if not reader.flag("use_sliding_window", False):
            reader.ignore("sliding_window", "max_window_layers")
            reader.strings("layer_types", self.num_layers, ("full_attention",))
            return
        self.sliding_window = reader.integer("sliding_window", 4096, null=0, minimum=0)
        first = reader.integer("max_window_layers", 28, minimum=0)
        types = reader.strings("layer_types", self.num_layers, ("full_attention", "sliding_attention"))
        for layer in range(self.num_layers):
            self.window_layers[layer] = layer >= first if types is None else types[layer] == "sliding_attention"

    def layer_window(self, layer: int) -> int:
        return self.sliding_window if self.window_layers[layer] else 0
