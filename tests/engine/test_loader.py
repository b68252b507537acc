"""Loading: how much KV cache an engine gets and for how long a context, and weights that are no numbers."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gguf_writer import U32
from support.safetensors_writer import write_safetensors
from support.tiny_model import HIDDEN, write_tiny_model

from pellucid import LLM, SamplingParams
from pellucid.config import MAX_THREADS, EngineConfig
from pellucid.engine.loader import available_memory, size_kv_cache, window_blocks
from pellucid.errors import FormatError, InvalidParameter, ResourceError
from pellucid.formats.quant import QuantType

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def size(context: int, block_nbytes: int, available: int, **settings: Any) -> tuple[int, int]:
    return size_kv_cache(EngineConfig(model="m", **settings), context, block_nbytes, available)


@pytest.mark.parametrize(
    ("context", "block_nbytes", "available", "settings", "expected"),
    [
        (100, KIB, 64 * GIB, {"max_num_seqs": 3}, (100, 21)),  # what three sequences of 7 blocks can use
        (8192, MIB, 64 * GIB, {}, (8192, 4096)),  # the default limit of 4 GiB
        (8192, MIB, 8 * GIB, {}, (8192, 2048)),  # a quarter of what is free
        (8192, MIB, 400 * MIB, {}, (1600, 100)),  # less than the model's context, which nobody asked for
        (8192, MIB, 400 * MIB, {"max_model_len": 1600}, (1600, 100)),
        (8192, MIB, 400 * MIB, {"max_model_len": 3200}, (3200, 200)),  # asked for: more than a quarter
        (8192, MIB, 0, {"kv_cache_memory": "600MiB"}, (8192, 600)),  # said by the user: not second-guessed
        (8192, MIB, 0, {"kv_cache_memory": "10MiB"}, (160, 10)),
        (8192, MIB, 0, {"kv_cache_memory": "10MiB", "max_model_len": 8192}, (8192, 10)),  # both said: no long answers
    ],
)
def test_sizes(context: int, block_nbytes: int, available: int, settings: Any, expected: tuple[int, int]) -> None:
    assert size(context, block_nbytes, available, **settings) == expected


@pytest.mark.parametrize(
    ("available", "settings", "message"),
    [
        (400 * MIB, {"max_model_len": 8192}, r"8192 tokens takes 512\.0 MiB, but it may take 360\.0 MiB"),
        (64 * GIB, {"kv_cache_memory": 1000}, "kv_cache_memory"),
        (0, {}, "kv_cache_memory"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_numbers(available: int, settings: Any, message: str) -> None:
    with pytest.raises(ResourceError, match=message):
        size(8192, MIB, available, **settings)


def test_a_group_with_a_window_has_room_for_the_windows_and_a_step() -> None:
    config = EngineConfig(model="m", max_num_seqs=4, max_num_batched_tokens=100)
    assert [window_blocks(config, window, 1000) for window in (0, 100, 10**6)] == [1000, 4 * (7 + 2) + 7, 1000]


def test_a_shorter_context_than_the_models_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        size(8192, MIB, 400 * MIB)
    assert "max_model_len is 1600, not the model's 8192" in caplog.text


def test_available_memory_is_plausible() -> None:
    assert 16 * MIB < available_memory() < 2**50


def fake_system(root: Path, own: str, groups: dict[str, tuple[str, int, int]]) -> Path:
    """A file system with 1000 MiB available and cgroup v2; groups map a path to (limit, MiB used, MiB reclaimable)."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal:  2048000 kB\nMemAvailable:  1024000 kB\nHugePages_Total:  0\n")
    (root / "proc/self/cgroup").write_text(f"4:memory:/elsewhere\n0::{own}\n")
    for path, (limit, used, reclaimable) in groups.items():
        folder = root / "sys/fs/cgroup" / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text(f"{used * MIB}\n")
        (folder / "memory.stat").write_text(f"anon 1\nfile 9\ninactive_file {reclaimable * MIB}\nactive_file 8\n")
    return root


