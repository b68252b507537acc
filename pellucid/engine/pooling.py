"""Embeddings: a text as one vector, made from the model's last hidden states; and how alike two texts are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from pellucid.engine.loader import LoadedModel
from pellucid.engine.outputs import ModelReceipt, Usage
from pellucid.engine.reading import Reader
from pellucid.engine.readout import Pooler, Pooling
from pellucid.engine.results import model_receipt
from pellucid.errors import InvalidParameter
from pellucid.fields import boolean, integer, show

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EmbeddingOutput:
    """`embedding` is [E], or [dimensions], and has length 1 if `normalize` was asked for.

    `prompt` is the text (None for token ids), `prompt_token_ids` what the model read.
    """

    embedding: Vector
    prompt: str | None
    prompt_token_ids: list[int]
    pooling: str
    normalize: bool
    dimensions: int | None
    usage: Usage
    receipt: ModelReceipt


@dataclass(frozen=True)
class ScoreOutput:
    """How alike the query and one document are: the cosine of the angle between their embeddings, -1 to 1."""

    score: float
    prompt_token_ids: list[int]  # the document's
    usage: Usage
    receipt: ModelReceipt


def embed(
    reader: Reader,
    model: LoadedModel,
    prompts: Sequence[tuple[str | None, Sequence[int]]],
    *,
    pooling: Pooling,
    normalize: bool,
    dimensions: int | None,
) -> list[EmbeddingOutput]:
    """Embed prompts, given as text and token ids. Raises InvalidParameter, ContextLengthExceeded, ExecutorError."""
    if pooling not in get_args(Pooling):
        raise InvalidParameter("pooling", f"expected one of {', '.join(get_args(Pooling))}, got {show(pooling)}")
    boolean("normalize", normalize)
    if dimensions is not None:
        dimensions = integer("dimensions", dimensions, 1, model.config.hidden_size)
    checked = [reader.engine.validate(token_ids) for _, token_ids in prompts]
    poolers = [Pooler(pooling, len(token_ids)) for token_ids in checked]
    requests = reader.read(zip(checked, poolers, strict=True))
    receipt = model_receipt(model)
    return [
        EmbeddingOutput(
            embedding=finished(pooler.vector, normalize, dimensions),
            prompt=text,
            prompt_token_ids=request.token_ids,
            pooling=pooling,
            normalize=normalize,
            dimensions=dimensions,
            usage=Usage(request.num_tokens, 0, request.num_tokens, request.num_cached_tokens),
            receipt=receipt,
        )
        for (text, _), request, pooler in zip(prompts, requests, poolers, strict=True)
    ]


def similarity(query: EmbeddingOutput, document: EmbeddingOutput) -> ScoreOutput:
    """The cosine of two normalised embeddings."""
    cosine = float(np.dot(query.embedding.astype(np.float64), document.embedding.astype(np.float64)))
    return ScoreOutput(max(-1.0, min(1.0, cosine)), document.prompt_token_ids, document.usage, document.receipt)


def finished(vector: npt.NDArray[np.float64], normalize: bool, dimensions: int | None) -> Vector:
    """Cut to its first `dimensions` and only then given length 1, as models trained for it expect (Kusupati et al.
    2022, "Matryoshka Representation Learning"). A vector of zeros stays one.
    """
    vector = vector[:dimensions]
    length = float(np.sqrt(np.sum(vector**2)))
    return (vector / length if normalize and length > 0 else vector).astype(np.float32)
