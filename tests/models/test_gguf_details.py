"""What GGUF files leave unsaid, and the two real ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.golden_models import GOLDENS
from support.model_to_gguf import convert_to_gguf

from pellucid.errors import FormatError
from pellucid.formats.checkpoint import Checkpoint, open_checkpoint
from pellucid.graph.ir import Graph
from pellucid.graph.weights import from_array
from pellucid.models.config import ModelConfig
from pellucid.models.registry import build_model


def gguf(case: str, folder: Path) -> Checkpoint:
    with open_checkpoint(GOLDENS / case) as original:
        return open_checkpoint(convert_to_gguf(original, folder / "model.gguf"))


def attention_attrs(graph: Graph, name: str) -> list[object]:
    return [node.attrs[name] for node in graph if node.op == "attention"]


@pytest.mark.parametrize(("num_layers", "scale"), [(46, 8**-0.5), (44, 16**-0.5)])
def test_gemma2_27b_is_known_by_its_number_of_layers(tmp_path: Path, num_layers: int, scale: float) -> None:
    ckpt = gguf("gemma2", tmp_path)
    metadata = {k: v for k, v in ckpt.metadata.items() if k != "gemma2.attention.scale"}
    tensors = {name: tensor for name, tensor in ckpt.tensors.items() if not name.startswith("blk.")}
    for layer in range(num_layers):
        for name, tensor in ckpt.tensors.items():
            if name.startswith(f"blk.{layer % 2}."):
                copy = name.replace(f"blk.{layer % 2}.", f"blk.{layer}.")
                tensors[copy] = replace(tensor, name=copy)
    deep = Checkpoint(ckpt.path, "gguf", metadata | {"gemma2.block_count": num_layers}, tensors)
    assert set(attention_attrs(build_model(deep)[1], "scale")) == {scale}


def test_gemma2_files_without_window_and_caps_mean_those_of_the_release(tmp_path: Path) -> None:
    ckpt = gguf("gemma2", tmp_path)
    left_out = ("gemma2.attention.sliding_window", "gemma2.attn_logit_softcapping", "gemma2.final_logit_softcapping")
    old = Checkpoint(
        ckpt.path, "gguf", {k: v for k, v in ckpt.metadata.items() if k not in left_out}, dict(ckpt.tensors)
    )
    graph = build_model(old)[1]
    assert attention_attrs(graph, "window") == [4096, 0]
    assert attention_attrs(graph, "softcap") == [50.0, 50.0]
    assert graph.nodes[-1].attrs["cap"] == 30.0


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_rope_factors_that_are_no_factors(tmp_path: Path, value: float) -> None:
    ckpt = gguf("llama3", tmp_path)
    factors = from_array("rope_freqs.weight", [1.0] * 7 + [value])
    spoilt = Checkpoint(ckpt.path, "gguf", ckpt.metadata, dict(ckpt.tensors) | {factors.name: factors})
    with pytest.raises(FormatError, match=r"tensor rope_freqs\.weight holds a value outside"):
        build_model(spoilt)


@pytest.mark.parametrize(("file_type", "label"), [(15, "Q4_K_M"), (None, "F32"), (999, "F32")])
def test_quantization_label(tmp_path: Path, file_type: int | None, label: str) -> None:
    ckpt = gguf("llama", tmp_path)
    metadata = ckpt.metadata if file_type is None else ckpt.metadata | {"general.file_type": file_type}
    assert build_model(Checkpoint(ckpt.path, "gguf", metadata, dict(ckpt.tensors)))[0].quantization == label


@pytest.mark.model
def test_smollm2(smollm2_path: Path) -> None:
    with open_checkpoint(smollm2_path) as ckpt:
        config, graph = build_model(ckpt)
    assert config == ModelConfig(
        architecture="llama",
        name="Smollm2 135M 8k Lc100K Mix1 Ep2",
        quantization="Q4_1",
        vocab_size=49152,
        hidden_size=576,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_size=64,
        feed_forward_size=1536,
        context_length=8192,
        sliding_window=0,
    )
    assert {node.attrs["style"] for node in graph if node.op == "rope"} == {"interleaved"}
    np.testing.assert_allclose(graph.weights()["rope.inv_freq"].dequantize()[[0, 16]], [1, 100000**-0.5], rtol=1e-6)


@pytest.mark.model
def test_gemma3(gemma3_path: Path) -> None:
    with open_checkpoint(gemma3_path) as ckpt:
        config, graph = build_model(ckpt)
    assert (config.vocab_size, config.num_layers, config.head_size, config.quantization) == (262144, 18, 256, "Q4_K_M")
    assert attention_attrs(graph, "window") == [512, 512, 512, 512, 512, 0] * 3
    tables = [node.weights["inv_freq"] for node in graph if node.op == "rope"]
    assert [table.name for table in tables[::2]] == [*["rope_local.inv_freq"] * 5, "rope.inv_freq"] * 3
    assert tables[0].dequantize()[64] == pytest.approx(10000**-0.5)
    assert tables[10].dequantize()[64] == pytest.approx(1e6**-0.5)
    assert graph.nodes[0].attrs["scale"] == 640**0.5
    assert {node.attrs["offset"] for node in graph if node.op == "rms_norm"} == {0.0}
