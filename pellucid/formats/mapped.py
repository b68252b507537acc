"""A file as read-only bytes, without reading it."""

from __future__ import annotations

import mmap
import stat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pellucid.errors import FormatError, ModelNotFound


def map_file(path: Path) -> mmap.mmap:
    """The whole file, memory-mapped read-only.

    The mapping ends when the last object that refers to it does (views of tensors hold it), so nobody closes it.
    Only regular files are mapped: opening a FIFO would wait for ever. Raises ModelNotFound or FormatError.
    """
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise FormatError(f"{path.name!r} is not a regular file")
        if info.st_size == 0:
            raise FormatError(f"{path.name!r} is empty; download it again")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise ModelNotFound(f"there is no file {str(path)!r}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or the file was emptied meanwhile
        raise FormatError(f"{path.name!r} cannot be read: {error}") from error


def is_mapped(view: npt.NDArray[np.uint8]) -> bool:
    """Whether the bytes are a mapped file's, so that their memory may be given back: they can be read again."""
    owner: object = view
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    return isinstance(owner, mmap.mmap)
