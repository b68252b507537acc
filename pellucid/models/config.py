"""ModelConfig: what the rest of the engine needs to know about a checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from pellucid.formats.qtensor import QTensor

GGUF_FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    25: "IQ4_NL",
    30: "IQ4_XS",
    32: "BF16",
}
"""Names of `general.file_type`, GGUF's label for a recipe that mixes block types."""


@dataclass(frozen=True)
class ModelConfig:
    """Facts about a model, the same for every checkpoint format.

    `vocab_size` is the width of the logits, against which token ids are validated (a tokenizer may know fewer).
    `context_length` is what the model was made for, in tokens. `sliding_window` is the widest window of the layers that
    have one, in tokens, or 0 when every layer sees everything. `quantization` is a label: the recipe a GGUF file names,
    or the type of most of the weights.
    """

    architecture: str
    name: str
    quantization: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    feed_forward_size: int
    context_length: int
    sliding_window: int


def quantization_label(metadata: Mapping[str, object], tensors: Mapping[str, QTensor]) -> str:
    """`general.file_type` by name where the file has it, else the type that holds the most weights."""
    file_type = metadata.get("general.file_type")
    if isinstance(file_type, int) and file_type in GGUF_FILE_TYPES:
        return GGUF_FILE_TYPES[file_type]
    sizes: Counter[str] = Counter()
    for tensor in tensors.values():
        sizes[tensor.type.name] += tensor.nbytes * tensor.type.block_size // tensor.type.block_nbytes
    return max(sizes, key=lambda name: sizes[name], default="none")
