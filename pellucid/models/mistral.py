"""Mistral 7B: Llama with a sliding window. Jiang et al. 2023, arXiv:2310.06825.

GGUF files of it come under the name "llama"; Llama reads them.
"""

from __future__ import annotations

from pellucid.models.llama import Llama
from pellucid.models.reader import ConfigReader


class Mistral(Llama):
    gguf_architecture = None
    hf_architecture = "MistralForCausalLM"
    hf_model_type = "mistral"

    def read_windows(self, reader: ConfigReader) -> None:
        self.sliding_window = reader.integer("sliding_window", 4096, null=0, minimum=0)
