"""Llama 1, 2 and 3.x, and what has their shape (SmolLM2, TinyLlama, Vicuna …). Touvron et al. 2023, arXiv:2302.13971.

GGUF files of this architecture have the rows of q and k permuted so that rope turns neighbouring columns (2i, 2i+1);
Hugging Face checkpoints keep them apart (i, i + D/2). Mistral's GGUF files come under this name too.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pellucid.graph.builder import GraphBuilder
from pellucid.graph.ir import Value
from pellucid.graph.weights import Weights
from pellucid.models.family import Family
from pellucid.models.reader import ConfigReader
from pellucid.models.rope import Rope, rope_from_gguf, rope_from_hf

ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")
FEED_FORWARD = ("ffn_gate", "ffn_up", "ffn_down")


class Llama(Family):
    gguf_architecture: ClassVar[str | None] = "llama"
    hf_architecture = "LlamaForCausalLM"
    hf_model_type = "llama"
    hf_tensors: ClassVar[dict[str, str]] = {
        "token_embd": "model.embed_tokens",
        "attn_norm": "model.layers.{}.input_layernorm",
        "attn_q": "model.layers.{}.self_attn.q_proj",
        "attn_k": "model.layers.{}.self_attn.k_proj",
        "attn_v": "model.layers.{}.self_attn.v_proj",
        "attn_output": "model.layers.{}.self_attn.o_proj",
        "ffn_norm": "model.layers.{}.post_attention_layernorm",
        "ffn_gate": "model.layers.{}.mlp.gate_proj",
        "ffn_up": "model.layers.{}.mlp.up_proj",
        "ffn_down": "model.layers.{}.mlp.down_proj",
        "output_norm": "model.norm",
        "output": "lm_head",
    }
    gguf_rope_style: ClassVar[Literal["half", "interleaved"]] = "interleaved"
    act = "silu"

    def __init__(self, reader: ConfigReader, weights: Weights, *, is_gguf: bool, max_model_len: int | None) -> None:
        super().__init__(reader, weights, is_gguf=is_gguf, max_model_len=max_model_len)
        self.eps = reader.number("rms_norm_eps", maximum=1.0)
        self.norm_offset = 0.0
        self.embedding_scale = 1.0
        self.attention_scale = self.head_size**-0.5
        self.softcap = 0.0
        self.rope = self.read_rope(reader)
        self.biased = self.read_gguf_biases() if is_gguf else self.read_hf_biases(reader)
        self.read_activation(reader)
        self.read_windows(reader)
        if not is_gguf:
            reader.neutral("rope_interleaved", False)
            reader.ignore("is_llama_config")
            for layer in range(self.num_layers):  # a copy of what `rope` computes, in files of 2023
                weights.ignore(f"model.layers.{layer}.self_attn.rotary_emb.inv_freq")

    def read_activation(self, reader: ConfigReader) -> None:
        reader.neutral("hidden_act", "silu")

    def read_rope(self, reader: ConfigReader) -> Rope:
        if self.is_gguf:
            return rope_from_gguf(reader, self.weights, self.head_size, self.lengths)
        return rope_from_hf(reader, self.head_size, self.lengths)

    def read_windows(self, reader: ConfigReader) -> None:
        if self.is_gguf:  # Mistral
            self.sliding_window = reader.integer("sliding_window", 0, minimum=0)

    def read_hf_biases(self, reader: ConfigReader) -> tuple[str, ...]:
        """Roles of the matrices that have a bias."""
        attention = ATTENTION if reader.flag("attention_bias", False) else ()
        return attention + (FEED_FORWARD if reader.flag("mlp_bias", False) else ())

    def read_gguf_biases(self) -> tuple[str, ...]:
        """A GGUF file has no key for it: what the first layer has, all must have."""
        return tuple(role for role in ATTENTION + FEED_FORWARD if self.has_tensor(f"{role}.bias", 0))

    def build(self, g: GraphBuilder) -> Value:
        x = g.embed(self.embedding, scale=self.embedding_scale, name="embed")
        for layer in range(self.num_layers):
            with g.layer(layer):
                x = self.layer(g, x, layer)
        x = self.norm(g, g.select(x, name="select"), "output_norm")
        return g.linear(x, self.head, name="logits")

    def layer(self, g: GraphBuilder, x: Value, layer: int) -> Value:
        h = self.norm(g, x, "attn_norm", layer)
        x = g.add(x, self.attention(g, h, layer), name="attn_residual")
        h = self.norm(g, x, "ffn_norm", layer)
        return g.add(x, self.feed_forward(g, h, layer), name="ffn_residual")

    def attention(self, g: GraphBuilder, x: Value, layer: int) -> Value:
        q, k, v = self.qkv(g, x, layer)
        rope = self.layer_rope(layer)
        style = self.gguf_rope_style if self.is_gguf else "half"
        q = g.rope(q, rope.inv_freq, head_size=self.head_size, style=style, scale=rope.scale, name="q_rope")
        k = g.rope(k, rope.inv_freq, head_size=self.head_size, style=style, scale=rope.scale, name="k_rope")
        out = g.attention(
            q,
            k,
            v,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_size=self.head_size,
            scale=self.attention_scale,
            window=self.layer_window(layer),
            softcap=self.softcap,
            name="attn",
        )
        return self.project(g, out, "attn_output", self.hidden_size, layer)

    def qkv(self, g: GraphBuilder, x: Value, layer: int) -> tuple[Value, Value, Value]:
        kv_width = self.num_kv_heads * self.head_size
        q = self.project(g, x, "attn_q", self.num_heads * self.head_size, layer)
        k = self.project(g, x, "attn_k", kv_width, layer)
        v = self.project(g, x, "attn_v", kv_width, layer)
        return q, k, v

    def feed_forward(self, g: GraphBuilder, x: Value, layer: int) -> Value:
        gate, up = self.gate_up(g, x, layer)
        return self.project(g, g.glu(gate, up, act=self.act, name="ffn_glu"), "ffn_down", self.hidden_size, layer)

    def gate_up(self, g: GraphBuilder, x: Value, layer: int) -> tuple[Value, Value]:
        gate = self.project(g, x, "ffn_gate", self.feed_forward_size, layer)
        return gate, self.project(g, x, "ffn_up", self.feed_forward_size, layer)

    def layer_rope(self, layer: int) -> Rope:
        return self.rope

    def layer_window(self, layer: int) -> int:
        return self.sliding_window

    def project(self, g: GraphBuilder, x: Value, role: str, width: int, layer: int) -> Value:
        weight = self.tensor(f"{role}.weight", (width, x.width), layer)
        bias = self.tensor(f"{role}.bias", (width,), layer) if role in self.biased else None
        return g.linear(x, weight, bias, name=role)

    def norm(self, g: GraphBuilder, x: Value, role: str, layer: int | None = None, size: int | None = None) -> Value:
        weight = self.tensor(f"{role}.weight", (size or x.width,), layer)
        return g.rms_norm(x, weight, eps=self.eps, offset=self.norm_offset, name=role)
