"""Small vocabularies for tests, and stand-ins for a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.text.byte_level import BYTE_OF_CHAR
from pellucid.text.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BYTES = sorted(BYTE_OF_CHAR, key=BYTE_OF_CHAR.__getitem__)  # the 256 byte-level characters, by byte
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld", "Ġ Ġ", "1 2"]
CHATML = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]


class Gguf:
    format = "gguf"

    def __init__(self, metadata: dict[str, Any]) -> None:
        self.metadata = metadata


class Folder:
    format = "safetensors"

    def __init__(self, path: Path, config: dict[str, Any] | None = None, **files: Any) -> None:
        self.path = path
        self.metadata = config or {}
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (path / name.replace("__", ".")).write_text(text, "utf-8")

    def folder_file(self, name: str) -> Path | None:
        path = self.path / name
        return path if path.is_file() else None


def byte_level_metadata(
    *, special: list[str] = CHATML, user_defined: tuple[str, ...] = (), **changes: Any
) -> dict[str, Any]:
    """`tokenizer.ggml.` keys: 256 bytes, a few merges, then special and user-defined tokens. None removes a key."""
    tokens = [*BYTES, *(merge.replace(" ", "") for merge in MERGES), *special, *user_defined]
    num_normal = len(tokens) - len(special) - len(user_defined)
    ggml: dict[str, Any] = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": np.array(
            [NORMAL] * num_normal + [CONTROL] * len(special) + [USER_DEFINED] * len(user_defined), np.int32
        ),
        "merges": list(MERGES),
        "bos_token_id": num_normal,
        "eos_token_id": num_normal + 1,
    }
    return finished(ggml, changes)


def sentencepiece_metadata(pieces: list[tuple[str, float, int]], **changes: Any) -> dict[str, Any]:
    """<unk> <s> </s>, the 256 byte tokens, then `pieces` as (text, score, kind)."""
    rows = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    rows += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)] + pieces
    ggml = {
        "model": "llama",
        "tokens": [text for text, _, _ in rows],
        "scores": np.array([score for _, score, _ in rows], np.float32),
        "token_type": np.array([kind for _, _, kind in rows], np.int32),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    return finished(ggml, changes)


def finished(ggml: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    ggml |= changes
    template = ggml.pop("chat_template", None)
    metadata = {f"tokenizer.ggml.{name}": value for name, value in ggml.items() if value is not None}
    return metadata | ({} if template is None else {"tokenizer.chat_template": template})


def from_gguf(metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_checkpoint(Gguf(metadata))  # type: ignore[arg-type]


def chatml_tokenizer(*special: str) -> Tokenizer:
    return from_gguf(byte_level_metadata(special=[*CHATML, *special]))
