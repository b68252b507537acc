"""Sound files that look odd, read and not refused: what the refusals must leave alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.blocks import random_blocks
from support.gguf_writer import ARRAY, F64, I32, STRING, U16, U32, Array, write_gguf
from support.safetensors_writer import bf16, write_safetensors
from support.tiny_model import write_tiny_model

from pellucid.formats.checkpoint import open_checkpoint
from pellucid.formats.finite import check_finite
from pellucid.formats.quant import QuantType
from pellucid.models.registry import build_model
from pellucid.text.tokenizer import Tokenizer

W = np.arange(8, dtype=np.float32).reshape(2, 4)
TENSORS = {"w": (QuantType.F32, (2, 4), W)}
Writer = Callable[[Path], Path]


def with_metadata(**metadata: object) -> Writer:
    return lambda folder: write_gguf(folder / "a.gguf", metadata, TENSORS)


def with_type(type: QuantType) -> Writer:
    blocks = random_blocks(type, 512 // type.block_size)
    return lambda folder: write_gguf(folder / "a.gguf", {}, {"w": (type, (2, 256), blocks)})


def with_layout(version: int, alignment: int) -> Writer:
    tensors = TENSORS | {"b": (QuantType.F32, (1,), W[0, :1])}
    return lambda folder: write_gguf(folder / "a.gguf", {}, tensors, version, alignment)


def split(folder: Path) -> Path:
    for number in range(2):
        keys = {"split.no": U16(number), "split.count": U16(2), "split.tensors.count": I32(2)}
        write_gguf(folder / f"a-{number + 1:05}-of-00002.gguf", keys, {f"w{number}": TENSORS["w"]})
    return folder / "a-00001-of-00002.gguf"


def folder_of(*tensors: object, config: str = "{}") -> Writer:
    def write(folder: Path) -> Path:
        (folder / "config.json").write_text(config)
        write_safetensors(folder / "model.safetensors", dict(zip("abcdef", tensors, strict=False)))  # type: ignore[arg-type]
        return folder

    return write


def sharded(folder: Path) -> Path:
    (folder / "config.json").write_text("{}")
    names = [f"model-{part:05}-of-00002.safetensors" for part in (1, 2)]
    for tensor, name in zip("ab", names, strict=True):
        write_safetensors(folder / name, {tensor: W})
    weight_map = dict(zip("ab", names, strict=True))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


CONTROLS: dict[str, Writer] = {
    **{f"GGUF v{v}, alignment {a}": with_layout(v, a) for v in (2, 3) for a in (8, 32, 4096)},
    **{f"type {type.name}": with_type(type) for type in QuantType},
    "no metadata": with_metadata(),
    "an empty text": with_metadata(key=""),
    "an empty array of texts": with_metadata(key=Array(STRING, [])),
    "an empty array of numbers": with_metadata(key=np.zeros(0, np.float32)),
    "an empty array of arrays": with_metadata(key=Array(ARRAY, [])),
    "arrays in an array": with_metadata(key=Array(ARRAY, [Array(STRING, ["a"]), Array(4, [1])])),
    "200,000 texts": with_metadata(key=[f"token {i}" for i in range(200_000)]),
    "texts of every length": with_metadata(key=["é" * n for n in range(300)]),
    "a text of 16 MiB": with_metadata(key="x" * (16 << 20)),
    "32 MiB of numbers": with_metadata(key=np.zeros(4 << 20, np.float64)),
    "a text with NUL and line ends": with_metadata(key="a\0b\r\n"),
    "the largest double": with_metadata(key=F64(1.7976931348623157e308)),
    "unknown keys": with_metadata(**{"x.y": U32(1), "general.quantized_by": "me"}),
    "a split model": split,
    "F32": folder_of(W),
    "F16": folder_of(W.astype(np.float16)),
    "BF16": folder_of(bf16(W)),
    "all three": folder_of(W, W.astype(np.float16), bf16(W)),
    "a scalar and an empty tensor": folder_of(np.array(1, np.float32), np.zeros((0, 4), np.float32)),
    "a config with every kind of JSON": folder_of(W, config='{"a": [1, -0.5, null, true, {"b": "\\u00e9"}]}'),
    "sharded": sharded,
}


@pytest.mark.parametrize("name", CONTROLS)
def test_sound_files_are_read(tmp_path: Path, name: str) -> None:
    with open_checkpoint(CONTROLS[name](tmp_path)) as checkpoint:
        assert checkpoint.tensors
        for tensor in checkpoint.tensors.values():
            check_finite(tensor)
            assert tensor.dequantize().shape == tensor.shape


def test_there_are_enough() -> None:
    assert len(CONTROLS) >= 20


def test_a_whole_model_is_built(tmp_path: Path) -> None:
    with open_checkpoint(write_tiny_model(tmp_path / "tiny.gguf")) as checkpoint:
        config, graph = build_model(checkpoint)
        assert graph.outputs["logits"].width == config.vocab_size == Tokenizer.from_checkpoint(checkpoint).vocab_size
