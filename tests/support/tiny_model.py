"""A complete model of a few kilobytes: one Llama layer with random weights and a vocabulary of bytes, with ChatML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from support.gguf_writer import F32, U32, write_gguf

from pellucid.formats.quant import QuantType

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>"]
HIDDEN, HEADS, FEED_FORWARD = 32, 2, 64


def write_tiny_model(
    path: Path,
    *,
    template: str | None = CHATML,
    context: int = 256,
    special: Sequence[str] = (),
    tensors: Mapping[str, tuple[QuantType, tuple[int, ...], bytes | np.ndarray]] | None = None,
    **metadata: object,
) -> Path:
    """Write the model to `path`, a .gguf file; returns the path. `template` None makes it a base model.

    special: control tokens besides its own. `tensors` replace its own, or are added to them.
    """
    tokens = [*byte_characters(), "ab", *SPECIAL, *special]  # a vocabulary with no merge at all is not sound
    facts: dict[str, object] = {
        "general.architecture": "llama",
        "general.name": "tiny",
        "llama.block_count": U32(1),
        "llama.context_length": U32(context),
        "llama.embedding_length": U32(HIDDEN),
        "llama.feed_forward_length": U32(FEED_FORWARD),
        "llama.attention.head_count": U32(HEADS),
        "llama.attention.head_count_kv": U32(HEADS),
        "llama.attention.layer_norm_rms_epsilon": F32(1e-5),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 257 + [3] * (len(tokens) - 257),
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": U32(tokens.index("<|im_end|>")),
        **metadata,
    }
    if template is not None:
        facts["tokenizer.chat_template"] = template
    random = np.random.default_rng(0)
    shapes = {"token_embd.weight": (len(tokens), HIDDEN), "output.weight": (len(tokens), HIDDEN)}
    shapes |= {f"blk.0.attn_{part}.weight": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")}
    shapes |= {f"blk.0.ffn_{part}.weight": (FEED_FORWARD, HIDDEN) for part in ("gate", "up")}
    shapes["blk.0.ffn_down.weight"] = (HIDDEN, FEED_FORWARD)
    arrays = {name: random.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    arrays |= {
        name: np.ones(HIDDEN, np.float32)
        for name in ("output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight")
    }
    arrays["output.weight"][tokens.index("<|im_end|>")] = (
        0  # a logit of 0 is never the largest: greedy answers are endless
    )
    own = {name: (QuantType.F32, array.shape, array) for name, array in arrays.items()}
    write_gguf(path, facts, {**own, **(tensors or {})})
    return path


def byte_characters() -> list[str]:
    """GPT-2's printable stand-in for each of the 256 bytes (Radford et al. 2019, encoder.py), by byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