@pytest.mark.parametrize(
    ("own", "groups", "expected"),
    [
        ("/", {}, 1000),
        ("/a/b", {"a": ("max", 500, 0), "a/b": ("max", 500, 0)}, 1000),
        ("/a/b", {"a/b": (str(300 * MIB), 250, 200)}, 250),  # cached pages of a model file are given back when needed
        ("/a/b", {"a": (str(300 * MIB), 100, 0), "a/b": (str(600 * MIB), 100, 0)}, 200),  # the group above is tighter
        ("/a/b", {"a": (str(900 * MIB), 0, 0), "c": (str(MIB), 0, 0)}, 900),  # another's limit is not ours
        ("/a", {"a": (str(100 * MIB), 150, 0)}, 0),
        ("/../a", {"": (str(70 * MIB), 0, 0), "a": (str(MIB), 0, 0)}, 70),  # outside of what is mounted here
    ],
)
def test_available_memory_heeds_every_control_group(
    tmp_path: Path, own: str, groups: dict[str, tuple[str, int, int]], expected: int
) -> None:
    assert available_memory(fake_system(tmp_path, own, groups)) == expected * MIB


def test_a_nan_scale_of_a_gguf_is_refused(tmp_path: Path) -> None:
    blocks = np.zeros((259, 34), np.uint8)  # Q8_0: an F16 scale and 32 weights; a row of the head is one block
    whole = {"output.weight": (QuantType.Q8_0, (259, HIDDEN), blocks.copy())}
    blocks[100, :2] = 0x00, 0x7E
    damaged = {"output.weight": (QuantType.Q8_0, (259, HIDDEN), blocks)}
    LLM(str(write_tiny_model(tmp_path / "whole.gguf", tensors=whole)), threads=1).close()
    with pytest.raises(FormatError, match=r"'output\.weight' holds NaN or infinity in its Q8_0 block 100 of 259"):
        LLM(str(write_tiny_model(tmp_path / "damaged.gguf", tensors=damaged)), threads=1)


def test_an_infinite_weight_of_safetensors_is_refused(tmp_path: Path) -> None:
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5, **sizes, **heads}
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    layer = [*(f"self_attn.{x}_proj" for x in "qkvo"), *(f"mlp.{x}_proj" for x in ("gate", "up", "down"))]
    tensors = {f"model.layers.0.{name}.weight": np.ones((16, 16), np.float32) for name in layer}
    tensors |= {
        f"model.{name}.weight": np.ones(16, np.float32)
        for name in ("norm", "layers.0.input_layernorm", "layers.0.post_attention_layernorm")
    }
    tensors["model.embed_tokens.weight"] = np.ones((32, 16), np.float32)
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = np.inf
    write_safetensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(FormatError, match=r"mlp\.up_proj\.weight' holds NaN or infinity"):
        LLM(str(tmp_path), threads=1)


def test_a_receipts_length_repeats_a_context_that_was_cut(tmp_path: Path) -> None:
    factors = {
        f"rope_factors_{name}.weight": (QuantType.F32, (HIDDEN // 4,), np.full(HIDDEN // 4, value, np.float32))
        for name, value in (("short", 1.0), ("long", 9.0))
    }
    original: Any = {"llama.rope.scaling.original_context_length": U32(64), "llama.rope.scaling.type": "longrope"}
    path = str(write_tiny_model(tmp_path / "long.gguf", tensors=factors, **original))
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=1)
    with LLM(path, threads=1, kv_cache_memory="16KiB") as cut:
        [first] = cut.generate("some words", params)
    assert first.receipt.max_model_len <= 64
    with LLM(path, threads=1, max_model_len=first.receipt.max_model_len) as again:
        assert again.generate("some words", params)[0].outputs == first.outputs
    with LLM(path, threads=1) as whole:  # the control: long factors give something else
        assert whole.generate("some words", params)[0].outputs != first.outputs


def test_more_threads_than_an_executor_takes_are_refused() -> None:
    EngineConfig(model="m", threads=MAX_THREADS)
    with pytest.raises(InvalidParameter, match="threads"):
        EngineConfig(model="m", threads=MAX_THREADS + 1)
