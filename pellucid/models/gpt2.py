"""GPT-2: LayerNorm, learned positions, GELU, biases everywhere. Radford et al. 2019.

Hugging Face checkpoints hold their matrices as [inputs, outputs]; GGUF files have them turned round.
"""

from __future__ import annotations

from typing import ClassVar

from pellucid.graph.builder import GraphBuilder
from pellucid.graph.ir import Value
from pellucid.graph.weights import Weights
from pellucid.models.family import Family
from pellucid.models.reader import ConfigReader


class GPT2(Family):
    gguf_architecture = "gpt2"
    hf_architecture = "GPT2LMHeadModel"
    hf_model_type = "gpt2"
    hf_keys: ClassVar[dict[str, str]] = {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
        "layer_norm_eps": "layer_norm_epsilon",
    }
    hf_tensors: ClassVar[dict[str, str]] = {
        "token_embd": "transformer.wte",
        "position_embd": "transformer.wpe",
        "attn_norm": "transformer.h.{}.ln_1",
        "attn_qkv": "transformer.h.{}.attn.c_attn",
        "attn_output": "transformer.h.{}.attn.c_proj",
        "ffn_norm": "transformer.h.{}.ln_2",
        "ffn_up": "transformer.h.{}.mlp.c_fc",
        "ffn_down": "transformer.h.{}.mlp.c_proj",
        "output_norm": "transformer.ln_f",
        "output": "lm_head",
    }
    tied_by_default = True
    feed_forward_ratio = 4

    def __init__(self, reader: ConfigReader, weights: Weights, *, is_gguf: bool, max_model_len: int | None) -> None:
        super().__init__(reader, weights, is_gguf=is_gguf, max_model_len=max_model_len)
        self.eps = reader.number("layer_norm_eps", maximum=1.0)
        if not is_gguf:
            reader.neutral("activation_function", "gelu_new", "gelu_pytorch_tanh")
            reader.neutral("scale_attn_weights", True)
            reader.neutral("scale_attn_by_inverse_layer_idx", False)
            reader.neutral("n_ctx", self.context_length)
            reader.ignore("reorder_and_upcast_attn", "attn_pdrop", "embd_pdrop", "resid_pdrop")
            reader.ignore(*(f"summary_{key}" for key in ("type", "use_proj", "activation", "proj_to_labels")))
            reader.ignore("summary_first_dropout")
            for layer in range(self.num_layers):  # the causal mask, which old files hold
                weights.ignore(self.tensor_name("attn_qkv.bias", layer).replace("c_attn.", ""))
                weights.ignore(self.tensor_name("attn_qkv.bias", layer).replace("c_attn.", "masked_"))

    def tensor_name(self, role: str, layer: int | None = None) -> str:
        """Files of the model without its head, such as OpenAI's own, have no "transformer." in front."""
        name = super().tensor_name(role, layer)
        return name.removeprefix("transformer.") if self.weights.has("wte.weight") else name

    def build(self, g: GraphBuilder) -> Value:
        position_embd = self.tensor("position_embd.weight", (self.context_length, self.hidden_size))
        tokens = g.embed(self.embedding, name="token_embd")
        x = g.add(tokens, g.embed(position_embd, source="positions", name="position_embd"), name="embed")
        for layer in range(self.num_layers):
            with g.layer(layer):
                h = self.norm(g, x, "attn_norm", layer)
                x = g.add(x, self.attention(g, h, layer), name="attn_residual")
                h = self.project(g, self.norm(g, x, "ffn_norm", layer), "ffn_up", self.feed_forward_size, layer)
                h = g.act(h, act="gelu_tanh", name="ffn_act")
                x = g.add(x, self.project(g, h, "ffn_down", self.hidden_size, layer), name="ffn_residual")
        x = self.norm(g, g.select(x, name="select"), "output_norm")
        return g.linear(x, self.head, name="logits")

    def attention(self, g: GraphBuilder, x: Value, layer: int) -> Value:
        width = self.hidden_size
        qkv = self.project(g, x, "attn_qkv", 3 * width, layer)
        out = g.attention(
            g.slice(qkv, 0, width, name="attn_q"),
            g.slice(qkv, width, width, name="attn_k"),
            g.slice(qkv, 2 * width, width, name="attn_v"),
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_size=self.head_size,
            scale=self.head_size**-0.5,
            name="attn",
        )
        return self.project(g, out, "attn_output", width, layer)

    def project(self, g: GraphBuilder, x: Value, role: str, width: int, layer: int) -> Value:
        name, shape = f"{role}.weight", (width, x.width)
        if self.is_gguf:
            weight = self.tensor(name, shape, layer)
        else:
            weight = self.weights.transposed(self.tensor_name(name, layer), shape)
        return g.linear(x, weight, self.tensor(f"{role}.bias", (width,), layer), name=role)

    def norm(self, g: GraphBuilder, x: Value, role: str, layer: int | None = None) -> Value:
        weight = self.tensor(f"{role}.weight", (x.width,), layer)
        return g.layer_norm(x, weight, self.tensor(f"{role}.bias", (x.width,), layer), eps=self.eps, name=role)
