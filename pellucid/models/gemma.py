"""Gemma 1: Llama with scaled embeddings, norms stored less one, and tanh-GELU. Mesnard et al. 2024, arXiv:2403.08295.

GGUF files hold the norm weights with the one added.
"""

from __future__ import annotations

from pellucid.graph.weights import Weights
from pellucid.models.llama import Llama
from pellucid.models.reader import ConfigReader


class Gemma(Llama):
    gguf_architecture = "gemma"
    hf_architecture = "GemmaForCausalLM"
    hf_model_type = "gemma"
    tied_by_default = True
    gguf_rope_style = "half"
    act = "gelu_tanh"

    def __init__(self, reader: ConfigReader, weights: Weights, *, is_gguf: bool, max_model_len: int | None) -> None:
        super().__init__(reader, weights, is_gguf=is_gguf, max_model_len=max_model_len)
        self.norm_offset = 0.0 if is_gguf else 1.0
        self.embedding_scale = float(self.hidden_size) ** 0.5

    def read_activation(self, reader: ConfigReader) -> None:
        reader.neutral("hidden_act", "gelu_pytorch_tanh", "gelu")  # the first files said gelu and meant the tanh form
        reader.neutral("hidden_activation", "gelu_pytorch_tanh")

    def read_windows(self, reader: ConfigReader) -> None:
        """Every layer sees everything."""
