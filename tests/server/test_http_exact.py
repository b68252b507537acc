"""Answers through the server, at random load and beside hostile requests, are those of offline single runs: token for
token, and log-probability bit for bit."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.running_app import head
from support.server import Server

from pellucid import LLM, SamplingParams
from pellucid.api.openai_requests import parse_request
from pellucid.api.openai_responses import response_body
from pellucid.api.openai_schemas import COMPLETIONS

NUM_REQUESTS = 40
HOSTILE: list[tuple[str, bytes]] = [
    (COMPLETIONS, b"[" * 200_000),
    (COMPLETIONS, b'{"prompt": "a", "n": 1000000000000000000}'),
    (COMPLETIONS, b'{"prompt": [999999], "max_tokens": 1}'),
    (COMPLETIONS, b'{"prompt": [-1], "max_tokens": 1}'),
    (COMPLETIONS, b'{"prompt": "a", "logit_bias": {"999999": 1}}'),
    (COMPLETIONS, b'{"prompt": "a", "temperature": NaN}'),
    (COMPLETIONS, b'{"prompt": "' + b"word " * 200_000 + b'"}'),
    (COMPLETIONS, b'{"prompt": "a", "max_tokens": 4, "structured_outputs": {"regex": "(a+)+$"}}'),
    (COMPLETIONS, b'{"prompt": "a", "structured_outputs": {"regex": "a{1000000}"}}'),
    (COMPLETIONS, b'{"prompt": "a", "structured_outputs": {"json": {"$ref": "file:///etc/passwd"}}}'),
    (COMPLETIONS, b'{"prompt": "a", "stop": ["\\ud800"]}'),
    ("/v1/embeddings", b'{"input": [[999999]]}'),
    ("/v1/classify", b'{"input": "a", "labels": ["x", "x"]}'),
    ("/detokenize", b'{"tokens": [999999]}'),
    ("/tokenize", b'{"messages": [{"role": "user", "content": "a"}]}'),
    ("/v1/models/..%2f..%2fetc%2fpasswd", b"{}"),
]


def random_body(rng: random.Random) -> dict[str, Any]:
    words = ["Once", " upon", " a", " time", " the", " dog", " and", " Lily", " said"]
    body: dict[str, Any] = {
        "prompt": "".join(rng.choices(words, k=rng.randint(1, 60))),
        "max_tokens": rng.randint(1, 60),
        "seed": rng.randrange(2**64),
        "temperature": rng.choice([0, 0.7, 1.2]),
        "logprobs": rng.choice([0, 3]),
    }
    optional = {"top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1, "n": 2, "stop": ["."], "cache_salt": "s"}
    for name in rng.sample(sorted(optional), k=rng.randint(0, 3)):
        body[name] = optional[name]
    return body


@pytest.fixture(scope="module")
def bodies() -> list[dict[str, Any]]:
    rng = random.Random(5)
    return [random_body(rng) for _ in range(NUM_REQUESTS)]


@pytest.fixture(scope="module")
def expected(bodies: list[dict[str, Any]], story_path: Path) -> list[Any]:
    with LLM(str(story_path)) as llm:
        choices = []
        for body in bodies:
            asked = parse_request(COMPLETIONS, body)
            results = llm.generate(asked.prompts, asked.params, progress=False)
            choices.append(response_body(COMPLETIONS, results, key="", model="", created=0)["choices"])
        return choices


def test_answers_are_those_of_single_runs(
    story_server: Server, bodies: list[dict[str, Any]], expected: list[Any]
) -> None:
    async def ask(client: httpx.AsyncClient, body: dict[str, Any], delay: float) -> Any:
        await asyncio.sleep(delay)
        answer = await client.post(f"{story_server.url}{COMPLETIONS}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"]

    async def harm(client: httpx.AsyncClient, path: str, body: bytes, delay: float) -> int:
        await asyncio.sleep(delay)
        headers = {"content-type": "application/json"}
        answer = await client.post(f"{story_server.url}{path}", content=body, headers=headers)
        assert "Traceback" not in answer.text
        return answer.status_code

    async def hang_up(delay: float) -> None:
        await asyncio.sleep(delay)
        url = httpx.URL(story_server.url)
        _, writer = await asyncio.open_connection(url.host, url.port)
        body = b'{"prompt": "Once", "max_tokens": 200, "stream": true}'
        writer.write(head(length=len(body)) + body)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()

    async def crowd() -> tuple[list[Any], list[int]]:
        rng = random.Random(6)
        async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=100)) as client:
            answers = asyncio.gather(*(ask(client, body, rng.random()) for body in bodies))
            harms = asyncio.gather(*(harm(client, path, body, rng.random()) for path, body in HOSTILE))
            hang_ups = asyncio.gather(*(hang_up(rng.random()) for _ in range(10)))
            found = await answers, await harms
            await hang_ups
            return found

    answers, statuses = asyncio.run(crowd())
    assert answers == expected
    for (path, body), status in zip(HOSTILE, statuses, strict=True):
        assert 400 <= status < 500 or b"(a+)+" in body, (path, body[:60], status)


def test_echo_has_the_logprobs_of_the_library(story_server: Server, story_path: Path) -> None:
    params = SamplingParams(max_tokens=4, temperature=0, logprobs=2, prompt_logprobs=2, echo=True)
    with LLM(str(story_path), max_model_len=256) as llm:
        for prompt in ("Once upon a time, a\u0301 \U0001f600 dog", [10, 11, 12]):
            (result,) = llm.generate([prompt], params)
            body = {"prompt": prompt, "max_tokens": 4, "temperature": 0, "logprobs": 2, "echo": True}
            (choice,) = httpx.post(f"{story_server.url}{COMPLETIONS}", json=body).json()["choices"]
            assert choice["text"] == result.text
            found = choice["logprobs"]
            prompt_logprobs = result.prompt_logprobs or []
            expected = [p and next(iter(p.values())) for p in [*prompt_logprobs, *(result.logprobs or [])]]
            assert found["token_logprobs"] == [e and e.logprob for e in expected]
            assert found["tokens"][1:] == [e.decoded_token for e in expected if e is not None]
            assert len(found["top_logprobs"]) == len(found["tokens"])
            for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
                assert choice["text"][offset:].startswith(token) or "\ufffd" in token or token == " " or token[0] == "<"
            assert found["text_offset"][-1] == choice["text"].rfind(found["tokens"][-1])
