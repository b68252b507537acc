"""A model as it lies on disk: metadata, named tensors and the small files beside them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Container, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal

from pellucid.errors import FormatError, ModelNotFound
from pellucid.formats.finite import check_finite
from pellucid.formats.folder import inside
from pellucid.formats.gguf import SPLIT_NAME, read_gguf
from pellucid.formats.json_file import read_json_object
from pellucid.formats.qtensor import QTensor
from pellucid.formats.safetensors import read_safetensors, read_sharded_safetensors
from pellucid.formats.vocabulary import check_vocabulary

MAX_CONFIG_NBYTES = 1 << 20
MAX_FOLDER_FILE_NBYTES = 64 << 20  # Gemma 3's tokenizer.json has 33 MB
_SHARD_NAME = re.compile(r".+-\d{5}-of-\d{5}\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class Checkpoint:
    """What `open_checkpoint` found.

    `metadata` maps GGUF keys to Python values (see `read_gguf`), or is config.json's object. `tensors` are views of the
    mapped files and keep them mapped; they outlive `close()`.
    """

    def __init__(
        self,
        path: Path,
        format: Literal["gguf", "safetensors"],
        metadata: dict[str, Any],
        tensors: dict[str, QTensor],
    ) -> None:
        self.path = path
        self.format = format
        self.metadata = metadata
        self._tensors: dict[str, QTensor] | None = tensors

    @property
    def tensors(self) -> Mapping[str, QTensor]:
        if self._tensors is None:
            raise ValueError("the checkpoint is closed")
        return MappingProxyType(self._tensors)

    def folder_file(self, name: str) -> Path | None:
        """A file beside the weights, such as tokenizer.json, or None if there is none. A GGUF file has none.

        Raises FormatError for a name or link that leads out of the folder, and for a file above 64 MiB.
        """
        if self.format == "gguf":
            return None
        path = inside(self.path, name)
        if path is not None and path.stat().st_size > MAX_FOLDER_FILE_NBYTES:
            raise FormatError(
                f"{name!r} has more than {MAX_FOLDER_FILE_NBYTES} bytes, the limit for a file of this kind"
            )
        return path

    def check_finite(self, but: Container[str] = ()) -> None:
        """Raises FormatError if any weight is NaN or infinite. Reads the scales of all blocks: 20 ms for 100 MB.

        `but`: names of tensors that are checked where their bytes are read anyway.
        """
        for tensor in self.tensors.values():
            if tensor.name not in but:
                check_finite(tensor)

    def close(self) -> None:
        """Lets go of the tensors. A file is unmapped when no view of it is left, at once if nobody took one."""
        self._tensors = None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a .gguf file (any part of a split one), a .safetensors file (any shard), or a folder that holds either.

    Nothing but headers is read. No code of a model folder is ever run. Raises ModelNotFound, FormatError (damaged or
    hostile) or UnsupportedModel (sound, but not something Pellucid reads).
    """
    try:
        return _open_folder(path) if path.is_dir() else _open_file(path)
    except OSError as error:  # no permission, a name too long, a disk that fails
        raise FormatError(f"{path.name!r:.200} cannot be read: {error.strerror or error}") from error


def _open_file(path: Path) -> Checkpoint:
    if not path.exists():
        raise ModelNotFound(f"there is no file or folder {str(path)!r:.200}")
    if path.suffix == ".gguf":
        metadata, tensors = read_gguf(path)
        check_vocabulary(metadata)
        return Checkpoint(path, "gguf", metadata, tensors)
    if path.suffix == ".safetensors":
        if _SHARD_NAME.fullmatch(path.name):
            return _open_folder(path.parent)
        return Checkpoint(path.parent, "safetensors", _read_config(path.parent), read_safetensors(path))
    if path.suffix in _PICKLES:
        raise _pickle_error(path.name)
    raise FormatError(f"{path.name!r} is neither a .gguf nor a .safetensors file")


def _open_folder(folder: Path) -> Checkpoint:
    if (single := inside(folder, "model.safetensors")) is not None:
        return Checkpoint(folder, "safetensors", _read_config(folder), read_safetensors(single))
    if (index := inside(folder, "model.safetensors.index.json")) is not None:
        return Checkpoint(folder, "safetensors", _read_config(folder), read_sharded_safetensors(index))
    names = sorted(entry.name for entry in folder.iterdir())
    gguf = [name for name in names if name.endswith(".gguf")]
    models = [name for name in gguf if (part := SPLIT_NAME.fullmatch(name)) is None or part[2] == "00001"]
    if len(models) > 1:
        raise ModelNotFound(f"{str(folder)!r} holds several models: name one of {', '.join(map(repr, models[:8]))}")
    if gguf:
        return _open_file(folder / (models or gguf)[0])
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        raise _pickle_error(pickles[0])
    raise ModelNotFound(
        f"{str(folder)!r} holds no model: expected a .gguf file, model.safetensors or model.safetensors.index.json"
    )


def _pickle_error(name: str) -> FormatError:
    return FormatError(
        f"{name!r} is a pickle, which can run any code when it is loaded, so Pellucid never reads one; "
        "get the model as safetensors or GGUF, or convert it with its publisher's tools"
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = inside(folder, "config.json")
    if path is None:
        raise ModelNotFound(f"{str(folder)!r} has no config.json, which says what the tensors are")
    config = read_json_object(path, MAX_CONFIG_NBYTES)
    if "auto_map" in config:
        warnings.warn(
            "config.json names code of the model folder under 'auto_map'; Pellucid never runs it and ignores the key",
            stacklevel=3,
        )
    return config
