"""Names of files in a model folder: data, never a way out of it."""

from __future__ import annotations

import re
from pathlib import Path

from pellucid.errors import FormatError

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")


def inside(folder: Path, name: str) -> Path | None:
    """The regular file `name` directly in `folder`, or None if there is none.

    Raises FormatError for a name that is more than a plain file name, and for a link that leads out of the folder.
    A link into the `blobs` of a Hugging Face cache, where `folder` is one of its snapshots, leads to the same download.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise FormatError(
            f"{name[:80]!r} is not the name of a file in the model folder: a name has up to 128 letters, digits, '.', "
            "'_' and '-', and no '..'"
        )
    path = folder / name
    if not path.is_file():
        return None
    target, root = path.resolve(), folder.resolve()
    roots = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    if not any(target.is_relative_to(allowed) for allowed in roots):
        raise FormatError(f"{name!r} is a link that leads out of the model folder; put the file itself there")
    return path
