"""Model folders and safetensors files that lie: each is refused with its reason, fast and without memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.hostile import assert_refused
from support.safetensors_writer import assemble, write_safetensors

from pellucid.errors import FormatError, ModelNotFound, PellucidError, UnsupportedModel
from pellucid.formats.checkpoint import open_checkpoint
from pellucid.formats.folder import inside
from pellucid.formats.safetensors import read_safetensors

W = np.zeros(4, np.float32)


def entry(dtype: Any = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def one(**changes: Any) -> bytes:
    return assemble({"w": entry(**changes)}, bytes(16))


def two(first: tuple[int, int], second: tuple[int, int], nbytes: int = 32) -> bytes:
    return assemble({"a": entry(offsets=first), "b": entry(offsets=second)}, bytes(nbytes))


DEEP = b"[" * 100_000

DAMAGED_FILES = {
    "empty": (b"", "is empty"),
    "seven bytes": (b"\2" + b"\0" * 6, "header of 2 bytes, but has 7"),
    "header length 0": (assemble(b"{}", header_nbytes=0), "header of 0 bytes"),
    "header length 1": (assemble(b"{}", header_nbytes=1), "header of 1 bytes"),
    "header length 2^64-1": (assemble(b"{}", header_nbytes=2**64 - 1), "header of 18446744073709551615 bytes"),
    "header longer than the file": (assemble(b"{}", header_nbytes=3), "header of 3 bytes, but has 10 bytes in all"),
    "header above the limit": (assemble(b" " * (3 << 20)), "header of 3145728 bytes, the limit is"),
    "header not UTF-8": (assemble(b'{"\xff": 1}'), "is not UTF-8"),
    "header not JSON": (assemble(b"{'w': 1}"), "is not valid JSON"),
    "header with text after it": (assemble(b"{} x"), "is not valid JSON"),
    "header with an endless string": (assemble(b'{"' + b'\\"' * 500_000), "is not valid JSON"),
    "header a list": (assemble([]), "holds a JSON list, expected an object"),
    "header 100,000 deep": (assemble(b'{"w":' + DEEP), "nests more than 32 levels"),
    "header 100,000 deep and closed": (assemble(b'{"w":' + DEEP + b"]" * 100_000 + b"}"), "nests more than 32 levels"),
    "header of a million empty lists": (assemble(b'{"w":[' + b"[]," * 600_000 + b"[]]}"), "'w' is "),
    "the same tensor twice": (
        assemble(b'{"w": %s, "w": %s}' % ((json.dumps(entry()).encode(),) * 2), bytes(16)),
        "the key 'w' more than once",
    ),
    "the same field twice": (
        assemble(b'{"w": {"dtype": "F32", "shape": [4], "shape": [4], "data_offsets": [0, 16]}}', bytes(16)),
        "the key 'shape' more than once",
    ),
    "200,000 keys, one of them twice": (
        assemble(("{" + ",".join(f'"{i % 199_999}":0' for i in range(200_000)) + "}").encode()),
        "the key '0' more than once",
    ),
    "NaN": (assemble(b'{"w": NaN}'), "NaN, which is not finite"),
    "1e999": (assemble(b'{"w": 1e999}'), "1e999, which is not finite"),
    "a number of 100,000 digits": (assemble(b'{"w": ' + b"9" * 100_000 + b"}"), "is not valid JSON"),
    "metadata not text": (assemble({"__metadata__": {"a": 1}}), "'__metadata__'"),
    "metadata a list": (assemble({"__metadata__": []}), "'__metadata__'"),
    "tensor a number": (assemble({"w": 1}), "'w' is 1, expected an object"),
    "tensor without a shape": (assemble({"w": {"dtype": "F32", "data_offsets": [0, 0]}}), "expected an object with"),
    "an unknown field": (assemble({"w": entry() | {"code": "x"}}, bytes(16)), "expected an object with"),
    "a tensor without a name": (assemble({"": entry()}, bytes(16)), "a name has 1 to 256"),
    "an escape sequence as a name": (assemble({"\x1b[2J": entry()}, bytes(16)), "no control characters"),
    "a lone surrogate as a name": (
        assemble(b'{"\\ud800": %s}' % json.dumps(entry()).encode(), bytes(16)),
        "a name has",
    ),
    "unknown dtype": (one(dtype="F33"), "unknown dtype 'F33'"),
    "a dtype that is no text": (one(dtype=32), "unknown dtype 32"),
    "a negative dimension": (one(shape=[-4]), r"shape is \[-4\]"),
    "a float dimension": (one(shape=[4.0]), r"shape is \[4.0\]"),
    "a bool dimension": (one(shape=[True, 4]), r"shape is \[True, 4\]"),
    "a dimension of 2^63": (one(shape=[2**63]), r"shape is \[9223372036854775808\]"),
    "a shape that is a number": (one(shape=4), "shape is 4"),
    "a product that wraps to 0": (one(shape=[2**32, 2**32]), "takes 73786976294838206464 bytes, but spans 16"),
    "a shape too large for its span": (one(shape=[5]), r"F32 \[5\], takes 20 bytes, but spans 16"),
    "a shape too small for its span": (one(shape=[3]), "takes 12 bytes, but spans 16"),
    "a dtype too small for its span": (one(dtype="BF16"), "takes 8 bytes, but spans 16"),
    "9 dimensions": (one(shape=[1] * 8 + [4]), "has 9 dimensions"),
    "offsets reversed": (one(offsets=[16, 0]), r"data_offsets is \[16, 0\]"),
    "offsets negative": (one(offsets=[-16, 0]), r"data_offsets is \[-16, 0\]"),
    "offsets float": (one(offsets=[0, 16.0]), r"data_offsets is \[0, 16.0\]"),
    "one offset": (one(offsets=[16]), r"data_offsets is \[16\]"),
    "three offsets": (one(offsets=[0, 8, 16]), r"data_offsets is \[0, 8, 16\]"),
    "offsets text": (one(offsets="ab"), "data_offsets is 'ab'"),
    "offsets past the end": (assemble({"w": entry(offsets=[0, 16])}, bytes(15)), "has 15 bytes of data"),
    "offsets far past the end": (one(offsets=[2**62, 2**62 + 16]), "leaves a gap after the header"),
    "data nobody owns": (assemble({"w": entry()}, bytes(17)), "has 17 bytes of data, but its tensors take 16"),
    "overlapping": (two((0, 16), (8, 24), 24), "'b' starts at data byte 8 and overlaps 'a'"),
    "the same bytes twice": (two((0, 16), (0, 16), 16), "overlaps 'a'"),
    "a gap": (two((0, 16), (24, 40), 40), "leaves a gap after 'a'"),
    "a gap in front": (assemble({"w": entry(offsets=[8, 24])}, bytes(24)), "leaves a gap after the header"),
}


@pytest.mark.parametrize("name", DAMAGED_FILES)
def test_damaged_safetensors_files_are_refused(tmp_path: Path, name: str) -> None:
    data, match = DAMAGED_FILES[name]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(data)
    assert_refused(tmp_path, FormatError, match)


@pytest.mark.parametrize("dtype", ["F64", "I64", "F8_E4M3", "BOOL"])
def test_dtypes_that_are_not_read_are_refused_by_name(tmp_path: Path, dtype: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(one(dtype=dtype))
    assert_refused(tmp_path, UnsupportedModel, f"'w' has the dtype '{dtype}'; those read are F32, F16, BF16")


def reads(path: Path, data: bytes) -> bool:
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.write(data)
        file.truncate()
    try:
        for tensor in read_safetensors(path).values():
            tensor.dequantize()
    except (FormatError, UnsupportedModel):
        return False
    return True


def small_file() -> bytes:
    header = {"__metadata__": {"format": "pt"}, "w": entry(), "h": entry("F16", [2, 2], [16, 24])}
    return assemble(header, bytes(24))


def test_truncation_at_every_byte(tmp_path: Path) -> None:
    data = small_file()
    assert reads(tmp_path / "cut.safetensors", data)
    for length in range(len(data)):
        assert not reads(tmp_path / "cut.safetensors", data[:length]), length


def test_every_flipped_bit_and_byte_of_the_header(tmp_path: Path) -> None:
    data = small_file()
    header_nbytes = len(data) - 24
    read = 0
    for position in range(header_nbytes):
        masks = range(1, 256) if position < 8 else (1, 2, 4, 8, 16, 32, 64, 128, 255)
        for mask in masks:
            flipped = bytearray(data)
            flipped[position] ^= mask
            read += reads(tmp_path / "flipped.safetensors", bytes(flipped))
    assert 0 < read < 0.2 * (8 * 255 + (header_nbytes - 8) * 9)


SHARD = "model-00001-of-00001.safetensors"


def index(folder: Path, weight_map: Any) -> None:
    (folder / "config.json").write_text("{}")
    write_safetensors(folder / SHARD, {"w": W})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    ("weight_map", "error", "match"),
    [
        ({"w": "../../etc/passwd"}, FormatError, "expected a file NAME.safetensors"),
        ({"w": "../../x.safetensors"}, FormatError, r"'\.\./\.\./x\.safetensors' is not the name of a file"),
        ({"w": "/etc/x.safetensors"}, FormatError, "is not the name of a file"),
        ({"w": "sub/x.safetensors"}, FormatError, "is not the name of a file"),
        ({"w": "a\\x.safetensors"}, FormatError, "is not the name of a file"),
        ({"w": "x\0.safetensors"}, FormatError, "is not the name of a file"),
        ({"w": "..safetensors.safetensors"}, FormatError, "is not the name of a file"),
        ({"w": "x" * 1_000_000 + ".safetensors"}, FormatError, "is not the name of a file"),
        ({"w": "missing.safetensors"}, ModelNotFound, "'missing.safetensors', which is missing beside it"),
        ({"w": 1}, FormatError, "the shard of 'w' is 1"),
        ({"w": SHARD, "x": SHARD}, FormatError, f"places 'x' in '{SHARD}', which does not hold it"),
        ({"x": SHARD}, FormatError, f"'{SHARD}' holds the tensor 'w', which"),
        ({}, FormatError, "no object 'weight_map'"),
        ([], FormatError, "no object 'weight_map'"),
        ({f"w{i}": f"{i}.safetensors" for i in range(30_000)}, ModelNotFound, "'0.safetensors', which is missing"),
    ],
)
def test_hostile_indexes(tmp_path: Path, weight_map: Any, error: type[PellucidError], match: str) -> None:
    index(tmp_path, weight_map)
    assert_refused(tmp_path, error, match)


def test_a_sound_index_for_comparison(tmp_path: Path) -> None:
    index(tmp_path, {"w": SHARD})
    assert list(open_checkpoint(tmp_path).tensors) == ["w"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"", "is empty"),
        (b"[]", "holds a JSON list"),
        (b"null", "holds a JSON NoneType"),
        (b"{", "'config.json' is not valid JSON"),
        (b'{"a": 1, "a": 2}', "the key 'a' more than once"),
        (b'{"a": Infinity}', "Infinity, which is not finite"),
        (b'{"a": ' + DEEP, "nests more than 32 levels"),
        (b'{"a": "' + b"x" * (2 << 20) + b'"}', "has 2097161 bytes; the limit"),
        (b"\xff\xfe{}", "is not UTF-8"),
        (b"\xef\xbb\xbf{}", "is not valid JSON"),
    ],
)
def test_hostile_configs(tmp_path: Path, text: bytes, match: str) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"w": W})
    (tmp_path / "config.json").write_bytes(text)
    assert_refused(tmp_path, FormatError, match)


def test_no_config(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"w": W})
    assert_refused(tmp_path, ModelNotFound, "has no config.json")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_only_a_pickle(tmp_path: Path, name: str) -> None:
    """The file would delete itself if anything unpickled it."""
    pickle = tmp_path / name
    pickle.write_bytes(b"cos\nremove\n(V" + str(pickle).encode() + b"\ntR.")
    (tmp_path / "config.json").write_text("{}")
    assert_refused(tmp_path, FormatError, f"'{name}' is a pickle, .* get the model as safetensors or GGUF")
    assert_refused(pickle, FormatError, "is a pickle")
    assert pickle.exists()


def test_nothing_there(tmp_path: Path) -> None:
    assert_refused(tmp_path, ModelNotFound, "holds no model")
    assert_refused(tmp_path / "absent.gguf", ModelNotFound, "no file or folder")
    assert_refused(tmp_path / "nul\0.gguf", ModelNotFound, "no file or folder")
    assert_refused(tmp_path / ("x" * 10_000), FormatError, "cannot be read")
    (tmp_path / "notes.txt").write_text("hello")
    assert_refused(tmp_path / "notes.txt", FormatError, "neither a .gguf nor a .safetensors file")


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.gguf")
    assert_refused(tmp_path / "model.gguf", FormatError, "not a regular file")
    os.mkfifo(tmp_path / "model.safetensors")
    (tmp_path / "model.gguf").unlink()
    assert_refused(tmp_path, ModelNotFound, "holds no model")


LINKS: dict[str, Callable[[Path], Path]] = {
    "config.json": lambda outside: outside / "config.json",
    "model.safetensors": lambda outside: outside / "model.safetensors",
}


@pytest.mark.parametrize("name", LINKS)
def test_links_out_of_the_folder(tmp_path: Path, name: str) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    for path in (outside, folder):
        path.mkdir()
        (path / "config.json").write_text("{}")
        write_safetensors(path / "model.safetensors", {"w": W})
    (folder / name).unlink()
    (folder / name).symlink_to(LINKS[name](outside))
    assert_refused(folder, FormatError, f"'{name}' is a link that leads out of the model folder")


@pytest.mark.parametrize("name", ["../x", "..", "/etc/passwd", "a/b", "%2e%2e%2fx", "x\0", "", "x" * 129, "é", "a b"])
def test_names_that_are_no_file_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match="is not the name of a file in the model folder"):
        inside(tmp_path, name)


def test_a_huge_tokenizer_is_not_handed_out(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    write_safetensors(tmp_path / "model.safetensors", {"w": W})
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(65 << 20)
    with open_checkpoint(tmp_path) as checkpoint, pytest.raises(FormatError, match=r"'tokenizer\.json' has more than"):
        checkpoint.folder_file("tokenizer.json")
