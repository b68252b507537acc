"""Reading sound safetensors files, sharded or not, and what lies beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from support.gguf_writer import write_gguf
from support.safetensors_writer import assemble, bf16, write_safetensors

from pellucid.formats.checkpoint import open_checkpoint
from pellucid.formats.quant import QuantType
from pellucid.formats.safetensors import read_safetensors

W = np.arange(6, dtype=np.float32).reshape(2, 3)


def model_folder(folder: Path, config: object = None) -> Path:
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    write_safetensors(folder / "model.safetensors", {"w": W})
    return folder


def sharded_folder(folder: Path) -> Path:
    (folder / "config.json").write_text("{}")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    write_safetensors(folder / names[0], {"b": W, "a": W + 1})
    write_safetensors(folder / names[1], {"c": W + 2})
    weight_map = {"a": names[0], "b": names[0], "c": names[1]}
    index = {"metadata": {"total_size": 72}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_dtypes_and_shapes(tmp_path: Path) -> None:
    stored = {
        "f32": W,
        "f16": W.astype(np.float16),
        "bf16": bf16(W),
        "scalar": np.array(7, np.float32),
        "empty": np.zeros((0, 5), np.float32),
        "four": np.ones((1, 2, 1, 2), np.float32),
    }
    tensors = read_safetensors(write_safetensors(tmp_path / "a.safetensors", stored, {"format": "pt"}))
    assert list(tensors) == list(stored)
    assert [t.type for t in tensors.values()][:3] == [QuantType.F32, QuantType.F16, QuantType.BF16]
    for name in ("f32", "f16", "bf16"):
        np.testing.assert_array_equal(tensors[name].dequantize(), W)
    assert tensors["scalar"].dequantize() == 7
    assert tensors["empty"].dequantize().shape == (0, 5)
    assert tensors["four"].shape == (1, 2, 1, 2)
    assert not tensors["f32"].data.flags.writeable


def test_the_package_safetensors_writes_what_we_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"w": W, "half": W.astype(np.float16)}, path, {"format": "np"})
    tensors = read_safetensors(path)
    np.testing.assert_array_equal(tensors["w"].dequantize(), W)
    np.testing.assert_array_equal(tensors["half"].dequantize(), W)


def test_our_test_writer_writes_what_the_package_reads(tmp_path: Path) -> None:
    loaded = safetensors.numpy.load_file(write_safetensors(tmp_path / "a.safetensors", {"w": W}, {"a": "b"}))
    np.testing.assert_array_equal(loaded["w"], W)


def test_a_header_padded_with_spaces_or_not_at_all(tmp_path: Path) -> None:
    entry = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    for padding in range(9):
        path = tmp_path / "a.safetensors"
        path.write_bytes(assemble(json.dumps(entry).encode() + b" " * padding, np.float32(3).tobytes()))
        assert read_safetensors(path)["w"].dequantize() == 3


def test_a_file_without_tensors(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(assemble({}))
    assert read_safetensors(tmp_path / "a.safetensors") == {}


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with open_checkpoint(model_folder(tmp_path, {"model_type": "llama", "hidden_size": 3})) as checkpoint:
        assert checkpoint.format == "safetensors"
        assert checkpoint.path == tmp_path
        assert checkpoint.metadata == {"model_type": "llama", "hidden_size": 3}
        assert checkpoint.folder_file("tokenizer.json") == tmp_path / "tokenizer.json"
        assert checkpoint.folder_file("chat_template.jinja") is None
        checkpoint.check_finite()


def test_a_file_of_a_folder(tmp_path: Path) -> None:
    write_safetensors(model_folder(tmp_path) / "other.safetensors", {"other": W})
    assert list(open_checkpoint(tmp_path / "other.safetensors").tensors) == ["other"]
    assert list(open_checkpoint(tmp_path / "model.safetensors").tensors) == ["w"]


@pytest.mark.parametrize("named", ["", "model-00002-of-00002.safetensors"])
def test_shards(tmp_path: Path, named: str) -> None:
    with open_checkpoint(sharded_folder(tmp_path) / named) as checkpoint:
        assert list(checkpoint.tensors) == ["a", "b", "c"]
        np.testing.assert_array_equal(checkpoint.tensors["a"].dequantize(), W + 1)
        np.testing.assert_array_equal(checkpoint.tensors["c"].dequantize(), W + 2)


def test_a_hugging_face_cache_links_into_its_blobs(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123abc"
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (model_folder(blobs) / name).rename(blobs / f"sha-of-{name}")
        (snapshot / name).symlink_to(f"../../blobs/sha-of-{name}")
    assert list(open_checkpoint(snapshot).tensors) == ["w"]
    write_gguf(blobs / "sha-of-gguf", {"k": "v"}, {})
    (snapshot / "m.gguf").symlink_to("../../blobs/sha-of-gguf")
    assert open_checkpoint(snapshot / "m.gguf").metadata == {"k": "v"}


def test_code_in_the_folder_is_ignored_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "modeling.py").write_text("raise SystemExit('executed')")
    model_folder(tmp_path, {"auto_map": {"AutoModel": "modeling.Model"}})
    with pytest.warns(UserWarning, match="never runs it"):
        open_checkpoint(tmp_path)


@pytest.mark.model
def test_the_story_model_equals_the_package_safetensors(story_path: Path) -> None:
    expected = safetensors.numpy.load_file(story_path / "model.safetensors")
    with open_checkpoint(story_path) as checkpoint:
        checkpoint.check_finite()
        assert checkpoint.tensors.keys() == expected.keys()
        for name, tensor in checkpoint.tensors.items():
            np.testing.assert_array_equal(tensor.dequantize(), expected[name])
