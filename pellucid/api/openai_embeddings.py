"""OpenAI's embeddings, asked for and answered. Source: OpenAI API reference, "Create embeddings"."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pellucid.api.body import Body
from pellucid.api.other_schemas import POOLINGS
from pellucid.errors import InvalidParameter

EMBEDDINGS_PATH = "/v1/embeddings"


@dataclass(frozen=True)
class EmbeddingsRequest:
    """`form` is "float" or "base64"; the rest is what `LLM.embed` takes."""

    model: str | None
    prompts: list[Any]
    form: str
    pooling: Any
    normalize: bool
    dimensions: int | None

    @property
    def options(self) -> dict[str, Any]:
        return {"pooling": self.pooling, "normalize": self.normalize, "dimensions": self.dimensions}


def parse_embeddings(body: Body) -> EmbeddingsRequest:
    """Raises InvalidParameter, which names the field."""
    prompts = body.prompts("input")
    if not all(prompts):
        raise InvalidParameter("input", "expected texts and lists of token ids that are not empty")
    body.optional_text("user")
    return EmbeddingsRequest(
        model=body.optional_text("model"),
        prompts=prompts,
        form=body.one_of("encoding_format", ("float", "base64"), "float"),
        pooling=body.one_of("pooling", POOLINGS, "mean"),
        normalize=body.boolean("normalize", True),
        dimensions=body.integer("dimensions", 1, 2**20),
    )


def embeddings_body(vectors: Sequence[bytes], *, form: str, model: str, num_tokens: int) -> dict[str, Any]:
    """`vectors`: 32-bit floats in little-endian order."""
    data = [
        {"object": "embedding", "index": i, "embedding": _floats(vector) if form == "float" else _base64(vector)}
        for i, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _floats(vector: bytes) -> list[float]:
    values = array("f", vector)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()


def _base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode()
