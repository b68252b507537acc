"""Makes tests/goldens/models: tiny random checkpoints of every family, and the logits transformers gives for them.

    python scripts/make_model_goldens.py [CASE …]

Needs the `parity` extra (torch, transformers). A case is a folder: config.json and model.safetensors as save_pretrained
writes them, and for each run a RUN.npz with `tokens` [T], the `positions` [P] whose `logits` [P, V] were
kept (float32), and `max_model_len` (0: the model's own). Weights are stored in 16 bits and computed with in float32.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

GOLDENS = Path(__file__).resolve().parents[1] / "tests" / "goldens" / "models"
VOCAB = 96

SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,  # small, so that 8 frequencies fall on both sides of and between the two bounds
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.2, 1.4, 1.7, 2.1],
    "long_factor": [1.3, 2.0, 3.0, 5.0, 7.0, 9.0],
}
GEMMA = {"head_dim": 16, "rms_norm_eps": 1e-6, "tie_word_embeddings": True}


@dataclass(frozen=True)
class Run:
    length: int
    max_model_len: int = 0


@dataclass(frozen=True)
class Case:
    """`dtype` is how the weights are stored. `norm_mean` is 0 where the family stores its norms less one."""

    model: type[transformers.PreTrainedModel]
    config: transformers.PretrainedConfig
    runs: dict[str, Run]
    dtype: torch.dtype = torch.float16
    norm_mean: float = 1.0


def cases() -> dict[str, Case]:
    t = transformers
    full = {"full": Run(40)}
    return {
        "llama": Case(t.LlamaForCausalLM, t.LlamaConfig(**SMALL), full),
        "llama-bias-tied": Case(
            t.LlamaForCausalLM,
            t.LlamaConfig(**SMALL, head_dim=16, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
            full,
        ),
        "llama-linear": Case(
            t.LlamaForCausalLM,
            t.LlamaConfig(**SMALL, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
            {"full": Run(100)},
        ),
        "llama3": Case(
            t.LlamaForCausalLM, t.LlamaConfig(**SMALL, head_dim=16, rope_parameters=LLAMA3), {"full": Run(200)}
        ),
        "mistral": Case(t.MistralForCausalLM, t.MistralConfig(**SMALL, sliding_window=16), {"full": Run(60)}),
        "qwen2": Case(t.Qwen2ForCausalLM, t.Qwen2Config(**SMALL, tie_word_embeddings=True), full, dtype=torch.bfloat16),
        "qwen2-window": Case(
            t.Qwen2ForCausalLM,
            t.Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=12, max_window_layers=1),
            {"full": Run(60)},
        ),
        "qwen3": Case(
            t.Qwen3ForCausalLM, t.Qwen3Config(**SMALL, head_dim=16, tie_word_embeddings=True), full, torch.bfloat16
        ),
        "gemma": Case(t.GemmaForCausalLM, t.GemmaConfig(**SMALL | GEMMA), full, torch.bfloat16, norm_mean=0.0),
        "gemma2": Case(
            t.Gemma2ForCausalLM,
            t.Gemma2Config(
                **SMALL | GEMMA,
                sliding_window=12,
                query_pre_attn_scalar=24,
                attn_logit_softcapping=4.0,
                final_logit_softcapping=6.0,
            ),
            {"full": Run(60)},
            norm_mean=0.0,
        ),
        "gemma3": Case(
            t.Gemma3ForCausalLM,
            t.Gemma3TextConfig(
                **SMALL | GEMMA | {"num_hidden_layers": 7, "max_position_embeddings": 1024},
                sliding_window=512,
                query_pre_attn_scalar=24,
                rope_parameters={
                    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
                },
            ),
            {"full": Run(640)},
            norm_mean=0.0,
        ),
        "phi3": Case(t.Phi3ForCausalLM, t.Phi3Config(**SMALL, sliding_window=20, pad_token_id=0), {"full": Run(60)}),
        "phi3-longrope": Case(
            t.Phi3ForCausalLM,
            t.Phi3Config(
                **SMALL | {"hidden_size": 64},
                original_max_position_embeddings=48,
                rope_parameters=LONGROPE,
                pad_token_id=0,
            ),
            {"short": Run(48, max_model_len=48), "long": Run(120)},
        ),
        "gpt2": Case(
            t.GPT2LMHeadModel,
            t.GPT2Config(vocab_size=VOCAB, n_positions=64, n_embd=32, n_layer=2, n_head=4),
            full,
        ),
        "gpt2-untied": Case(
            t.GPT2LMHeadModel,
            t.GPT2Config(
                vocab_size=VOCAB, n_positions=64, n_embd=32, n_layer=2, n_head=2, n_inner=48, tie_word_embeddings=False
            ),
            full,
        ),
    }


def randomise(case: Case, model: transformers.PreTrainedModel, seed: int) -> None:
    """Weights such that attention is far from uniform, no layer drowns the others, and norms and biases are felt."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                is_norm = name.endswith("weight")
                values = case.norm_mean + 0.3 * noise if is_norm else 0.5 * noise
            elif any(part in name for part in ("embed_tokens", "wte", "wpe", "lm_head")):
                values = 0.3 * noise if case.norm_mean == 0 or "wpe" in name else noise  # Gemma multiplies by √E
            else:
                inputs = parameter.shape[0 if "c_" in name else 1]
                gain = 2.5 if any(part in name for part in ("q_proj", "k_proj", "qkv_proj", "c_attn")) else 1.5
                values = gain * noise / inputs**0.5
            parameter.copy_(values)


def kept_positions(length: int) -> list[int]:
    """The first, some between, and the last ones: at most 16."""
    return sorted({*range(4), *np.linspace(4, length - 1, 6, dtype=int).tolist(), *range(length - 6, length)})


def make(name: str, case: Case, seed: int) -> None:
    folder = GOLDENS / name
    folder.mkdir(parents=True, exist_ok=True)
    model = case.model(case.config)
    randomise(case, model, seed)
    with tempfile.TemporaryDirectory() as saved:
        model.to(case.dtype).save_pretrained(saved)
        for file in ("config.json", "model.safetensors"):
            (folder / file).write_bytes((Path(saved) / file).read_bytes())
    model = case.model.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    for run_name, run in case.runs.items():
        tokens = torch.randint(0, VOCAB, (run.length,), generator=torch.Generator().manual_seed(seed + 1))
        with torch.no_grad():
            logits = model(tokens[None]).logits[0]
        positions = kept_positions(run.length)
        kept = logits[positions].float().numpy()
        arrays: dict[str, Any] = {
            "tokens": tokens.numpy().astype(np.int32),
            "positions": np.array(positions, np.int32),
            "logits": kept,
            "max_model_len": np.int32(run.max_model_len),
        }
        np.savez(folder / f"{run_name}.npz", **arrays)
        entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
        print(f"{name}/{run_name}: logits {kept.min():.2f} to {kept.max():.2f}, mean entropy {entropy:.2f} nats")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help="names of cases to make; all of them if none is given")
    wanted = parser.parse_args().cases
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for seed, (name, case) in enumerate(cases().items()):
        if not wanted or name in wanted:
            make(name, case, 1000 * seed)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    (GOLDENS / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")


if __name__ == "__main__":
    main()
