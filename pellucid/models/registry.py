"""From a checkpoint to a graph: which family it belongs to, and that nothing in it is left over.

The table of families is closed: no code from a model folder is ever run, whatever its config.json says.
"""

from __future__ import annotations

import reprlib

from pellucid.errors import FormatError, GraphError, UnsupportedModel
from pellucid.formats.checkpoint import Checkpoint
from pellucid.graph.builder import GraphBuilder
from pellucid.graph.ir import Graph
from pellucid.graph.weights import Weights
from pellucid.models.config import ModelConfig, quantization_label
from pellucid.models.family import Family
from pellucid.models.gemma import Gemma
from pellucid.models.gemma2 import Gemma2
from pellucid.models.gemma3 import Gemma3
from pellucid.models.gpt2 import GPT2
from pellucid.models.llama import Llama
from pellucid.models.mistral import Mistral
from pellucid.models.phi3 import Phi3
from pellucid.models.qwen2 import Qwen2
from pellucid.models.qwen3 import Qwen3
from pellucid.models.reader import ConfigReader

FAMILIES: tuple[type[Family], ...] = (Llama, Mistral, Qwen2, Qwen3, Gemma, Gemma2, Gemma3, Phi3, GPT2)


def build_model(ckpt: Checkpoint, *, max_model_len: int | None = None) -> tuple[ModelConfig, Graph]:
    """The model's facts and its graph, unfused.

    `max_model_len` (1 to the model's context length, which is the default) matters here only to models that have one
    rope table for short contexts and one for long ones.

    Raises UnsupportedModel for an architecture, or a setting, that is not implemented; FormatError for settings that
    are missing or absurd; GraphError for tensors that are missing, left over or of the wrong shape; InvalidParameter
    for a `max_model_len` out of range.
    """
    is_gguf = ckpt.format == "gguf"
    family = _gguf_family(ckpt) if is_gguf else _hf_family(ckpt)
    if is_gguf:
        reader = ConfigReader.for_gguf(ckpt.metadata, str(family.gguf_architecture))
    else:
        reader = ConfigReader.for_hf(ckpt.metadata, family.hf_keys)
    weights = Weights(ckpt.tensors)
    model = family(reader, weights, is_gguf=is_gguf, max_model_len=max_model_len)
    reader.finish()
    builder = GraphBuilder()
    graph = builder.finish(model.build(builder))
    unused = weights.unused()
    if unused:
        shown = ", ".join(unused[:5]) + (f" and {len(unused) - 5} more" if len(unused) > 5 else "")
        raise GraphError(f"{len(unused)} tensors are not part of a {model.num_layers}-layer {family.__name__}: {shown}")
    return _config(ckpt, model), graph


def _config(ckpt: Checkpoint, model: Family) -> ModelConfig:
    return ModelConfig(
        architecture=type(model).__name__.lower(),
        name=_name(ckpt),
        quantization=quantization_label(ckpt.metadata, ckpt.tensors),
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads,
        head_size=model.head_size,
        feed_forward_size=model.feed_forward_size,
        context_length=model.context_length,
        sliding_window=model.sliding_window,
    )


def _name(ckpt: Checkpoint) -> str:
    """The name that the file gives itself, or the file's own."""
    for key in ("general.name", "_name_or_path"):
        name = ckpt.metadata.get(key)
        if name is not None and not isinstance(name, str):
            raise FormatError(f"{key} is {reprlib.repr(name)}, expected a string")
        if name:
            return name
    return ckpt.path.stem


def _gguf_family(ckpt: Checkpoint) -> type[Family]:
    kind = ckpt.metadata.get("general.type")
    if kind is not None and not isinstance(kind, str):
        raise FormatError(f"GGUF metadata: general.type is {reprlib.repr(kind)}, expected a string")
    if kind not in (None, "model"):
        raise UnsupportedModel(f"this GGUF file holds a {kind!r:.100} (general.type), expected a model")
    architecture = ckpt.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise FormatError(f"GGUF metadata: general.architecture is {reprlib.repr(architecture)}, expected a string")
    for family in FAMILIES:
        if family.gguf_architecture == architecture:
            return family
    known = ", ".join(family.gguf_architecture for family in FAMILIES if family.gguf_architecture)
    raise UnsupportedModel(f"general.architecture is {architecture!r:.100}, supported: {known}")


def _hf_family(ckpt: Checkpoint) -> type[Family]:
    config = ckpt.metadata
    model_type = config.get("model_type")
    architectures = config.get("architectures")
    if isinstance(architectures, list) and len(architectures) == 1:
        key, value = "architectures", architectures[0]
    elif architectures is None:
        key, value = "model_type", model_type
    else:
        raise FormatError(f"config.json: architectures is {architectures!r:.100}, expected a list of one name")
    for family in FAMILIES:
        if value == (family.hf_architecture if key == "architectures" else family.hf_model_type):
            if model_type not in (None, family.hf_model_type):
                raise UnsupportedModel(f"config.json: architectures is {value}, but model_type is {model_type!r:.100}")
            return family
    known = ", ".join(family.hf_architecture for family in FAMILIES)
    raise UnsupportedModel(f"config.json: {key} is {value!r:.100}, supported: {known}")
