"""/v1/embeddings, /v1/score, /v1/rerank and /v1/classify: a model that reads instead of writing."""

from __future__ import annotations

import secrets
from collections.abc import Coroutine, Sequence
from time import time
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import Response

from pellucid.api import other_schemas as schemas
from pellucid.api.body import Body
from pellucid.api.openai_embeddings import EMBEDDINGS_PATH, embeddings_body, parse_embeddings
from pellucid.api.sampling_schema import Schema
from pellucid.errors import InvalidParameter
from pellucid.fields import show
from pellucid.server.bodies import read_object, without_unknown
from pellucid.server.boundary import call_of
from pellucid.server.generation import CHARS_PER_TOKEN, context_of
from pellucid.server.openapi import described
from pellucid.server.sse import json_response, until_disconnected
from pellucid.server.state import state_of

if TYPE_CHECKING:
    from pellucid.server.model_client import ModelClient

router = APIRouter()
T = TypeVar("T")


@router.post(
    EMBEDDINGS_PATH, **described("One vector for each text", schemas.EMBEDDINGS, answer=schemas.EMBEDDINGS_ANSWER)
)
async def embeddings(request: Request) -> Response:
    body = await _body(request, schemas.EMBEDDINGS)
    asked = parse_embeddings(body)
    client = state_of(request).registry.get(asked.model)
    vectors = await _read(request, client, len(asked.prompts), client.embed(asked.prompts, **asked.options))
    data, num_tokens = [vector.data for vector in vectors], sum(vector.num_tokens for vector in vectors)
    return json_response(embeddings_body(data, form=asked.form, model=client.name, num_tokens=num_tokens))


@router.post("/v1/score", **described("How alike a text is to others", schemas.SCORE, answer=schemas.SCORE_ANSWER))
async def score(request: Request) -> Response:
    body = await _body(request, schemas.SCORE)
    query, documents = body.filled_text("text_1"), body.texts("text_2")
    client = state_of(request).registry.get(body.optional_text("model"))
    scores = await _read(request, client, len(documents) + 1, client.score(query, documents, pooling=_pooling(body)))
    data = [{"index": i, "object": "score", "score": found.score} for i, found in enumerate(scores)]
    return json_response(
        {
            "id": f"score-{secrets.token_hex(12)}",
            "object": "list",
            "created": int(time()),
            "model": client.name,
            "data": data,
            "usage": _usage(scores),
        }
    )


@router.post(
    "/v1/rerank",
    **described("Documents in the order of their likeness to a query", schemas.RERANK, answer=schemas.RERANK_ANSWER),
)
async def rerank(request: Request) -> Response:
    body = await _body(request, schemas.RERANK)
    query = body.filled_text("query")
    documents = [_document(item, i) for i, item in enumerate(body.items("documents"))]
    most = body.integer("top_n", 1, len(documents)) if "top_n" in body else len(documents)
    with_text = body.boolean("return_documents", True)
    client = state_of(request).registry.get(body.optional_text("model"))
    scores = await _read(request, client, len(documents) + 1, client.score(query, documents, pooling=_pooling(body)))
    order = sorted(range(len(scores)), key=lambda i: -scores[i].score)[:most]
    results = [
        {
            "index": i,
            **({"document": {"text": documents[i]}} if with_text else {}),
            "relevance_score": scores[i].score,
        }
        for i in order
    ]
    return json_response(
        {
            "id": f"rerank-{secrets.token_hex(12)}",
            "model": client.name,
            "results": results,
            "usage": _usage(scores),
        }
    )


@router.post(
    "/v1/classify",
    **described("The most likely of some labels for each text", schemas.CLASSIFY, answer=schemas.CLASSIFY_ANSWER),
)
async def classify(request: Request) -> Response:
    body = await _body(request, schemas.CLASSIFY)
    texts, labels = body.texts("input"), body.texts("labels")
    options = {
        "template": body.optional_text("template"),
        "calibrate": _calibration(body),
        "explain": body.boolean("explain", False),
    }
    client = state_of(request).registry.get(body.optional_text("model"))
    found = await _read(request, client, len(texts) * len(labels), client.classify(texts, labels, **options))
    data = [
        {
            "index": i,
            "label": item.label,
            "probs": list(item.probabilities.values()),
            "probabilities": item.probabilities,
            "num_classes": len(item.probabilities),
            **({} if item.sentences is None else {"sentences": [_sentence(*pair) for pair in item.sentences]}),
        }
        for i, item in enumerate(found)
    ]
    return json_response(
        {
            "id": f"classify-{secrets.token_hex(12)}",
            "object": "list",
            "created": int(time()),
            "model": client.name,
            "data": data,
            "usage": _usage(found),
        }
    )


async def _body(request: Request, schema: Schema) -> Body:
    known = schema["properties"].keys()
    return Body(without_unknown(request, await read_object(request), known), known)


async def _read(request: Request, client: ModelClient, num_prompts: int, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which waits in the queue like any other."""
    num_tokens = min(call_of(request.scope).body_nbytes // CHARS_PER_TOKEN, num_prompts * context_of(client))
    try:
        call_of(request.scope).arrival.close()
        with state_of(request).admission.queue(num_tokens):
            return await until_disconnected(request.receive, work)
    finally:
        work.close()


def _pooling(body: Body) -> str:
    return body.one_of("pooling", schemas.POOLINGS, "mean")


def _calibration(body: Body) -> bool | list[str]:
    if isinstance(body.value("calibrate", True), bool):
        return body.boolean("calibrate", True)
    texts = body.items("calibrate")
    for text in texts:
        if not isinstance(text, str):
            raise InvalidParameter("calibrate", f"expected true, false or a list of texts, got {show(text)}")
    return texts


def _document(item: Any, i: int) -> str:
    text = item.get("text") if isinstance(item, dict) and item.keys() == {"text"} else item
    if not isinstance(text, str) or not text:
        raise InvalidParameter(f"documents[{i}]", f'expected text or {{"text": …}}, got {show(item)}')
    return text


def _sentence(text: str, contribution: float) -> dict[str, Any]:
    return {"text": text, "contribution": contribution}


def _usage(read: Sequence[Any]) -> dict[str, int]:
    total = sum(item.num_tokens for item in read)
    return {"prompt_tokens": total, "total_tokens": total}
