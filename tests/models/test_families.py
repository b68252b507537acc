"""Every family: equal to transformers, to itself however it is run, and the same from a GGUF file."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.golden_models import (
    CASES,
    EXECUTORS,
    GOLDENS,
    RUNS,
    all_logits,
    altered,
    build_case,
    compile_for,
    load_config,
    load_golden,
)
from support.model_to_gguf import convert_to_gguf
from support.steps import batched, chunked

from pellucid.errors import UnsupportedModel
from pellucid.formats.checkpoint import open_checkpoint
from pellucid.graph.passes.fuse import fuse
from pellucid.models.registry import FAMILIES, build_model

TOLERANCE = 1e-4
"""Of the logits' range. Both sides compute in float32, in another order; the largest seen is 5e-6."""


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(("case", "run"), RUNS)
def test_logits_equal_transformers(case: str, run: str, executor: str) -> None:
    golden = load_golden(case, run)
    graph = build_case(case, golden.max_model_len)
    assert golden.error(all_logits(graph, executor, golden.tokens)) < TOLERANCE
    assert golden.error(all_logits(fuse(graph), executor, golden.tokens)) < TOLERANCE


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("case", CASES)
def test_decode_chunked_and_batched_equal_the_golden(case: str, executor: str) -> None:
    golden = load_golden(case, "long" if case == "phi3-longrope" else "full")
    graph = fuse(build_case(case, golden.max_model_len))
    tokens = golden.tokens
    ways = {
        "decode": lambda: chunked(program, tokens, 1),
        "chunked": lambda: chunked(program, tokens, 33),
        "batched": lambda: batched(program, [tokens[:17], tokens, tokens[:1]], 29)[1],
    }
    program = compile_for(graph, executor, 2 * len(tokens))
    errors = {name: golden.error(run()) for name, run in ways.items()}
    program.close()
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("case", [case for case in CASES if case != "qwen2-window"])
def test_the_same_model_as_gguf_gives_the_same_logits(case: str, tmp_path: Path) -> None:
    with open_checkpoint(GOLDENS / case) as original:
        path = convert_to_gguf(original, tmp_path / f"{case}.gguf")
    for run in [run for name, run in RUNS if name == case]:
        golden = load_golden(case, run)
        with open_checkpoint(path) as ckpt:
            config, graph = build_model(ckpt, max_model_len=golden.max_model_len)
        assert golden.error(all_logits(graph, "reference", golden.tokens)) < TOLERANCE
        with open_checkpoint(GOLDENS / case) as original:
            expected, _ = build_model(original)
        ignored = {"name", "quantization", "architecture"}
        assert {k: v for k, v in vars(config).items() if k not in ignored} == {
            k: v for k, v in vars(expected).items() if k not in ignored
        }


def test_qwen2_windows_have_no_gguf_key(tmp_path: Path) -> None:
    with open_checkpoint(GOLDENS / "qwen2-window") as original:
        path = convert_to_gguf(original, tmp_path / "model.gguf")
    with open_checkpoint(path) as ckpt, pytest.raises(UnsupportedModel, match=r"qwen2\.attention\.sliding_window = 12"):
        build_model(ckpt)


ROPE = {case: load_config(case).get("rope_parameters", {}) for case in CASES}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

# Settings without which the golden logits must not come out: else the case does not test them.
THAT_MATTER = [
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
    ("llama", {"rms_norm_eps": 0.1}),
    ("llama-linear", {"rope_parameters": PLAIN_ROPE}),
    ("llama3", {"rope_parameters": PLAIN_ROPE | {"rope_theta": 500.0}}),
    ("llama3", {"rope_parameters": ROPE["llama3"] | {"original_max_position_embeddings": 32}}),
    ("llama3", {"rope_parameters": ROPE["llama3"] | {"low_freq_factor": 2.0}}),
    ("llama3", {"rope_parameters": ROPE["llama3"] | {"high_freq_factor": 8.0}}),
    ("mistral", {"sliding_window": None}),
    ("mistral", {"sliding_window": 17}),
    ("qwen2-window", {"layer_types": ["full_attention", "full_attention"]}),
    ("gemma2", {"layer_types": ["full_attention", "full_attention"]}),
    ("gemma2", {"layer_types": ["full_attention", "sliding_attention"]}),
    ("gemma2", {"attn_logit_softcapping": None}),
    ("gemma2", {"final_logit_softcapping": None}),
    ("gemma2", {"query_pre_attn_scalar": 16}),
    ("gemma3", {"sliding_window": 513}),
    ("gemma3", {"layer_types": ["sliding_attention"] * 7}),
    ("gemma3", {"query_pre_attn_scalar": 16}),
    ("gemma3", {"rope_parameters": ROPE["gemma3"] | {"sliding_attention": PLAIN_ROPE}}),
    ("gemma3", {"rope_parameters": ROPE["gemma3"] | {"full_attention": PLAIN_ROPE | {"rope_theta": 5000.0}}}),
    ("phi3", {"sliding_window": None}),
    ("phi3-longrope", {"rope_parameters": ROPE["phi3-longrope"] | {"attention_factor": 1.0}}),
    ("phi3-longrope", {"rope_parameters": ROPE["phi3-longrope"] | {"long_factor": [1.0] * 6}}),
    ("gpt2", {"layer_norm_epsilon": 0.1}),
]


@pytest.mark.parametrize(("case", "changes"), THAT_MATTER)
def test_each_setting_changes_the_logits(case: str, changes: dict[str, object]) -> None:
    golden = load_golden(case, "long" if case == "phi3-longrope" else "full")
    with altered(case, changes) as ckpt:
        graph = build_model(ckpt)[1]
    assert golden.error(all_logits(graph, "reference", golden.tokens)) > 10 * TOLERANCE


def test_the_two_longrope_tables_differ() -> None:
    golden = load_golden("phi3-longrope", "short")
    assert golden.error(all_logits(build_case("phi3-longrope"), "reference", golden.tokens)) > 10 * TOLERANCE


def test_every_family_has_a_golden() -> None:
    covered = {load_config(case)["architectures"][0] for case in CASES}
    assert covered == {family.hf_architecture for family in FAMILIES}
