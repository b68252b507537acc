"""Family: what every architecture shares. A subclass is one file: its settings, its tensor names, its graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from pellucid.errors import FormatError, GraphError, InvalidParameter
from pellucid.formats.qtensor import QTensor
from pellucid.graph.builder import GraphBuilder
from pellucid.graph.ir import Value
from pellucid.graph.weights import Shape, Weights
from pellucid.models.reader import ConfigReader
from pellucid.models.rope import Lengths

MAX_LAYERS = 4096
MAX_WIDTH = 2**24


class Family(ABC):
    """Reads and checks the settings when made; `build` then appends the nodes.

    Tensors are named by their role, which is their GGUF name: "attn_q.weight" of layer 3 is `blk.3.attn_q.weight` in a
    GGUF file, and in a Hugging Face checkpoint what `hf_tensors` says.

    Raises FormatError, UnsupportedModel or GraphError, naming the key or tensor that does not fit.
    """

    gguf_architecture: ClassVar[str | None]
    """`general.architecture`, or None if GGUF files of this family come under another family's name."""
    hf_architecture: ClassVar[str]
    """The entry of config.json's `architectures`."""
    hf_model_type: ClassVar[str]
    hf_keys: ClassVar[dict[str, str]] = {}
    """Our names of settings → config.json's, where they differ."""
    hf_tensors: ClassVar[dict[str, str]]
    """Role without its ".weight" or ".bias" → name in the checkpoint; {} stands for the layer."""
    tied_by_default: ClassVar[bool] = False
    """Whether config.json means a tied head when it does not have `tie_word_embeddings`."""
    feed_forward_ratio: ClassVar[int | None] = None
    """Feed-forward size over hidden size where the file does not say; None if it must."""

    def __init__(self, reader: ConfigReader, weights: Weights, *, is_gguf: bool, max_model_len: int | None) -> None:
        self.weights = weights
        self.is_gguf = is_gguf
        self.hidden_size = reader.integer("hidden_size", maximum=MAX_WIDTH)
        self.num_layers = reader.integer("num_hidden_layers", maximum=MAX_LAYERS)
        self.num_heads = reader.integer("num_attention_heads", maximum=MAX_WIDTH)
        self.num_kv_heads = reader.integer("num_key_value_heads", self.num_heads, maximum=MAX_WIDTH)
        if self.num_heads % self.num_kv_heads:
            raise FormatError(
                f"{self.num_heads} attention heads cannot share {self.num_kv_heads} key/value heads evenly"
            )
        self.head_size = self._head_size(reader)
        default = None if self.feed_forward_ratio is None else self.feed_forward_ratio * self.hidden_size
        self.feed_forward_size = reader.integer("intermediate_size", default, maximum=MAX_WIDTH)
        self.context_length = reader.integer("max_position_embeddings")
        wanted = self.context_length if max_model_len is None else max_model_len
        if not 1 <= wanted <= self.context_length:
            raise InvalidParameter("max_model_len", f"is {wanted}, expected 1 to {self.context_length}")
        self.lengths = Lengths(self.context_length, wanted)
        self.embedding, self.head = self._ends(reader)
        self.vocab_size = reader.integer("vocab_size", self.embedding.shape[0])
        if self.vocab_size != self.embedding.shape[0]:
            rows = self.embedding.shape[0]
            raise GraphError(f"tensor {self.embedding.name} has {rows} rows, expected {self.vocab_size} tokens")
        self.sliding_window = 0

    @abstractmethod
    def build(self, g: GraphBuilder) -> Value:
        """Append the model's nodes and return its logits, [R, V]."""

    def tensor(self, role: str, shape: Shape, layer: int | None = None) -> QTensor:
        return self.weights.get(self.tensor_name(role, layer), shape)

    def has_tensor(self, role: str, layer: int | None = None) -> bool:
        return self.weights.has(self.tensor_name(role, layer))

    def tensor_name(self, role: str, layer: int | None = None) -> str:
        if self.is_gguf:
            return role if layer is None else f"blk.{layer}.{role}"
        stem, _, kind = role.rpartition(".")
        return f"{self.hf_tensors[stem].format(layer)}.{kind}"

    def _head_size(self, reader: ConfigReader) -> int:
        if reader.has("head_dim"):
            size = reader.integer("head_dim", maximum=MAX_WIDTH)
        elif self.hidden_size % self.num_heads == 0:
            size = self.hidden_size // self.num_heads
        else:
            raise FormatError(f"hidden size {self.hidden_size} cannot be cut into {self.num_heads} heads")
        if self.is_gguf:
            value_size = reader.integer("value_head_dim", size, maximum=MAX_WIDTH)
            if value_size != size:
                raise reader.unsupported("value_head_dim", value_size, f"{size}, the size of a key")
        return size

    def _ends(self, reader: ConfigReader) -> tuple[QTensor, QTensor]:
        """The embedding and the output matrix, both [V, E]. Where the two are tied, a file has one of them or both."""
        names = [self.tensor_name(role) for role in ("token_embd.weight", "output.weight")]
        stored = [name for name in names if self.weights.has(name)]
        tied = names[1] not in stored if self.is_gguf else reader.flag("tie_word_embeddings", self.tied_by_default)
        if tied:
            names = [(stored or names)[0], (stored or names)[-1]]
        embedding, head = (self.weights.get(name, (None, self.hidden_size)) for name in names)
        if head.shape != embedding.shape:
            raise GraphError(
                f"tensor {head.name} has {head.shape[0]} rows, expected {embedding.shape[0]} as {names[0]}"
            )
        if (
            tied
            and head is not embedding
            and not (head.type is embedding.type and np.array_equal(head.data, embedding.data))
        ):
            raise GraphError(f"tie_word_embeddings is true, but {head.name} differs from {embedding.name}")
        return embedding, embedding if tied else head
